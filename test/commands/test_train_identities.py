"""``dpr-text train`` with passages or questions that share ids, texts or tokens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from test.commands.training import SMALL, TINY_SET, fail_train, read_metrics, rewrite_rows, run_train

pytestmark = [pytest.mark.filterwarnings("ignore:.*LeafSpec.*")]
POOLS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
ZERO_WIDTH = "\u200b\u200e"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a copy of the tiny set that a test may change."""
    return Path(shutil.copytree(TINY_SET, tmp_path / "data"))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """Return a folder with a BERT vocabulary, which has no tokens for zero-width characters."""
    words = {word for line in (TINY_SET / "train.jsonl").read_text().lower().split('"') for word in line.split()}
    (tmp_path / "bert").mkdir()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(vocab) + "\n")
    return tmp_path / "bert"


def rename_passages(row: dict[str, Any], name: str | None) -> dict[str, Any]:
    """Give all passages of a row the id ``name``, or their position in the pool if it is None."""
    for pool in POOLS:
        for place, passage in enumerate(row[pool]):
            passage["passage_id"] = str(place) if name is None else name
    return row


@pytest.mark.parametrize("name", ["0", None])
@pytest.mark.parametrize("stage", ["train", "valid", "test"])
def test_an_id_of_two_passages_is_refused_before_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str | None, stage: str
) -> None:
    rewrite_rows(data / f"{stage}.jsonl", lambda row: rename_passages(row, name))
    code, line = fail_train(capsys, f"--data_path={data}", f"--output_dir={tmp_path}/run", "--max_epochs=1")
    assert code == 3
    assert line.count(f"{data}/{stage}.jsonl:1 (byte 0)") == 2
    assert ("placeholder" in line) is (name is not None)
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_one_text_under_different_titles_has_a_loss(data: Path, tmp_path: Path) -> None:
    def move_texts(row: dict[str, Any]) -> dict[str, Any]:
        for passage in (passage for pool in POOLS for passage in row[pool]):
            passage |= {"title": f"{passage['title']}: {passage['text'][:200]}", "text": "See the article."}
        return row

    for stage in ("train", "valid", "test"):
        rewrite_rows(data / f"{stage}.jsonl", move_texts)
    assert run_train(f"--data_path={data}", f"--output_dir={tmp_path}/run", "--max_epochs=1", *SMALL) == 0
    rows = read_metrics(tmp_path / "run")
    assert all(float(row["train_loss_epoch"]) > 0.1 for row in rows if row.get("train_loss_epoch"))
    # Each of the ten questions has a different positive.
    assert all(float(row["valid_pool_passages"]) > 10 for row in rows if row.get("valid_pool_passages"))


@pytest.mark.parametrize("batch_size", [3, 5])
def test_a_question_without_tokens_is_left_out_for_any_batch_size(
    data: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_size: int
) -> None:
    hide = iter([ZERO_WIDTH])
    rewrite_rows(data / "train.jsonl", lambda row: row | {"question": next(hide, row["question"])})
    flags = [f"--data_path={data}", f"--tokenizer={bert}", f"--batch_size={batch_size}", "--max_epochs=1", *SMALL]
    code, line = fail_train(capsys, *flags, f"--output_dir={tmp_path}/refused")
    assert code == 3 and f"{data}/train.jsonl:1 (byte 0) question" in line
    assert run_train(*flags, f"--output_dir={tmp_path}/run", "--max_skipped=0.1") == 0
    assert f"{data}/train.jsonl:1 (byte 0)" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "run")
    assert {row["train_questions_left_out"] for row in rows if row.get("train_questions_left_out")} == {"0.0"}
    [last] = [int(row["step"]) for row in rows if row.get("train_loss_epoch")]
    assert last + 1 == -(-9 // batch_size)
