"""crop.py: rows by passage, crops after them, twice the same, and what it refuses."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest

from examples.dpr.cli import run
from examples.dpr.crop import CropConfig, main
from text.datasets import DPRDataPipe

TEXTS = ["the mole had been working very hard all the morning", "the river was a full-bodied animal", "a toad sang"]


def write_rows(path: Path) -> list[dict]:
    """Seven rows on three passages, mixed, and a blank line."""
    rows = [
        {
            "question": f"question {number}",
            "answers": ["yew"],
            "positive_ctxs": [{"passage_id": f"p{number % 3}", "title": "willows", "text": TEXTS[number % 3]}],
            "hard_negative_ctxs": [{"passage_id": f"n{number}", "title": "", "text": f"an oak {number}"}],
            "difficulty": number,
        }
        for number in range(7)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return rows


def test_rows_of_one_passage_and_then_its_crops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    flags = [f"--rows={tmp_path}/rows.jsonl", "--num=3"]
    for name in ("a", "b"):
        assert run(main, CropConfig, [*flags, f"--output={tmp_path}/{name}.jsonl"]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert "a.jsonl: 7 rows, 9 crops of 3 passages" in capsys.readouterr().out
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    groups = [list(group) for _, group in groupby(found, key=lambda row: row["positive_ctxs"][0]["text"])]
    assert [group[0]["positive_ctxs"][0]["text"] for group in groups] == sorted(TEXTS)
    for group in groups:
        old, crops = group[:-3], group[-3:]
        assert old == [row for row in rows if row["positive_ctxs"] == group[0]["positive_ctxs"]]
        words = set(group[0]["positive_ctxs"][0]["text"].split())
        for crop in crops:
            assert set(crop["question"].split()) <= words and crop["positive_ctxs"] == group[0]["positive_ctxs"]
            assert not crop["hard_negative_ctxs"] and not crop["answers"]
    other = [*flags, "--seed=1", f"--output={tmp_path}/c.jsonl"]
    assert run(main, CropConfig, other) == 0
    assert (tmp_path / "c.jsonl").read_bytes() != (tmp_path / "a.jsonl").read_bytes()


def test_both_kinds_of_rows_train_together(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    flags = [f"--rows={tmp_path}/rows.jsonl", f"--output={tmp_path}/more.jsonl", "--num=2"]
    assert run(main, CropConfig, flags) == 0
    pipe = DPRDataPipe(str(tmp_path / "more.jsonl"), 13, train=True, num_hard_negatives=1)
    (batch,) = list(pipe)
    assert sorted(len(example.hard_negatives) for example in batch) == 6 * [0] + 7 * [1]


def test_rows_that_name_passages_of_a_collection(tmp_path: Path) -> None:
    lines = [json.dumps({"_id": f"p{n}", "title": "willows", "text": text}) for n, text in enumerate(TEXTS)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "q", "positive_ids": ["p1"], "hard_negative_ids": []}))
    flags = [f"--rows={tmp_path}/rows.jsonl", f"--collection={tmp_path}/c.jsonl", f"--output={tmp_path}/more.jsonl"]
    assert run(main, CropConfig, [*flags, "--num=1"]) == 0
    _, crop = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert crop["positive_ctxs"] == [{"passage_id": "p1", "title": "willows", "text": TEXTS[1]}]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows=r"], "expected --rows and --output"),
        (["--rows=r", "--output=o", "--num=0"], "--num is 0; expected at least 1"),
    ],
)
def test_flags_that_cannot_be_meant(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, CropConfig, flags) == 2
    assert message in capsys.readouterr().err
