"""Rerank the first passages of a search by a model that reads question and passage together.

The search finds the passages, and the model sorts the first of them. The passages below keep their order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from text.datasets import PassageCollection
from text.errors import DataError
from text.evaluation import rank_passages
from text.progress import show_progress
from text.records import Passage
from text.retrieval.arguments import check_k, list_questions
from text.retrieval.exact import Hits
from text.retrieval.hybrid import HybridHits, Searcher
from text.retrieval.kept_scores import keep_scores, to_json_number
from text.retrieval.teachers import Teacher

RERANK_K = 50
"""Default number of passages per question that are reranked."""
_PAIRS = 2048
"""Minimum number of pairs that are scored together."""


class RerankedSearch:
    """A search whose first passages are sorted by the scores of a reranker.

    The first ``rerank_k`` passages get the reranker's scores. Equal scores are ordered by passage id, highest first.
    The other passages keep their order: each scores 1 less than the passage before it, so the scores of a TREC run
    stay in order. Their scores have no other meaning.

    >>> import numpy as np
    >>> class Fixed:
    ...     def search(self, questions, k=10, extra_ids=None):
    ...         return [Hits(["oak", "elm", "fig"][:k], [3.0, 2.0, 1.0][:k]) for _ in questions]
    >>> class ByLength:
    ...     def score(self, questions, passages):
    ...         return np.array([len(passage.text) for passage in passages], dtype=np.float32)
    >>> class Texts:
    ...     def find(self, passage_id):
    ...         return Passage(passage_id, "", {"oak": "short", "elm": "much longer"}[passage_id])
    >>> RerankedSearch(Fixed(), ByLength(), Texts(), rerank_k=2).search(["what ate the oak"], k=3)
    [Hits(passage_ids=['elm', 'oak', 'fig'], scores=[11.0, 5.0, 4.0])]

    Args:
        searcher: The search that finds the passages, such as ``Retriever``, ``BM25`` or ``HybridSearch``.
        teacher: The reranker.
        collection: The searched passages.
        rerank_k: Number of passages per question to rerank.

    Raises:
        ValueError: ``rerank_k`` is below 1.
    """

    def __init__(
        self, searcher: Searcher, teacher: Teacher, collection: PassageCollection, rerank_k: int = RERANK_K
    ) -> None:
        self.searcher, self.teacher, self.collection, self.rerank_k = searcher, teacher, collection, check_k(rerank_k)

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        """Return the k first passages for each question after reranking.

        Args:
            questions: Texts of the questions.
            k: Maximum number of passages per question. The search finds at least ``rerank_k`` passages.
            extra_ids: Passage ids for each question. A passage that is not among the k first is appended. If the search
                did not rank it among its first ``rerank_k`` passages, it is not reranked.

        Raises:
            DataError: The collection does not have a passage that the search found.
            Exception: Any error of the search.
        """
        return [Hits(each.passage_ids, each.scores) for each in self.search_with_ranks(questions, k, extra_ids)]

    def search_with_ranks(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[HybridHits]:
        """Return the same passages as ``search``, each with its rank before reranking.

        The rank of an appended passage is None if the search did not find it in its first passages.
        """
        k, listed = check_k(k), list_questions(questions)
        depth = max(k, self.rerank_k)
        found = self.searcher.search(listed, depth)
        reranked: list[HybridHits] = []
        with show_progress("Reranking", len(listed), "questions") as progress:
            step = -(-_PAIRS // self.rerank_k)
            for start in range(0, len(listed), step):
                block = slice(start, start + step)
                reranked += self._rerank(listed[block], found[block])
                progress.update(len(found[block]))
        if extra_ids is None or not any(extra_ids):
            return [_cut(hits, k, set()) for hits in reranked]
        # A second search tells apart which passages were found and which are appended.
        longer = self.searcher.search(listed, depth, extra_ids)
        reranked = [_append(hits, each.passage_ids) for hits, each in zip(reranked, longer, strict=True)]
        return [_cut(hits, k, set(ids)) for hits, ids in zip(reranked, extra_ids, strict=True)]

    def _rerank(self, questions: Sequence[str], found: Sequence[Hits]) -> list[HybridHits]:
        """Return all passages of a few questions in their new order. The reranker is called once."""
        heads = [hits.passage_ids[: self.rerank_k] for hits in found]
        pairs = [(question, self._find(name)) for question, head in zip(questions, heads, strict=True) for name in head]
        scores = iter(self.teacher.score([each for each, _ in pairs], [each for _, each in pairs]) if pairs else ())
        return [
            _reorder(hits, {name: to_json_number(next(scores)) for name in head})
            for hits, head in zip(found, heads, strict=True)
        ]

    def _find(self, passage_id: str) -> Passage:
        try:
            return self.collection.find(passage_id)
        except KeyError:
            message = f"{self.collection.path}: no passage {passage_id}, but the search found it."
            raise DataError(f"{message} Use the collection that is searched.") from None


@contextmanager
def keep_reranking(searcher: Searcher, path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[None]:
    """Keep the scores of a reranked search in a file until the block succeeds. Other searches write no file.

    Arguments and errors are as for ``keep_scores``.
    """
    if not isinstance(searcher, RerankedSearch):
        yield
        return
    teacher = searcher.teacher
    with keep_scores(teacher, path, overwrite=overwrite) as searcher.teacher:
        yield
    searcher.teacher = teacher


def _reorder(hits: Hits, scores: dict[str, float]) -> HybridHits:
    """Return the passages with new scores in their order, and then the others."""
    first, rest = rank_passages(scores), hits.passage_ids[len(scores) :]
    lowest = scores[first[-1]] if first else 0.0
    kept = [lowest - place for place in range(1, len(rest) + 1)]
    ranks: dict[str, list[int | None]] = {name: [rank] for rank, name in enumerate(hits.passage_ids, start=1)}
    names = first + rest
    return HybridHits(names, [scores[name] for name in first] + kept, [ranks[name] for name in names])


def _append(hits: HybridHits, passage_ids: Sequence[str]) -> HybridHits:
    """Return hits with further passages behind them, in their order."""
    known = set(hits.passage_ids)
    missing = [name for name in passage_ids if name not in known]
    lowest = hits.scores[-1] if hits.scores else 0.0
    scores = [lowest - place for place in range(1, len(missing) + 1)]
    ranks: list[list[int | None]] = [[None] for _ in missing]
    return HybridHits(hits.passage_ids + missing, hits.scores + scores, hits.ranks + ranks)


def _cut(hits: HybridHits, k: int, extra_ids: set[str]) -> HybridHits:
    """Return the first k passages, and the extra passages behind them."""
    places = [i for i, name in enumerate(hits.passage_ids) if i < k or name in extra_ids]
    names, scores, ranks = hits
    return HybridHits([names[i] for i in places], [scores[i] for i in places], [ranks[i] for i in places])
