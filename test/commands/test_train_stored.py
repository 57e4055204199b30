"""``dpr-text train`` with stored embeddings: students of a teacher, and question encoders for existing embeddings."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from test.commands.training import TINY_SET, fail_train, read_metrics, rewrite_rows, run_train
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.search import SearchFlags, search
from text.retrieval import EmbeddingShards, Retriever

Capture = pytest.CaptureFixture[str]
FEW = ("--eval_hard_negatives=2", "--eval_other_negatives=0", "--dropout=0")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode:UserWarning"),  # a frozen encoder
]
FROZEN = ("--freeze_passage",)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, a collection, and the embeddings of its passages and questions."""
    folder = tmp_path_factory.mktemp("teacher")
    flags = [f"--output_dir={folder}/run", "--max_epochs=1", "--vocab_size=300", "--passage_max_length=40"]
    assert run_train(*flags, "--question_max_length=16", *FEW) == 0
    shutil.move(folder / "run/model", folder / "model")
    rows = [json.loads(line) for path in TINY_SET.glob("*.jsonl") for line in path.read_text().splitlines()]
    pools = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
    passages = {each["passage_id"]: each for row in rows for pool in pools for each in row[pool]}
    lines = [json.dumps({"_id": name, "title": each["title"], "text": each["text"]}) for name, each in passages.items()]
    (folder / "corpus.jsonl").write_text("".join(line + "\n" for line in lines))
    common = [f"--model={folder}/model", "--dtype=float32"]
    collection = [*common, f"--collection={folder}/corpus.jsonl", f"--output_dir={folder}/passages"]
    assert run_command(encode, EncodeFlags, collection) == 0
    files = sorted(map(str, TINY_SET.glob("*.jsonl")))
    assert run_command(encode, EncodeFlags, [*common, "--questions", *files, f"--output_dir={folder}/questions"]) == 0
    return folder


def list_teacher_flags(teacher: Path, weight: float = 1.0) -> list[str]:
    folders = [f"--teacher_passages={teacher}/passages", f"--teacher_questions={teacher}/questions"]
    return [f"--encoder={teacher}/model", *folders, f"--embedding_distillation={weight}", *FEW]


def read_side(model: Path, side: str) -> dict[str, bytes]:
    folder = model / f"{side}_encoder"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_student_that_equals_the_teacher_has_no_loss(teacher: Path, tmp_path: Path) -> None:
    rate = "--learning_rate=1e-12"
    assert run_train(*list_teacher_flags(teacher), rate, f"--output_dir={tmp_path}/run", "--max_epochs=1") == 0
    losses = [
        float(row[name])
        for row in read_metrics(tmp_path / "run")
        for name in ("train_loss_step", "valid_loss", "test_loss")
        if row.get(name)
    ]
    assert len(losses) > 2 and max(losses) < 1e-6


@pytest.mark.slow
def test_the_distance_of_a_smaller_student_falls(teacher: Path, tmp_path: Path) -> None:
    flags = [*list_teacher_flags(teacher), "--keep_layers=[1]", "--learning_rate=3e-4", "--monitor=valid_loss"]
    assert run_train(*flags, f"--output_dir={tmp_path}/run", "--max_epochs=8", "--validate_first") == 0
    losses = [float(row["valid_loss"]) for row in read_metrics(tmp_path / "run") if row["valid_loss"]]
    assert losses[-1] < 0.7 * losses[0]
    for side in ("question", "passage"):
        config = json.loads((tmp_path / f"run/model/{side}_encoder/config.json").read_text())
        assert config["num_hidden_layers"] == 1


def test_a_frozen_passage_side_is_kept_and_searches_the_embeddings(teacher: Path, tmp_path: Path) -> None:
    flags = [f"--encoder={teacher}/model", *FROZEN, f"--frozen_passages={teacher}/passages", *FEW]
    assert run_train(*flags, f"--output_dir={tmp_path}/run", "--max_epochs=1", "--keep_layers=[0]") == 0
    model = tmp_path / "run/model"
    assert read_side(model, "passage") == read_side(teacher / "model", "passage")
    assert json.loads(read_side(model, "question")["config.json"])["num_hidden_layers"] == 1
    found, before = (Retriever.from_pretrained(each, teacher / "passages") for each in (model, teacher / "model"))
    asked = ["which swedish chemist discovered lithium"]
    assert found.search(asked)[0].scores != before.search(asked)[0].scores
    questions = [f"--questions={TINY_SET}/test.jsonl", f"--run={tmp_path}/r.trec", f"--embeddings={teacher}/passages"]
    assert run_command(search, SearchFlags, [f"--model={model}", *questions]) == 0
    record = json.loads((tmp_path / "r.trec.json").read_text())["searches"][0]
    assert any(name.startswith("question_encoder/") for name in record["model_files"])
    assert record["model_files"] != EmbeddingShards(teacher / "passages").plan.model


@pytest.mark.slow
def test_frozen_passages_give_the_loss_of_encoded_passages(teacher: Path, tmp_path: Path) -> None:
    """Without dropout, a frozen encoder gives the stored embeddings up to rounding."""
    flags = [f"--encoder={teacher}/model", *FROZEN, *FEW, "--max_epochs=1", "--log_every_n_steps=1"]
    for name, more in (("stored", [f"--frozen_passages={teacher}/passages"]), ("encoded", [])):
        assert run_train(*flags, *more, f"--output_dir={tmp_path}/{name}") == 0
    weights = [
        load_file(tmp_path / name / "model/question_encoder/model.safetensors") for name in ("stored", "encoded")
    ]
    # The gradients of key biases are zero up to rounding, and AdamW divides them by their size.
    some = [{key: value for key, value in each.items() if "key.bias" not in key} for each in weights]
    torch.testing.assert_close(*some, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_resumed_run_gives_the_weights_of_an_undisturbed_one(teacher: Path, tmp_path: Path) -> None:
    flags = [f"--encoder={teacher}/model", *FROZEN, "--schedule=constant", "--learning_rate=1e-3", *FEW[:2]]
    flags += [f"--teacher_questions={teacher}/questions", "--embedding_distillation=0.5"]
    frozen = f"--frozen_passages={teacher}/passages"
    assert run_train(*flags, frozen, f"--output_dir={tmp_path}/whole", "--max_epochs=2") == 0
    assert run_train(*flags, frozen, f"--output_dir={tmp_path}/run", "--max_epochs=1") == 0
    shutil.copytree(teacher / "passages", tmp_path / "copy/passages")  # The folder may move.
    frozen = f"--frozen_passages={tmp_path}/copy/passages"
    assert run_train(*flags, frozen, f"--output_dir={tmp_path}/run", "--max_epochs=2", "--resume") == 0
    assert read_side(tmp_path / "run/model", "question") == read_side(tmp_path / "whole/model", "question")


@pytest.mark.slow
def test_resuming_with_other_embeddings_is_refused(teacher: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = [*list_teacher_flags(teacher), f"--output_dir={tmp_path}/run"]
    assert run_train(*flags, "--max_epochs=1") == 0
    other = [f"--model={teacher}/model", f"--collection={teacher}/corpus.jsonl", "--dtype=float16"]
    assert run_command(encode, EncodeFlags, [*other, f"--output_dir={tmp_path}/other"]) == 0
    changed = [f"--teacher_passages={tmp_path}/other" if "--teacher_passages" in flag else flag for flag in flags]
    code, line = fail_train(capsys, *changed, "--max_epochs=2", "--resume")
    assert code == 5 and "fingerprint of the training data" in line


def test_questions_and_passages_of_two_models_are_refused(teacher: Path, tmp_path: Path, capsys: Capture) -> None:
    """The passage encoder alone has files of the model, but its embeddings of questions are others."""
    questions = ["--questions", *sorted(map(str, TINY_SET.glob("*.jsonl"))), "--dtype=float32"]
    alone = [f"--model={teacher}/model/passage_encoder", *questions, f"--output_dir={tmp_path}/questions"]
    assert run_command(encode, EncodeFlags, alone) == 0
    mixed = [f"--teacher_questions={tmp_path}/questions", "--embedding_distillation=0.5", *FEW]
    mixed += [f"--encoder={teacher}/model", f"--output_dir={tmp_path}/run"]
    for passages in ([f"--teacher_passages={teacher}/passages"], [*FROZEN, f"--frozen_passages={teacher}/passages"]):
        code, line = fail_train(capsys, *mixed, *passages)
        assert code == 5 and f"{tmp_path}/questions: " in line and f"{teacher}/passages" in line
        assert "question_encoder/" in line


def test_missing_texts_are_errors_with_their_places(teacher: Path, tmp_path: Path, capsys: Capture) -> None:
    data = Path(shutil.copytree(TINY_SET, tmp_path / "data"))
    flags = [*list_teacher_flags(teacher), f"--data_path={data}", f"--output_dir={tmp_path}/run"]

    def rename(row: dict[str, Any]) -> dict[str, Any]:
        row["hard_negative_ctxs"][0]["passage_id"] = f"unknown {row['question']}"
        return row

    rewrite_rows(data / "valid.jsonl", rename)
    code, line = fail_train(capsys, *flags)
    assert (
        code == 3 and f"{data}/valid.jsonl:1 " in line and "passage unknown " in line and f"{teacher}/passages" in line
    )
    rewrite_rows(data / "train.jsonl", lambda row: row | {"question": row["question"] + "?"})
    code, line = fail_train(capsys, *flags)
    assert code == 3 and f"{data}/train.jsonl:1 " in line and f"{teacher}/questions" in line
    assert not (tmp_path / "run/config.yaml").exists()


@pytest.mark.slow
def test_other_texts_with_the_same_id_are_counted(teacher: Path, tmp_path: Path, capsys: Capture) -> None:
    lines = (teacher / "corpus.jsonl").read_text().splitlines()
    changed = json.dumps(json.loads(lines[0]) | {"text": "other"})
    (tmp_path / "corpus.jsonl").write_text("\n".join([changed, *lines[1:]]))
    folders = [f"--collection={tmp_path}/corpus.jsonl", f"--output_dir={tmp_path}/passages"]
    assert run_command(encode, EncodeFlags, [f"--model={teacher}/model", *folders]) == 0
    flags = [f"--encoder={teacher}/model", *FROZEN, f"--frozen_passages={tmp_path}/passages", *FEW]
    assert run_train(*flags, f"--output_dir={tmp_path}/run", "--fast_dev_run") == 0
    told = rf"^{re.escape(str(tmp_path))}/passages: [1-9]\d* of \d+ passages in rows have another title or text"
    assert re.search(told, capsys.readouterr().out, flags=re.MULTILINE)


@pytest.mark.slow
def test_widths_and_models_that_do_not_fit_are_refused(teacher: Path, tmp_path: Path, capsys: Capture) -> None:
    output = f"--output_dir={tmp_path}/run"
    code, line = fail_train(capsys, *list_teacher_flags(teacher), output, "--projection_dim=32")
    assert code == 5 and "128 dimensions, but the model has 32" in line
    other = Path(shutil.copytree(teacher / "model", tmp_path / "other"))
    assert run_train(f"--encoder={other}", f"--output_dir={tmp_path}/more", "--max_epochs=1", *FEW) == 0
    frozen = [*FROZEN, f"--frozen_passages={teacher}/passages", *FEW, output]
    code, line = fail_train(capsys, f"--encoder={tmp_path}/more/model", *frozen)
    assert code == 5 and f"{teacher}/passages" in line and "model.safetensors" in line
    flags = [flag.replace(f"{teacher}/passages", f"{teacher}/questions") for flag in list_teacher_flags(teacher)]
    code, line = fail_train(capsys, *flags, output)
    assert code == 5 and "questions, not of passages" in line


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--teacher_passages=p"], ["--embedding_distillation", "--teacher_passages"]),
        (["--embedding_distillation=0.5"], ["--embedding_distillation", "--teacher_questions"]),
        (["--frozen_passages=p"], ["--frozen_passages", "--freeze_passage"]),
        (["--frozen_passages=p", *FROZEN, "--titles=join"], ["--frozen_passages", "--titles"]),
        (["--teacher_passages=p", *FROZEN, "--embedding_distillation=1"], ["--teacher_passages", "--freeze_passage"]),
        (["--teacher_questions=q", "--freeze_question", "--embedding_distillation=1"], ["--freeze_question"]),
        (["--teacher_questions=q", "--token_cache", "--embedding_distillation=1"], ["--token_cache"]),
        (["--keep_layers=[0]", "--lora_rank=4"], ["--keep_layers", "--lora_rank"]),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(flags: list[str], parts: list[str], capsys: Capture) -> None:
    code, line = fail_train(capsys, *flags)
    assert code == 2 and all(part in line for part in parts)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--collection", "--questions"]),
        (["--questions=q", "--collection=c"], ["--collection", "--questions"]),
        (["--questions=q", "--titles=join"], ["--titles", "--questions"]),
        (["--questions=q", "--gpus=2"], ["--gpus", "--questions"]),
    ],
)
def test_flags_of_encode_that_do_not_fit_together_are_refused(
    flags: list[str], parts: list[str], capsys: Capture
) -> None:
    assert run_command(encode, EncodeFlags, ["--model=m", "--output_dir=e", *flags]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert all(part in line for part in parts)
