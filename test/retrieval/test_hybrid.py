"""Hybrid search: by hand, against a loop over the whole collection, and against fused run files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from test.retrieval.conftest import NUM_PASSAGES
from text.datasets import PassageCollection, Question
from text.evaluation import fuse_runs, rank_passages, read_run, write_run
from text.evaluation.fusion import FusionMethod
from text.retrieval import Hits, HybridSearch, encode_collection, load_retriever, search_questions

METHODS: list[FusionMethod] = ["ranks", "scores"]


class FixedSearch:
    """A search that gives each passage a fixed score for each question, and finds passages with scores above 0."""

    def __init__(self, scores: dict[str, dict[str, float]], *, max_found: int = 10**6) -> None:
        self.scores, self.max_found = scores, max_found
        self.calls: list[tuple[list[str], int]] = []

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        listed = list(questions)
        self.calls.append((listed, k))
        return [
            self._search_one(question, min(k, self.max_found), extra_ids[row] if extra_ids is not None else ())
            for row, question in enumerate(listed)
        ]

    def _search_one(self, question: str, k: int, extra_ids: Sequence[str]) -> Hits:
        scores = self.scores[question]
        found = [each for each in rank_passages(scores) if scores[each] > 0][:k]
        found += rank_passages({each: scores[each] for each in extra_ids if each in scores and each not in found})
        return Hits(found, [scores[each] for each in found])


def make_parts(seed: int, num_passages: int) -> tuple[list[FixedSearch], list[str]]:
    """Return two searches with random scores, many of them equal or 0, and their questions."""
    random, questions = np.random.default_rng(seed), [f"q{n}" for n in range(8)]
    names = [f"p{n}" for n in range(num_passages)]
    parts = [
        FixedSearch(
            {q: dict(zip(names, map(float, random.integers(0, 9, num_passages)), strict=True)) for q in questions}
        )
        for _ in range(2)
    ]
    return parts, questions


def fuse_by_loops(parts: list[FixedSearch], question: str, depth: int, method: str, weights: list[float]) -> list[str]:
    """Return all fused passages, best first. Every pair of passages is compared to count ranks."""
    totals: dict[str, float] = {}
    for part, weight in zip(parts, weights, strict=True):
        scores = part.scores[question]
        ranks = {a: 1 + sum((scores[b], b) > (scores[a], a) for b in scores) for a in scores}
        found = [each for each in scores if ranks[each] <= depth and scores[each] > 0]
        worst, best = min(scores[each] for each in found), max(scores[each] for each in found)
        for each in found:
            share = (scores[each] - worst) / (best - worst) if best > worst else 1.0
            value = 1 / (60 + ranks[each]) if method == "ranks" else share
            totals[each] = totals.get(each, 0.0) + weight * value
    return [name for _, name in sorted(((round(score, 12), name) for name, score in totals.items()), reverse=True)]


def test_fused_scores_and_ranks_by_hand() -> None:
    dense = FixedSearch({"q": {"a": 0.9, "b": 0.5, "c": 0.1}})
    words = FixedSearch({"q": {"c": 6.0, "d": 4.0, "e": 2.0, "f": 0.0}})
    [found] = HybridSearch([dense, words]).search_with_ranks(["q"], 3)
    assert found.passage_ids == ["c", "a", "d"]  # b and d are both at rank 2, so the larger id ranks first.
    assert found.scores == pytest.approx([1 / 63 + 1 / 61, 1 / 61, 1 / 62])
    assert found.ranks == [[3, 1], [1, None], [None, 2]]
    [hits] = HybridSearch([dense, words], method="scores", weights=[3, 1]).search(["q"], 10)
    assert hits.passage_ids == ["a", "b", "c", "d", "e"]
    assert hits.scores == pytest.approx([0.75, 0.75 / 2, 0.25, 0.25 / 2, 0])
    [hits] = HybridSearch([dense, words], weights=[1, 0]).search(["q"], 10)
    assert hits.passage_ids == ["a", "b", "c"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depth", [1, 3, 40])
def test_the_result_equals_a_loop_over_all_passages(method: FusionMethod, depth: int) -> None:
    for seed in range(5):
        parts, questions = make_parts(seed, 30)
        hybrid = HybridSearch(parts, method=method, weights=[0.7, 0.3], depth=depth)
        for question, found in zip(questions, hybrid.search(questions, 5), strict=True):
            assert found.passage_ids == fuse_by_loops(parts, question, depth, method, [0.7, 0.3])[:5]


@pytest.mark.parametrize("max_found", [7, 100])
@pytest.mark.parametrize("method", METHODS)
def test_extra_passages_change_nothing_else(method: FusionMethod, max_found: int) -> None:
    parts, questions = make_parts(0, 30)
    for part in parts:
        part.max_found = max_found  # An approximate index may find fewer passages than it should.
    hybrid, random = HybridSearch(parts, method=method, depth=12), np.random.default_rng(1)
    alone, everything = hybrid.search(questions, 5), hybrid.search(questions, 1000)
    extra = [[f"p{n}" for n in random.integers(0, 40, size=6)] for _ in questions]
    for ids, found, complete, hits in zip(extra, alone, everything, hybrid.search(questions, 5, extra), strict=True):
        scores = dict(zip(*complete, strict=True))
        assert (hits.passage_ids[:5], hits.scores[:5]) == (found.passage_ids, found.scores)
        missing = {each: scores.get(each, 0.0) for each in ids if int(each[1:]) < 30 and each not in found.passage_ids}
        assert hits.passage_ids[5:] == rank_passages(missing)
        assert hits.scores[5:] == [missing[each] for each in hits.passage_ids[5:]]


def test_only_questions_with_unclear_ends_are_searched_again() -> None:
    dense = FixedSearch({"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"a": 1.0, "b": 2.0, "c": 3.0}})
    words = FixedSearch({"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"a": 1.0, "b": 0.0, "c": 0.0}})
    found = HybridSearch([dense, words], depth=2).search_with_ranks(["q", "r"], 2, [["c"], ["b", "x"]])
    assert found[1].ranks == [[1, None], [None, 1], [2, None]] and found[1].passage_ids == ["c", "a", "b"]
    assert found[0].passage_ids == ["a", "b", "c"] and found[0].scores[2] == 0
    assert dense.calls == [(["q", "r"], 2), (["r"], 2)] and words.calls == [(["q", "r"], 2), (["r"], 2)]


def test_the_default_depth_is_100_or_k() -> None:
    parts, questions = make_parts(0, 5)
    HybridSearch(parts).search(questions, 10)
    HybridSearch(parts).search(questions, 150)
    assert [k for _, k in parts[0].calls] == [100, 150]


def test_invalid_settings_are_refused() -> None:
    parts, questions = make_parts(0, 5)
    for options in ({"depth": 0}, {"weights": [0, 0]}, {"weights": [1]}, {"weights": [-1, 2]}, {"method": "sum"}):
        with pytest.raises(ValueError, match=r"depth|weights|method"):
            HybridSearch(parts, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 searches"):
        HybridSearch(parts[:1])
    with pytest.raises(ValueError, match="k is 0"):
        HybridSearch(parts).search(questions, 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_hybrid_search_equals_the_fusion_of_both_written_runs(
    model: Path, collection: PassageCollection, tmp_path: Path, method: FusionMethod
) -> None:
    bm25 = pytest.importorskip("text.retrieval.bm25").BM25(collection)
    encode_collection(model, collection, tmp_path / "embeddings")
    dense = load_retriever(model, tmp_path / "embeddings", device="cpu")
    questions = [
        Question(f"q{n}", each.text[:40], [], positive_ids=(each.passage_id,)) for n, each in enumerate(collection)
    ]
    for name, part in (("dense", dense), ("words", bm25)):
        write_run(tmp_path / name, search_questions(part.search, questions, 9))
    runs = [read_run(tmp_path / name) for name in ("dense", "words")]
    hybrid = HybridSearch([dense, bm25], method=method, weights=[0.3, 0.7], depth=9)
    found = search_questions(hybrid.search, questions, 2 * NUM_PASSAGES)
    assert found == fuse_runs(runs, method=method, weights=[0.3, 0.7]) and len(found) == NUM_PASSAGES
    with_positives = search_questions(hybrid.search, questions, 1, with_positives=True)
    for question in questions:
        scores = found[question.question_id]
        [best] = rank_passages(scores)[:1]
        kept = {best, *question.positive_ids}
        assert with_positives[question.question_id] == {each: scores.get(each, 0.0) for each in kept}
