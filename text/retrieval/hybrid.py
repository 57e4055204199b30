"""Hybrid search: fuse the results of several searches, such as a dense search and BM25.

Each search finds the best passages to a fixed depth, and ``text.evaluation.fuse_rankings`` fuses the lists. So the
result equals the fusion of two written runs of the same depth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple, Protocol

from text.evaluation import fuse_rankings, rank_passages
from text.evaluation.fusion import FusionMethod
from text.retrieval.arguments import check_k, list_questions
from text.retrieval.exact import Hits

FUSION_DEPTH = 100
"""Minimum depth of the fused lists: the default length of a run, so that both ways to fuse give the same result."""


class Searcher(Protocol):
    """A search that can be fused, such as ``Retriever`` or ``BM25``."""

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        """Return the k best passages of each question, and the extra passages behind them."""
        ...


class HybridHits(NamedTuple):
    """Passages found by several searches for one question, best first."""

    passage_ids: list[str]
    scores: list[float]
    """Fused scores."""
    ranks: list[list[int | None]]
    """For each passage, its rank in each search. Ranks start at 1. None if the search did not find the passage."""


class HybridSearch:
    """A search that fuses the results of two or more searches over the same collection.

    >>> class Fixed:
    ...     def __init__(self, *passage_ids):
    ...         self.passage_ids = list(passage_ids)
    ...
    ...     def search(self, questions, k=10, extra_ids=None):
    ...         scores = [float(k - rank) for rank in range(k)]
    ...         return [Hits(self.passage_ids[:k], scores[: len(self.passage_ids)]) for _ in questions]
    >>> hybrid = HybridSearch([Fixed("oak", "elm"), Fixed("fig", "elm")])
    >>> [found] = hybrid.search_with_ranks(["what ate the elm"], k=2)
    >>> found.passage_ids, found.ranks
    (['elm', 'oak'], [[2, 2], [1, None]])

    Args:
        parts: The searches to fuse.
        method: "ranks" or "scores", see ``text.evaluation.fuse_rankings``.
        weights: Weight of each search. None means equal weights.
        depth: Number of passages per question that each search returns. None means ``FUSION_DEPTH``, or k if it is
            larger. With less than k, the result may have fewer than k passages.

    Raises:
        ValueError: There are fewer than two searches, the depth is below 1, or the weights do not fit
            (``fuse_rankings``).
    """

    def __init__(
        self,
        parts: Sequence[Searcher],
        *,
        method: FusionMethod = "ranks",
        weights: Sequence[float] | None = None,
        depth: int | None = None,
    ) -> None:
        if len(parts) < 2 or (depth is not None and depth < 1):
            raise ValueError(f"there are {len(parts)} searches, and the depth is {depth}. Fuse two searches or more.")
        fuse_rankings([{}] * len(parts), method=method, weights=weights)  # Check the method and the weights now.
        self.parts, self.weights, self.depth = list(parts), weights, depth
        self.method: FusionMethod = method

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        """Return the k passages with the highest fused scores for each question.

        Args:
            questions: Texts of the questions.
            k: Maximum number of passages per question.
            extra_ids: Passage ids for each question. A passage that is not among the k best is appended with its
                fused score, which is 0 if no search found the passage. Extra passages change no other score.

        Raises:
            TypeError: ``questions`` is not a list, a question is not a string, or k is not an integer.
            ValueError: k is below 1.
            Exception: Any error of the fused searches.
        """
        return [Hits(each.passage_ids, each.scores) for each in self.search_with_ranks(questions, k, extra_ids)]

    def search_with_ranks(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[HybridHits]:
        """Return the same passages as ``search``, with their rank in each of the fused searches."""
        k, listed = check_k(k), list_questions(questions)
        depth, extra = self.get_depth(k), extra_ids if extra_ids is not None else [()] * len(listed)
        found = [_search_part(part, listed, depth, extra) for part in self.parts]
        hybrid_hits = []
        for parts in zip(*found, strict=True):
            known = {passage_id for _, ids in parts for passage_id in ids}
            hits = [each for each, _ in parts]
            hybrid_hits.append(fuse_hits(hits, k, method=self.method, weights=self.weights, extra_ids=known))
        return hybrid_hits

    def get_depth(self, k: int) -> int:
        """Return the number of passages per question that each search returns for a result of k passages."""
        return max(k, FUSION_DEPTH) if self.depth is None else self.depth


def fuse_hits(
    hits: Sequence[Hits],
    k: int,
    *,
    method: FusionMethod = "ranks",
    weights: Sequence[float] | None = None,
    extra_ids: Iterable[str] = (),
) -> HybridHits:
    """Return the k best passages of one question from the hits of several searches.

    Args:
        hits: Hits of each search.
        k: Maximum number of passages.
        method: See ``text.evaluation.fuse_rankings``.
        weights: See ``text.evaluation.fuse_rankings``.
        extra_ids: Passages to append if they are not among the k best. A passage without hits gets 0.
    """
    rankings = [dict(zip(each.passage_ids, each.scores, strict=True)) for each in hits]
    scores = fuse_rankings(rankings, method=method, weights=weights)
    best = rank_passages(scores)[:k]
    missing = {passage_id: scores.get(passage_id, 0.0) for passage_id in set(extra_ids).difference(best)}
    kept = best + rank_passages(missing)
    ranks = [{name: rank for rank, name in enumerate(rank_passages(each), start=1)} for each in rankings]
    return HybridHits(
        kept, [scores.get(each, 0.0) for each in kept], [[part.get(each) for part in ranks] for each in kept]
    )


def _search_part(
    part: Searcher, questions: Sequence[str], depth: int, extra_ids: Sequence[Sequence[str]]
) -> list[tuple[Hits, set[str]]]:
    """Return the hits of one search, and the extra passages that its collection has, for each question.

    A search appends extra passages to its hits. If it may have found fewer passages than the depth, the end of its hits
    is unclear. Then the question is searched again without extra passages.
    """
    if not any(extra_ids):
        return [(hits, set()) for hits in part.search(questions, depth)]
    all_hits = part.search(questions, depth, extra_ids)
    pairs = zip(all_hits, extra_ids, strict=True)
    unclear = [row for row, (hits, ids) in enumerate(pairs) if _count_clear(hits, ids) < min(depth, len(hits.scores))]
    again = part.search([questions[row] for row in unclear], depth) if unclear else []
    num_found = dict(zip(unclear, (len(hits.scores) for hits in again), strict=True))
    cut = []
    for row, (hits, ids) in enumerate(zip(all_hits, extra_ids, strict=True)):
        end = num_found.get(row, depth)
        cut.append((Hits(hits.passage_ids[:end], hits.scores[:end]), set(ids) & set(hits.passage_ids)))
    return cut


def _count_clear(hits: Hits, extra_ids: Collection[str]) -> int:
    """Return the number of hits before the first one that may be an appended extra passage."""
    return len(hits.passage_ids) - sum(1 for _ in takewhile(set(extra_ids).__contains__, reversed(hits.passage_ids)))
