"""Reranked searches equal a brute-force implementation, and keep their scores after an interruption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law, write_collection
from text.errors import DataError
from text.evaluation import rank_passages
from text.evaluation.score_source import TeacherRecord
from text.records import Passage
from text.retrieval import Hits, reranking
from text.retrieval.bm25 import BM25
from text.retrieval.reranking import RerankedSearch, keep_reranking

IDS = [f"p{n}" for n in range(9)]


class FixedSearch:
    """A search with given scores per question."""

    def __init__(self, scores: dict[str, dict[str, float]]) -> None:
        self.scores = scores

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        found = []
        for row, question in enumerate(questions):
            names = rank_passages(self.scores[question])
            names = names[:k] + [each for each in names[k:] if extra_ids is not None and each in extra_ids[row]]
            found.append(Hits(names, [self.scores[question][name] for name in names]))
        return found


class TableTeacher:
    """A teacher with given scores per question and passage."""

    record = TeacherRecord("reranker", "folder", "a", {})

    def __init__(self, scores: dict[str, dict[str, float]], fail_at: int | None = None) -> None:
        self.scores, self.num_calls, self._fail_at = scores, 0, fail_at

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> np.ndarray:
        if self.num_calls == self._fail_at:
            raise KeyboardInterrupt
        self.num_calls += 1
        pairs = zip(questions, passages, strict=True)
        return np.array([self.scores[question][each.passage_id] for question, each in pairs], dtype=np.float32)


class Texts:
    def find(self, passage_id: str) -> Passage:
        return Passage(passage_id, "", f"text of {passage_id}")


NO_FILE: Any = Texts()
"""Collection without a file."""


tables = st.fixed_dictionaries(
    {name: st.dictionaries(st.sampled_from(IDS), st.integers(-2, 2).map(float)) for name in ("a", "b")}
)
teachers = st.fixed_dictionaries(
    {name: st.fixed_dictionaries({each: st.integers(-2, 2).map(float) for each in IDS}) for name in ("a", "b")}
)


@law
@given(
    tables, teachers, st.integers(1, 9), st.integers(1, 9), st.sets(st.sampled_from(IDS)), st.sampled_from([1, 2048])
)
def test_equals_brute_force(
    scores: dict, teacher: dict, rerank_k: int, k: int, extra: set[str], num_pairs: int
) -> None:
    with pytest.MonkeyPatch.context() as context:
        context.setattr(reranking, "_PAIRS", num_pairs)
        search = RerankedSearch(FixedSearch(scores), TableTeacher(teacher), NO_FILE, rerank_k)
        found = search.search_with_ranks(["a", "b"], k, [sorted(extra)] * 2)
    for question, hits in zip("ab", found, strict=True):
        before = sorted(scores[question], key=lambda name, q=question: (scores[q][name], name), reverse=True)
        depth = max(k, rerank_k)
        head, rest = before[:rerank_k], before[rerank_k:depth] + [each for each in before[depth:] if each in extra]
        head.sort(key=lambda name, q=question: (teacher[q][name], name), reverse=True)
        after = head + rest
        expected = after[:k] + [name for name in after[k:] if name in extra]
        assert hits.passage_ids == expected
        ranks = [before.index(name) + 1 for name in expected]
        assert [rank for [rank] in hits.ranks] == [rank if rank <= depth else None for rank in ranks]
        by_name = {name: teacher[question][name] for name in head}
        by_name |= {name: teacher[question][head[-1]] - place for place, name in enumerate(rest, start=1)}
        assert hits.scores == [by_name[name] for name in hits.passage_ids]
        # A TREC run sorts by score and id, so the order survives.
        assert rank_passages(dict(zip(hits.passage_ids, hits.scores, strict=True))) == hits.passage_ids
    assert [each[:2] for each in found] == search.search(["a", "b"], k, [sorted(extra)] * 2)


def test_reranking_all_passages_sorts_the_collection_by_the_reranker(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "corpus.jsonl", IDS, ["oak"] * 9)
    teacher = {"oak": {name: float((4 * place) % 9) for place, name in enumerate(IDS)}}
    [found] = RerankedSearch(BM25(collection), TableTeacher(teacher), collection, 9).search(["oak"], 9)
    assert found.passage_ids == sorted(IDS, key=lambda name: -teacher["oak"][name])
    assert found.scores == sorted(teacher["oak"].values(), reverse=True)


def test_an_extra_passage_that_was_not_found_is_not_reranked(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "corpus.jsonl", ["p0", "p1", "p2"], ["oak", "elm", "oak oak"])
    teacher = TableTeacher({"oak": {"p0": 2.0, "p2": 1.0}})  # It does not know p1, which BM25 does not find.
    [found] = RerankedSearch(BM25(collection), teacher, collection).search_with_ranks(["oak"], 5, [["p1"]])
    assert found.passage_ids == ["p0", "p2", "p1"] and found.scores == [2.0, 1.0, 0.0] and found.ranks[2] == [None]


def test_a_passage_that_the_collection_lacks_raises(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "corpus.jsonl", ["p0"], ["oak"])
    search = RerankedSearch(FixedSearch({"a": {"p1": 1.0}}), TableTeacher({}), collection)
    with pytest.raises(DataError, match=f"{collection.path}: no passage p1"):
        search.search(["a"])
    with pytest.raises(ValueError, match="k is 0"):
        RerankedSearch(FixedSearch({}), TableTeacher({}), collection, 0)


def test_an_interrupted_reranking_keeps_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "_PAIRS", 1)
    questions = [f"q{n}" for n in range(5)]
    scores = {question: {name: float(n) for n, name in enumerate(IDS)} for question in questions}
    teacher = {question: {name: float(-n) for n, name in enumerate(IDS)} for question in questions}
    expected = RerankedSearch(FixedSearch(scores), TableTeacher(teacher), NO_FILE, 3).search(questions, 4)
    search = RerankedSearch(FixedSearch(scores), TableTeacher(teacher, fail_at=2), NO_FILE, 3)
    with pytest.raises(KeyboardInterrupt), keep_reranking(search, tmp_path / "partial"):
        search.search(questions, 4)
    search = RerankedSearch(FixedSearch(scores), again := TableTeacher(teacher), NO_FILE, 3)
    with keep_reranking(search, tmp_path / "partial"):
        assert search.search(questions, 4) == expected
    assert again.num_calls == 3 and not list(tmp_path.iterdir()) and search.teacher is again
    with keep_reranking(FixedSearch(scores), tmp_path / "partial"):
        assert not list(tmp_path.iterdir())
