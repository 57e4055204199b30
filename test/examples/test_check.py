"""The page before a long run: each thing that hurts a data set, planted and found."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.dpr import check
from examples.dpr.cli import run
from test.datasets.helpers import context, record, records, write_jsonl

ROOT = Path(__file__).parents[2]
SQUAD = ROOT.parent / "shared" / "data" / "squad_w100"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for stage in ("train", "valid", "test"):
        write_jsonl(tmp_path / f"{stage}.jsonl", [record(f"{stage} {i}") for i in range(4)])
    return tmp_path


def page(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, list[str]], str, str]:
    """Exit code, the lines of the page by name, all of it, and what stands on stderr."""
    picture = folder / "lengths.png"
    code = run(check.main, check.CheckConfig, [f"--data_path={folder}", f"--picture={picture}", *flags])
    printed = capsys.readouterr()
    lines = (re.split(r" {2,}", line.strip()) for line in printed.out.splitlines())
    return code, {name: values for name, *values in lines}, printed.out, printed.err


def test_clean_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, out, err = page(folder, capsys)
    assert (code, err) == (0, "")
    assert lines["questions"][-1] == "0.00%"  # of the lengths, which come last
    assert "train" in out and "note:" not in out
    assert len(out.splitlines()) < 40  # one page
    assert (folder / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_planted_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    code, lines, out, _ = page(folder, capsys, "--max_skipped=0.5", "--batch_size=11")
    assert code == 0
    assert lines["the same question again"] == ["1", "0", "0"]
    assert lines["rows left out: no positive_ctxs"] == ["1", "0", "0"]
    assert lines["hard_negative_ctxs that are positives, left out"] == ["1", "0", "0"]
    assert lines["hard_negative_ctxs without text, left out"] == ["1", "0", "0"]
    assert lines["rows with fewer hard_negative_ctxs than asked for"] == ["1", "0", "0"]
    assert lines["positives"] == ["0", "1", "0"]
    assert "note: 1 questions of test are in train, too" in out
    # 11 positives and 10 hard negatives, of which one positive is cut at 256 tokens.
    assert lines["passages"][-2:] == ["256", f"{1 / 21:.2%}"]


def test_expected_false_negatives_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = context("both")
    train = [
        record("a", positive_ctxs=[shared], answers=["apple pie"], hard=0),
        record("b", positive_ctxs=[shared], answers=[], hard=0),
        record("c", positive_ctxs=[{"text": "An Apple-pie, sliced."}], answers=["ample"], hard=0),
    ]
    write_jsonl(folder / "train.jsonl", train)
    _, lines, out, _ = page(folder, capsys, "--batch_size=3")
    # a and b each meet the other's copy of their positive; a also meets the passage of c, which holds its answer.
    assert lines["passages known to answer another question, which do not count as its negatives"] == ["2.00"]
    assert lines["passages that hold an answer to another question, and count as its negatives"] == ["1.00"]
    assert "each compared with 3 passages; the loss is 1.10 when all look alike" in out
    assert "note: no question of train has a hard negative" in out


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (records(4, hard=0), ["--batch_size=1"], "the loss is constant 0"),
        ([record("a"), record(question=1)], [], "question: a number; expected a string"),
        ([record("a", positives=0)], [], "no positive_ctxs; in all 1 of 1 rows"),
    ],
)
def test_what_cannot_train_exits_with_3(
    folder: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], flags: list[str], message: str
) -> None:
    write_jsonl(folder / "train.jsonl", rows)
    code, _, _, err = page(folder, capsys, *flags)
    assert code == 3
    assert message in err
    assert len(err.splitlines()) == 1


def test_f4_split_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "valid.jsonl").unlink()
    code, _, _, err = page(folder, capsys)
    assert (code, "valid.jsonl: no such file or directory" in err) == (2, True)


@pytest.mark.slow
def test_real_data_as_a_command(tmp_path: Path) -> None:
    if not SQUAD.exists():
        pytest.skip(f"{SQUAD} is not there: it belongs to others and is not in the repository")
    for stage, name in (("train", "dev"), ("valid", "dev"), ("test", "test")):
        shutil.copy(SQUAD / f"{name}.jsonl.gz", tmp_path / f"{stage}.jsonl.gz")  # what is made of it lies beside it
    done = subprocess.run(
        [sys.executable, "examples/dpr/check.py", f"--data_path={tmp_path}", f"--picture={tmp_path}/lengths.png"],
        cwd=ROOT,
        env={"PYTHONPATH": ".", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: 951 questions of valid are in train, too" in done.stdout


def test_f7_the_picture_takes_no_file_of_the_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "train.jsonl").read_bytes()
    flags = [f"--data_path={folder}", f"--picture={folder}/train.jsonl"]
    assert run(check.main, check.CheckConfig, flags) == 2
    assert "train.jsonl is read, too; expected an output of its own" in capsys.readouterr().err
    assert (folder / "train.jsonl").read_bytes() == before
