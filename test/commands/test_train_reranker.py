"""``dpr-text train --task=rerank`` on the tiny data set: the model, exact resume, and refused flags."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from test.commands.training import fail_train, read_metrics, run_train
from test.models.towers import save_tower
from text.records import Passage
from text.reranker import Reranker

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
]
SMALL = (
    "--task=rerank",
    "--vocab_size=300",
    "--batch_size=4",
    "--pair_max_length=48",
    "--eval_hard_negatives=2",
    "--eval_other_negatives=0",
    "--logger=csv",
)


def test_a_run_writes_a_reranker_with_card_report_and_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run_train(*SMALL, "--max_epochs=2", f"--output_dir={folder}") == 0
    printed = capsys.readouterr().out
    assert "a new head with random weights" in printed and f"model: {folder / 'model'}" in printed
    reranker = Reranker.load(folder / "model")
    assert reranker.max_length == 48
    scores = reranker.score(["who", "who"], [Passage("1", "a", "b"), Passage("2", "", "c d")])
    assert np.isfinite(scores).all()
    assert "Reranker.load" in (folder / "model/README.md").read_text()
    assert (folder / "report.html").stat().st_size > 1000
    rows = read_metrics(folder)
    assert all(0 < float(row["valid_mrr@10"]) <= 1 for row in rows if row.get("valid_mrr@10"))
    assert any(row.get("test_mrr@10") for row in rows)
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"model/model.safetensors", "model/reranker.json", "model/README.md"} <= set(listed)
    # The run claims its files, so that another run can replace them.
    assert run_train(*SMALL, "--max_epochs=1", f"--output_dir={folder}", "--overwrite") == 0


@pytest.mark.slow
def test_a_resumed_run_leaves_the_same_model(tmp_path: Path) -> None:
    flags = (*SMALL, "--max_epochs=2", "--learning_rate=1e-3", "--schedule=constant")
    assert run_train(*flags, f"--output_dir={tmp_path / 'whole'}") == 0
    short = tuple(each for each in flags if each != "--max_epochs=2")
    assert run_train(*short, "--max_epochs=1", f"--output_dir={tmp_path / 'resumed'}") == 0
    assert run_train(*flags, f"--output_dir={tmp_path / 'resumed'}", "--resume") == 0
    for name in ("model/model.safetensors", "model/reranker.json", "model/config.json", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["BERT", "DistilBERT"])
def test_training_continues_from_a_saved_model(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tower(family, tmp_path / "encoder")
    flags = [each for each in SMALL if not each.startswith("--vocab")]
    assert (
        run_train(*flags, "--max_epochs=1", f"--encoder={tmp_path / 'encoder'}", f"--output_dir={tmp_path / 'a'}") == 0
    )
    assert "no classification head. A new head starts from random weights." in capsys.readouterr().out
    model = tmp_path / "a/model"
    assert run_train(*flags, "--max_epochs=1", f"--encoder={model}", f"--output_dir={tmp_path / 'b'}") == 0
    assert "no classification head" not in capsys.readouterr().out
    first, second = (Reranker.load(each) for each in (model, tmp_path / "b/model"))
    assert first.has_token_types == second.has_token_types and first.identity != second.identity


@pytest.mark.parametrize(
    "flag",
    [
        *("--in_batch_negatives=false", "--symmetric", "--matryoshka_dims=[8]", "--tied", "--similarity=cosine"),
        *("--temperature=2", "--token_cache", "--chunk_tokens=100", "--pooling=mean", "--projection_dim=8"),
        *("--normalize", "--question_max_length=20", "--passage_max_length=20", "--question_prompt=q", "--titles=pair"),
        *("--num_positives=2", "--freeze_question", "--freeze_passage"),
    ],
)
def test_a_flag_of_bi_encoders_is_refused_by_name(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fail_train(capsys, "--task=rerank", flag, f"--output_dir={tmp_path / 'run'}")
    assert code == 2 and flag.partition("=")[0] in line and "--task=rerank" in line
    assert not (tmp_path / "run").exists()


def test_flags_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"--output_dir={tmp_path / 'run'}"
    code, line = fail_train(capsys, "--pair_max_length=40", output)
    assert code == 2 and "--task=rerank" in line
    for flag, name, code in (
        ("--pair_max_length=600", "--pair_max_length is 600", 2),
        ("--num_hard_negatives=0", "", 3),
    ):
        flags = [each for each in SMALL if not each.startswith("--pair")]
        found, line = fail_train(capsys, *flags, flag, output)
        assert found == code and name in line
