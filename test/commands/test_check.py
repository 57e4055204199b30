"""``dpr-text check`` finds each fault that is planted in a data set."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from test.helpers import context, record, records, write_jsonl
from text.commands.check import CheckFlags, check
from text.commands.cli import run_command

ROOT = Path(__file__).parents[2]
SQUAD = ROOT.parent / "shared" / "data" / "squad_w100"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for stage in ("train", "valid", "test"):
        write_jsonl(tmp_path / f"{stage}.jsonl", [record(f"{stage} {i}") for i in range(4)])
    return tmp_path


def run_check(
    folder: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> tuple[int, dict[str, list[str]], str, str]:
    """Return the exit code, the values of each line by name, stdout and stderr."""
    picture = folder / "lengths.png"
    code = run_command(check, CheckFlags, [f"--data_path={folder}", f"--picture={picture}", *flags])
    printed = capsys.readouterr()
    lines = (re.split(r" {2,}", line.strip()) for line in printed.out.splitlines())
    return code, {name: values for name, *values in lines}, printed.out, printed.err


def test_clean_data_has_no_remarks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, out, err = run_check(folder, capsys)
    assert (code, err) == (0, "")
    assert lines["questions"][-1] == "0.00%"  # the last line of this name is about lengths
    assert "train" in out and "note:" not in out
    assert len(out.splitlines()) < 40  # one page
    assert (folder / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_rows_without_a_positive_are_left_out_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(folder / "test.jsonl", [*records(3), record("none", positives=0)])
    code, _, _, err = run_check(folder, capsys)
    assert code == 3 and f"{folder}/test.jsonl:4 " in err and "skip_no_positives" in err
    code, lines, _, _ = run_check(folder, capsys, "--skip_no_positives")
    assert code == 0 and lines["rows without a positive, left out"] == ["0", "0", "1"]


def test_planted_faults_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = [
        *(record(f"train {i}") for i in range(6)),
        record("TRAIN  0"),
        record("test 1"),  # a question and a positive of test
        record("a", hard_negative_ctxs=[context("a+0"), {"text": " "}, context("x")]),
        record("b", hard=0),
        record("none", positives=0),
        record("long", positive_ctxs=[{"title": "t", "text": "word " * 300}]),
    ]
    write_jsonl(folder / "train.jsonl", train)
    code, lines, out, _ = run_check(folder, capsys, "--max_skipped=0.5", "--batch_size=11")
    assert code == 0
    assert lines["repeated questions"] == ["1", "0", "0"]
    assert lines["rows left out: no positive_ctxs"] == ["1", "0", "0"]
    assert lines["hard_negative_ctxs that are positives, left out"] == ["1", "0", "0"]
    assert lines["hard_negative_ctxs without text, left out"] == ["1", "0", "0"]
    assert lines["rows with fewer hard_negative_ctxs than asked for"] == ["1", "0", "0"]
    assert lines["positives"] == ["0", "1", "0"]
    assert "note: 1 questions of test are also in train" in out
    assert "note: 1 positives of test (25%) are also positives in train" in out
    assert "positives of valid" not in out
    # One of 11 positives and 10 hard negatives is truncated at 256 tokens.
    assert lines["passages"][-2:] == ["256", f"{1 / 21:.2%}"]


def test_rows_that_a_search_refuses_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(folder / "train.jsonl", [record(f"train {i}", qid="same") for i in range(4)])
    code, _, out, _ = run_check(folder, capsys)
    [note] = [line for line in out.splitlines() if line.startswith("note:")]
    assert code == 0 and f"{path}:2 " in note and f"{path}:1 " in note and '"same"' in note


def test_false_negatives_of_a_batch_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = context("both")
    train = [
        record("a", positive_ctxs=[shared], answers=["apple pie"], hard=0),
        record("b", positive_ctxs=[shared], answers=[], hard=0),
        record("c", positive_ctxs=[{"text": "An Apple pie, sliced."}], answers=["ample"], hard=0),
    ]
    write_jsonl(folder / "train.jsonl", train)
    _, lines, out, _ = run_check(folder, capsys, "--batch_size=3")
    # a and b share a positive. The passage of c also contains the answer of a.
    assert lines["known positives of other questions, excluded from the negatives"] == ["2.00"]
    assert lines["other negatives that contain an answer (possible false negatives)"] == ["1.00"]
    assert "each compared with 3 passages; the loss is 1.10 if all scores are equal" in out
    assert "note: no question of train has a hard negative" in out


@pytest.mark.parametrize("placeholder", ["0", "None", 0])
def test_placeholder_ids_exit_with_3(folder: Path, capsys: pytest.CaptureFixture[str], placeholder: Any) -> None:
    pools = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
    rows = records(4)
    for passage in (each for row in rows for name in pools for each in row[name]):
        passage["passage_id"] = placeholder
    write_jsonl(folder / "train.jsonl", rows)
    code, _, out, err = run_check(folder, capsys)
    assert (code, out) == (3, "")
    assert err.count(f"{folder}/train.jsonl:") == 2 and "placeholder" in err


def test_an_id_with_two_texts_in_two_splits_exits_with_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("train", "test"):
        write_jsonl(
            folder / f"{stage}.jsonl",
            [record(f"{stage} {i}", positive_ctxs=[make_numbered_passage(stage, i)]) for i in range(4)],
        )
    code, _, _, err = run_check(folder, capsys)
    assert code == 3
    assert f"{folder}/train.jsonl:1 (byte 0) positive_ctxs[0]" in err and f"{folder}/test.jsonl:1 (byte 0)" in err


def make_numbered_passage(stage: str, number: int) -> dict[str, str]:
    """Return a passage whose id counts from 0 in each file."""
    return {"text": f"passage {number} of {stage}", "passage_id": str(number)}


def test_a_text_without_tokens_is_found_with_the_tokenizer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "train", "valid", "test"]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(vocab) + "\n")
    rows = [*(record(f"train {i}") for i in range(4)), record("\u200b\u200e")]
    write_jsonl(folder / "train.jsonl", rows)
    code, lines, _, _ = run_check(folder, capsys, f"--tokenizer={tmp_path}/bert", "--max_skipped=0.5")
    assert code == 0
    assert lines["rows left out: question: no tokens"] == ["1", "0", "0"]
    code, _, _, err = run_check(folder, capsys, f"--tokenizer={tmp_path}/bert")
    assert code == 3
    assert f"{folder}/train.jsonl:5 " in err


def test_negatives_without_tokens_are_reported_with_their_place(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    hard = [{"text": "\u200b"}, context("x")]
    write_jsonl(folder / "train.jsonl", [record("train 0"), record("train 1", hard_negative_ctxs=hard)])
    code, lines, out, _ = run_check(folder, capsys, f"--tokenizer={tmp_path}/bert")
    assert code == 0 and lines["negatives without tokens, left out"] == ["1", "0", "0"]
    [note] = [line for line in out.splitlines() if line.startswith("note: ") and "without tokens" in line]
    assert f"{folder}/train.jsonl:2 (byte " in note


def test_rows_that_name_passages_of_a_collection(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "passages.tsv").write_text("id\ttext\ttitle\n1\tan oak\tOak\n2\tan elm\tElm\n")
    for stage in ("train", "valid", "test"):
        compact = {"question": f"{stage} q", "positive_ids": ["1"], "hard_negative_ids": ["2"]}
        write_jsonl(folder / f"{stage}.jsonl", [compact, {**compact, "question": f"{stage} r"}])
    code, lines, _, _ = run_check(folder, capsys, f"--collection={folder}/passages.tsv", "--batch_size=2")
    assert code == 0
    assert lines["positives"] == ["1", "1", "1"]  # the same passage answers every question
    assert lines["known positives of other questions, excluded from the negatives"] == ["2.00"]


@pytest.mark.parametrize(
    ("rows", "flags", "place"),
    [
        (records(4, hard=0), ["--batch_size=1"], "train.jsonl"),
        ([record("a"), record(question=True)], [], "train.jsonl:2"),
        ([record("a", positives=0)], [], "train.jsonl:1"),
    ],
)
def test_data_that_cannot_train_exits_with_3(
    folder: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], flags: list[str], place: str
) -> None:
    write_jsonl(folder / "train.jsonl", rows)
    code, _, _, err = run_check(folder, capsys, *flags)
    assert code == 3
    assert f"{folder}/{place}" in err
    assert len(err.splitlines()) == 1


def test_missing_splits_are_reported_and_training_data_is_required(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("valid", "test"):
        (folder / f"{name}.jsonl").rename(folder / f"{name}ation.jsonl")
    code, _, out, _ = run_check(folder, capsys)
    assert code == 0
    assert out.splitlines()[0] == f"train data: {folder}/train.jsonl"
    for line in out.splitlines()[1:3]:
        assert "validation.jsonl" in line
    (folder / "train.jsonl").unlink()
    code, _, _, err = run_check(folder, capsys)
    assert code == 2
    assert str(folder) in err and "train.jsonl" in err


@pytest.mark.parametrize(
    "name",
    ["batch_size", "num_hard_negatives", "num_sampled", "question_max_length", "passage_max_length", "max_skipped"],
)
def test_flag_below_its_range_exits_with_2(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, _, out, err = run_check(folder, capsys, f"--{name}=-1")
    assert (code, out) == (2, "")
    assert f"{name} is -1" in err


def test_data_path_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(check, CheckFlags, []) == 2
    assert "data_path" in capsys.readouterr().err


def test_picture_does_not_replace_a_file_of_the_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "train.jsonl").read_bytes()
    flags = [f"--data_path={folder}", f"--picture={folder}/train.jsonl"]
    assert run_command(check, CheckFlags, flags) == 2
    assert f"{folder}/train.jsonl" in capsys.readouterr().err
    assert (folder / "train.jsonl").read_bytes() == before


@pytest.mark.slow
def test_real_data_in_a_process(tmp_path: Path) -> None:
    if not SQUAD.exists():
        pytest.skip(f"{SQUAD} is not there: it is not part of the repository")
    for stage, name in (("train", "dev"), ("valid", "dev"), ("test", "test")):
        shutil.copy(SQUAD / f"{name}.jsonl.gz", tmp_path / f"{stage}.jsonl.gz")  # indexes are written next to the files
    done = subprocess.run(
        [sys.executable, "-m", "text", "check", f"--data_path={tmp_path}", f"--picture={tmp_path}/lengths.png"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: 951 questions of valid are also in train" in done.stdout
