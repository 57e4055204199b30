"""Scores of teachers in rows: full and compact rows, training's reader, refusals, and interrupted commands."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from test.helpers import parse_place, write_collection
from text.datasets import DPRDataPipe, PassageCollection
from text.errors import ArtifactError, DataError, UsageError
from text.evaluation.score_source import TeacherRecord, read_score_source
from text.records import Passage
from text.retrieval import row_scores
from text.retrieval.kept_scores import keep_scores
from text.retrieval.row_scores import score_rows

TEXTS = {"p1": "a toad sang", "p2": "an oak fell", "p3": "the king slept", "p4": "snow on the hill"}


class LengthTeacher:
    """A teacher that scores a pair by the lengths of its texts, and counts its calls."""

    def __init__(self, identity: str = "a", fail_at: int | None = None) -> None:
        self.record = TeacherRecord("reranker", "folder", identity, {})
        self.num_calls, self._fail_at = 0, fail_at

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        if self.num_calls == self._fail_at:
            raise KeyboardInterrupt
        self.num_calls += 1
        return np.array([score_pair(*pair) for pair in zip(questions, passages, strict=True)], dtype=np.float32)


def score_pair(question: str, passage: Passage) -> float:
    return len(question) - len(passage.text) / 7


def write_lines(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    return path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) if line.strip() else {} for line in path.read_text().splitlines()]


FULL = {
    "question": "who sang",
    "answers": ["toad"],
    "more": {"kept": [1, 2.5]},
    "positive_ctxs": [{"text": "a toad sang", "title": "t"}, None],
    "hard_negative_ctxs": [{"text": "an oak fell"}, {"text": " "}],
    "negative_ctxs": [{"text": "rain"}],
}
COMPACT = {"question": "who sang", "positive_ids": ["p1"], "hard_negative_ids": ["p2", None, "p3"]}


@pytest.fixture
def collection(tmp_path: Path) -> PassageCollection:
    return write_collection(tmp_path / "corpus.jsonl", list(TEXTS), list(TEXTS.values()))


def test_scores_by_hand(tmp_path: Path) -> None:
    lines = [FULL, "", {"question": "no positive", "positive_ctxs": []}]
    rows = write_lines(tmp_path / "rows.jsonl", lines)
    counts = score_rows(rows, tmp_path / "out.jsonl", LengthTeacher())
    assert (counts.rows, counts.passages, counts.unusable.total()) == (1, 3, 1)
    first, blank, unusable = read_lines(tmp_path / "out.jsonl")
    assert (blank, unusable, first["more"]) == ({}, lines[2], FULL["more"])
    # The question has 8 letters, the texts have 11, 11 and 4 letters.
    assert first["positive_ctxs"] == [{**FULL["positive_ctxs"][0], "teacher_score": 6.428571}, None]
    assert first["hard_negative_ctxs"] == [{"text": "an oak fell", "teacher_score": 6.428571}, {"text": " "}]
    assert first["negative_ctxs"] == [{"text": "rain", "teacher_score": 7.428571}]
    source = read_score_source(tmp_path / "out.jsonl")
    assert source is not None and source.teachers == {"teacher_score": LengthTeacher().record}


@pytest.mark.parametrize("is_compact", [False, True])
def test_training_reads_the_scores(tmp_path: Path, collection: PassageCollection, is_compact: bool) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", [COMPACT if is_compact else FULL] * 3)
    passages = collection if is_compact else None
    score_rows(rows, tmp_path / "out.jsonl", LengthTeacher(), collection=passages, score_key="s")
    path = str(tmp_path / "out.jsonl")
    pipe = DPRDataPipe(path, 3, train=True, num_hard_negatives=1, score_key="s", passages=passages)
    found = [
        (passage, example.question)
        for batch in pipe
        for example in batch
        for passage in [*example.positives, *example.hard_negatives]
    ]
    assert len(found) == 6
    for passage, question in found:
        assert passage.score == pytest.approx(score_pair(question, passage), rel=1e-6)


def test_scores_of_a_compact_row_that_are_wrong_are_named(tmp_path: Path, collection: PassageCollection) -> None:
    tables = [None, [1.0], {"positive_ids": [1.0], "hard_negative_ids": [1.0]}, {"positive_ids": ["a"]}]
    rows = [COMPACT | {"s": table} for table in tables] + [
        COMPACT | {"s": {"positive_ids": [1], "hard_negative_ids": [2, None, 3]}}
    ]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    pipe = DPRDataPipe(str(path), 1, train=True, score_key="s", passages=collection, max_skipped=1)
    reasons = [row.reason for row in pipe.skipped]
    assert pipe.num_rows == 1 and len(reasons) == 4
    assert all(name in reason for name, reason in zip(["s: ", "s: ", "s.hard_negative_ids", "s"], reasons, strict=True))


def test_compressed_rows_give_the_same_scores(tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", [FULL, FULL])
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        score_rows(tmp_path / name, tmp_path / f"{name}.out", LengthTeacher())
    assert (tmp_path / "rows.jsonl.out").read_bytes() == (tmp_path / "rows.jsonl.gz.out").read_bytes()


def test_scores_of_two_teachers_are_not_mixed(tmp_path: Path, collection: PassageCollection) -> None:
    for lines, field in (([FULL], "positive_ctxs[0].teacher_score"), ([COMPACT], "teacher_score")):
        first, second = tmp_path / f"first-{field}", tmp_path / f"second-{field}"
        score_rows(write_lines(tmp_path / "rows", lines), first, LengthTeacher(), collection=collection)
        with pytest.raises(DataError) as caught:
            score_rows(first, second, LengthTeacher("b"), collection=collection)
        assert parse_place(caught.value, first)[::2] == (1, field)
        assert not second.exists()
        score_rows(first, second, LengthTeacher("b"), collection=collection, score_key="other")
        source = read_score_source(second)
        assert source is not None
        assert {key: each.identity for key, each in source.teachers.items()} == {"teacher_score": "a", "other": "b"}
        score_rows(first, second, LengthTeacher("b"), collection=collection, overwrite_scores=True, overwrite=True)
        assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("score_key", ["text", "question", "positive_ids", " "])
def test_a_field_with_another_meaning_is_no_score_key(tmp_path: Path, score_key: str) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", [FULL])
    with pytest.raises(UsageError, match="--score_key"):
        score_rows(rows, tmp_path / "out", LengthTeacher(), score_key=score_key)


def test_an_interrupted_command_continues_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_scores, "_PAIRS", 4)
    rows = write_lines(tmp_path / "rows.jsonl", [{**FULL, "question": f"who{'o' * n}"} for n in range(8)])
    score_rows(rows, tmp_path / "whole", LengthTeacher())
    output, partial = tmp_path / "out", tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        score_rows(rows, output, LengthTeacher(fail_at=0))
    assert not list(tmp_path.glob("out*"))  # There are no scores to keep.
    with pytest.raises(KeyboardInterrupt):
        score_rows(rows, output, LengthTeacher(fail_at=2))
    assert [path.name for path in tmp_path.glob("out*")] == ["out.partial"]
    with pytest.raises(ArtifactError, match=str(partial)):
        score_rows(rows, output, LengthTeacher("b"))
    content = partial.read_bytes()
    for damage, num_calls in ((0, 2), (1, 3), (len(content.splitlines()[-1]) + 1, 3)):
        partial.write_bytes(content[: len(content) - damage])
        teacher = LengthTeacher()
        score_rows(rows, output, teacher, overwrite=True)
        assert teacher.num_calls == num_calls  # Each block holds two rows with three passages.
        assert output.read_bytes() == (tmp_path / "whole").read_bytes() and not partial.exists()
    partial.write_bytes(content)
    teacher = LengthTeacher("b")
    score_rows(rows, output, teacher, overwrite=True)
    assert teacher.num_calls == 4


def test_kept_scores_of_other_pairs_are_scored_again(tmp_path: Path) -> None:
    passage, path = Passage("", "", "oak"), tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt), keep_scores(LengthTeacher(fail_at=2), path) as kept:
        for question in ("a", "bb", "c"):
            kept.score([question], [passage])
    teacher = LengthTeacher()
    with keep_scores(teacher, path) as kept:
        assert kept.score(["a"], [passage]) == LengthTeacher().score(["a"], [passage])
        with pytest.raises(UsageError, match="another process"), keep_scores(teacher, path):
            pass
        assert teacher.num_calls == 0
        assert kept.score(["bbbb"], [passage]) == LengthTeacher().score(["bbbb"], [passage])
        assert kept.score(["bb"], [passage]) == LengthTeacher().score(["bb"], [passage])
        assert teacher.num_calls == 2
    assert not path.exists()
