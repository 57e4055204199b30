"""Tests of unusable rows: their reasons, their places in errors, and the limit of their share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from test.helpers import drop_fields, parse_place, record, records, write_jsonl
from text.datasets import DPRDataPipe, describe_split, open_splits
from text.datasets.skipping import SkippedRow
from text.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def get_error_message(path: Path, **options: Any) -> str:
    with pytest.raises(DataError, match=r"^.*$") as caught:  # The message is one line.
        DPRDataPipe(path, 2, **options)
    return str(caught.value)


def list_places(message: str, path: Path) -> list[tuple[int, str]]:
    """Return line and field of each row that an error lists."""
    found = re.findall(rf"{re.escape(str(path))}:(\d+) \(byte \d+\)(?: (\S+))?: ", message)
    return [(int(line), field) for line, field in found]


FAULTS = [
    drop_fields(record("a"), "question"),
    record("b", positive_ctxs=[{"text": [7]}]),
    record("c", positives=0),
    record("d", positive_ctxs=[{"title": "only a title", "text": None}]),
    record("e", positive_ctxs=[{"title": "a", "text": "b", "passage_id": [1]}]),
    record("f", hard_negative_ctxs=["a text"]),
    record("g", negative_ctxs=[{"text": "a"}, {"text": "b", "title": False}]),
    record("h", answers={"a": 1}),
]
KINDS = [
    ("question: missing", "question"),
    ("positive_ctxs.text: a list", "positive_ctxs[0].text"),
    ("no positive_ctxs", ""),
    ("no positive_ctxs with text", ""),
    ("positive_ctxs.passage_id: a list", "positive_ctxs[0].passage_id"),
    ("hard_negative_ctxs: a string", "hard_negative_ctxs[0]"),
    ("negative_ctxs.title: a boolean", "negative_ctxs[1].title"),
    ("answers: an object", "answers"),
]


@pytest.mark.parametrize("train", [True, False])
def test_faults_make_their_rows_unusable(path: Path, train: bool) -> None:
    write_jsonl(path, [*FAULTS, *records(8)])
    pipe = DPRDataPipe(path, 4, train=train, max_skipped=0.5)
    assert [(row.reason, row.field) for row in pipe.skipped] == KINDS
    assert [row.line for row in pipe.skipped] == list(range(1, 9))
    assert sorted(example.question for batch in pipe for example in batch) == [f"q{i}" for i in range(8)]


def test_all_faults_are_listed_at_once(path: Path) -> None:
    write_jsonl(path, [*FAULTS, *records(8)])
    message = get_error_message(path, train=True, max_skipped=0.49)
    assert list_places(message, path) == [(1, "question")] + [
        (line, field) for line, (_, field) in enumerate(KINDS[1:], start=2)
    ]
    assert "8 of 16 rows" in message and "49.000%" in message and "max_skipped" in message
    assert all(f"1 {kind}" in message for kind, _ in KINDS)


@pytest.mark.parametrize(("num_bad", "others"), [(20, ""), (23, "; and 3 more.")])
def test_first_twenty_rows_are_listed(path: Path, num_bad: int, others: str) -> None:
    write_jsonl(path, [record("q", title=i, positives=0) for i in range(num_bad)] + records(2))
    message = get_error_message(path)
    assert list_places(message, path) == [(line, "") for line in range(1, 21)]
    assert others in message and f"{num_bad} no positive_ctxs" in message and "skip_no_positives" in message


def test_faults_of_several_files_are_listed(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [record(name), record(True)]) for name in "ab"]
    with pytest.raises(DataError) as caught:
        DPRDataPipe(paths, 2)
    for each in paths:
        assert list_places(str(caught.value), each) == [(2, "question")]


def test_blank_questions_in_evaluation_are_listed_at_once(path: Path) -> None:
    write_jsonl(path, [record("a"), record(" "), record(positives=0), record("\t")])
    assert list_places(get_error_message(path, max_skipped=1), path) == [(2, "question"), (4, "question")]
    assert DPRDataPipe(path, 2, train=True, max_skipped=1).num_rows == 1


def test_error_lists_the_keys_of_the_row_once(path: Path) -> None:
    write_jsonl(path, [{"query": "q", "pos": ["a"]}] * 3)
    message = get_error_message(path, max_skipped=1)
    assert parse_place(message, path) == (1, 0, "question")
    assert message.count("query, pos") == 1  # Listed once, although three rows lack the key.


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_key_that_all_rows_lack_is_reported_once_with_the_other_keys(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"triplets{suffix}"
    rows = [{"anchor": f"q{i}", "positive": "a", "negative": "b"} for i in range(30)]
    lines = "\n".join(map(json.dumps, rows))
    path.write_text(lines if suffix == ".jsonl" else json.dumps(rows))
    message = get_error_message(path)
    assert [field for _, field in list_places(message, path)] == ["question"]
    for part in ("all 30 rows", "anchor, positive, negative", "docs/from/sentence-transformers.md"):
        assert part in message
    assert (Path(__file__).parents[2] / "docs/from/sentence-transformers.md").exists()
    # If one row has the key, the other rows are listed as faulty.
    write_jsonl(tmp_path / "rows.jsonl", [record("q"), *rows[:3]])
    assert len(list_places(get_error_message(tmp_path / "rows.jsonl"), tmp_path / "rows.jsonl")) == 3


def test_score_that_all_passages_lack_is_reported_once(path: Path) -> None:
    write_jsonl(path, records(5))
    message = get_error_message(path, train=True, score_key="teacher")
    assert "all 5 rows" in message and list_places(message, path) == [(1, "positive_ctxs[0].teacher")]
    assert "sentence-transformers" not in message


# Rows without a positive, as in FAIR's trivia-train


TRIVIA = [
    record("a", positives=0),
    *records(5),
    drop_fields(record("b"), "positive_ctxs"),
    record("c", positive_ctxs=None),
]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("indent", [None, 4])
def test_rows_without_a_positive_can_be_skipped(tmp_path: Path, train: bool, indent: int | None) -> None:
    path = tmp_path / "trivia.json"
    path.write_text(json.dumps(TRIVIA, indent=indent))
    get_error_message(path)
    pipe = DPRDataPipe(path, 2, train=train, max_skipped=0, skip_no_positives=True)
    assert sorted(example.question for batch in pipe for example in batch) == [f"q{i}" for i in range(5)]
    assert (pipe.num_rows, pipe.skipped, pipe.counts) == (5, [], {"rows without a positive, left out": 3})
    assert "5 questions, 0 rows skipped (3 rows without a positive, left out)" in describe_split("train", pipe)


def test_only_other_rows_count_towards_max_skipped(path: Path) -> None:
    # Six rows remain, and one of them has no positive with text.
    write_jsonl(path, [*TRIVIA, record("d", positive_ctxs=[{"title": "t", "text": None}])])
    message = get_error_message(path, max_skipped=0.1, skip_no_positives=True)
    assert "1 of 6 rows" in message and list_places(message, path) == [(9, "")]
    assert "skip_no_positives" not in message
    assert DPRDataPipe(path, 2, max_skipped=0.2, skip_no_positives=True).num_rows == 5


def test_file_without_any_positive_is_refused(path: Path) -> None:
    write_jsonl(path, [record("a", positives=0)])
    assert str(path) in get_error_message(path, skip_no_positives=True)


def test_rows_without_a_positive_are_skipped_in_every_split(tmp_path: Path) -> None:
    files = {stage: [str(write_jsonl(tmp_path / f"{stage}.jsonl", TRIVIA))] for stage in ("train", "valid", "test")}
    pipes = open_splits(files, batch_size=2, skip_no_positives=True)
    assert [pipe.num_rows for pipe in pipes.values()] == [5, 5, 5]


# Places in an array


def test_skipped_rows_of_an_array_have_their_places_in_the_original_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    content = json.dumps([*records(3), record("x", answers=[1, False]), record("y", positives=0)], indent=2)
    path.write_text(content)
    pipe = DPRDataPipe(path, 2, train=True, max_skipped=1)

    def find_place(byte: int) -> tuple[int, int]:
        return content.count("\n", 0, byte) + 1, byte

    assert pipe.skipped == [
        SkippedRow(str(path), *find_place(content.index("false")), "answers: a boolean", "answers[1]", "Give a string"),
        SkippedRow(str(path), *find_place(content.rindex('{\n    "question"')), "no positive_ctxs"),
    ]
    starts = [match.start() for match in re.finditer(r'\{\s+"question"', content)]
    assert pipe.find_lines(0, 0) == [
        (str(path), find_place(starts[int(example.question[1])])[0]) for example in next(iter(pipe))
    ]
