"""One or more searches over a batch of questions.

A question gets the same passages in a batch as alone. HTTP and HTML are in ``text/serving/app.py``.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from text.datasets import PassageCollection
from text.errors import DataError
from text.evaluation import find_answer_spans
from text.evaluation.run_source import FusionRecord
from text.retrieval import Hits, HybridHits, load_retriever, open_collection
from text.retrieval.hybrid import FUSION_DEPTH, fuse_hits
from text.retrieval.reranking import RerankedSearch
from text.retrieval.teachers import Teacher


class SearchRequest(NamedTuple):
    """A question and the number of passages to find."""

    question: str
    k: int
    answer: str = ""
    """Answer to mark in the passages. Empty marks nothing."""


class Search(NamedTuple):
    """A named search over a collection."""

    name: str
    find: Callable[[Sequence[str], int], list[Hits]]
    """Function that returns the k best passages of each question."""
    collection: PassageCollection
    is_exact: bool = True
    """True if the first k passages of a longer result are always the k best. False for an approximate index."""
    is_truncated: Callable[[str], bool] = lambda question: False
    """Function that returns whether a question exceeds the model's maximum length."""
    check: Callable[[], None] = lambda: None
    """Function that raises ArtifactError, DataError or OSError if a file of the search has changed."""
    parts: Sequence[Search] = ()
    """Searches that this search fuses, or the search that it reranks. If a part of a fusion is also served alone, it
    searches only once for both."""
    fusion: FusionRecord | None = None
    """Method, weights and depth of the fusion of the parts."""


@dataclass(frozen=True, kw_only=True)
class FoundPassage:
    """A passage that a search found."""

    passage_id: str
    score: float
    title: str
    text: str
    answer_spans: list[tuple[int, int]]
    """Start and end of each answer in ``text``, in characters."""
    ranks: dict[str, int | None] = field(default_factory=dict)
    """Rank in each fused search, or in the search before reranking, by the name of the search. It is null if that
    search did not find the passage. The dictionary is empty without fusion and reranking."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Result of one search for one question."""

    name: str
    """Name of the search."""
    seconds: float
    """Time that the search took for the whole batch."""
    passages: list[FoundPassage]
    """Found passages, best first."""
    question_is_cut: bool = False
    """True if the question exceeds the model's maximum length. Only its beginning was used."""


def load_search(
    model: str | os.PathLike[str],
    embeddings: str | os.PathLike[str],
    *,
    name: str | None = None,
    index: str | None = None,
    index_parameters: str = "",
    precision: str | None = None,
    device: str | None = None,
    check_hashes: bool = True,
) -> Search:
    """Load a search from a model and its embeddings.

    Args:
        model: Folder of the model.
        embeddings: Folder of the embeddings. The encoded collection must still be at its path.
        name: Name of the search, visible to clients. By default the last part of the model's path.
        index: See ``text.retrieval.load_retriever``.
        index_parameters: See ``text.retrieval.load_retriever``.
        precision: See ``text.retrieval.load_retriever``.
        device: See ``text.retrieval.load_retriever``.
        check_hashes: See ``text.retrieval.load_retriever``.

    Raises:
        ValueError: The collection cannot be read.
        ArtifactError: The collection has changed since it was encoded.
        Exception: Any error of ``text.retrieval.load_retriever``.
    """
    retriever = load_retriever(
        model,
        embeddings,
        index=index,
        index_parameters=index_parameters,
        precision=precision,
        device=device,
        check_hashes=check_hashes,
    )
    collection = open_collection(retriever.shards)

    def is_truncated(question: str) -> bool:
        return bool(retriever.embedder.count_truncated([question]))

    def check() -> None:
        retriever.shards.check_unchanged()
        with collection.rows.open():  # Raises an error if the file has changed.
            pass

    return Search(name or name_folders([model])[0], retriever.search, collection, index is None, is_truncated, check)


def name_folders(folders: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a short, unique name for each folder.

    Clients read these names, so they contain no paths. If two folders have the same name, all names include the parent
    folder. If these are also equal, all names get a number.

    >>> name_folders(["runs/a/model", "runs/b/model"])
    ['a/model', 'b/model']
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for names in ([path.name for path in paths], [f"{path.parent.name}/{path.name}" for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]


def search_all(searches: Sequence[Search], requests: Sequence[SearchRequest]) -> list[list[SearchResult]]:
    """Run all searches for a batch of requests.

    Args:
        searches: Searches to run.
        requests: Batch of requests. At least one.

    Returns:
        One list per request, with one result per search.

    Raises:
        ArtifactError: The embeddings have changed since they were loaded.
        DataError: The collection has changed or lacks a passage that a search found.
        OSError: A file cannot be read.
    """
    results: list[list[SearchResult]] = [[] for _ in requests]
    for search, (seconds, all_found) in zip(searches, _find_all(searches, requests), strict=True):
        for request, found, own_results in zip(requests, all_found, results, strict=True):
            own_results.append(
                SearchResult(
                    name=search.name,
                    seconds=seconds,
                    passages=_read_passages(search, found, request.answer),
                    question_is_cut=search.is_truncated(request.question),
                )
            )
    return results


def fuse_searches(parts: Sequence[Search], fusion: FusionRecord, *, name: str = "hybrid") -> Search:
    """Return a search that fuses other searches over the same collection.

    Args:
        parts: The searches. Serve them, too, to show their results beside the fused ones.
        fusion: Method, weights, and depth of the fused lists. With a fixed depth of at least k, a question gets the
            same passages for every k.
        name: Name of the search.
    """
    depth = fusion.depth or FUSION_DEPTH

    def find(questions: Sequence[str], k: int) -> list[Hits]:
        lists = [part.find(questions, depth) for part in parts]
        return [Hits(each.passage_ids, each.scores) for each in _fuse_lists(lists, fusion, [k] * len(questions))]

    first = parts[0]
    return Search(name, find, first.collection, True, first.is_truncated, parts=parts, fusion=fusion)


def make_reranked_search(search: Search, teacher: Teacher, rerank_k: int) -> Search:
    """Return a search that reranks the first passages of another search.

    Args:
        search: The search. Its name is shown with the rank of each passage before reranking.
        teacher: The reranker.
        rerank_k: Number of passages per question to rerank.
    """
    reranked = RerankedSearch(_Searcher(search), teacher, search.collection, rerank_k)
    return search._replace(
        name=f"{search.name}, reranked", find=reranked.search_with_ranks, parts=[search], fusion=None
    )


class _Searcher(NamedTuple):
    """A served search in the form that can be reranked."""

    served: Search

    def search(
        self, questions: Iterable[str], k: int = 10, extra_ids: Sequence[Sequence[str]] | None = None
    ) -> list[Hits]:
        """Return the k best passages of each question. A served search has no extra passages."""
        return self.served.find(list(questions), k)


_Found = tuple[float, Sequence[Hits | HybridHits]]
"""Seconds that a search took, and its passages for each request."""


def _find_all(searches: Sequence[Search], requests: Sequence[SearchRequest]) -> list[_Found]:
    """Return the passages of all searches. Parts of a fusion are searched only once, to the depth of the fusion."""
    lists = _search_parts(searches, [request.question for request in requests])
    numbers = [request.k for request in requests]
    found: list[_Found] = []
    for search in searches:
        started, spent = time.perf_counter(), 0.0
        if search.fusion is not None:
            spent = sum(lists[id(part)][0] for part in search.parts)
            all_hits = _fuse_lists([lists[id(part)][1] for part in search.parts], search.fusion, numbers)
        elif id(search) in lists:
            spent, hits = lists[id(search)]
            all_hits = [_cut(each, k) for each, k in zip(hits, numbers, strict=True)]
        else:
            all_hits = find_in_batch(search, requests)
        found.append((spent + time.perf_counter() - started, all_hits))
    return found


def _search_parts(searches: Sequence[Search], questions: Sequence[str]) -> dict[int, tuple[float, list[Hits]]]:
    """Return the time and the hits of each part of a fusion, by the identity of the part."""
    depths = {id(part): (part, search.fusion.depth) for search in searches if search.fusion for part in search.parts}
    lists = {}
    for key, (part, depth) in depths.items():
        started = time.perf_counter()
        hits = part.find(questions, depth or FUSION_DEPTH)
        lists[key] = time.perf_counter() - started, hits
    return lists


def _fuse_lists(lists: Sequence[Sequence[Hits]], fusion: FusionRecord, numbers: Sequence[int]) -> list[HybridHits]:
    """Return the fused passages of each question. ``numbers`` holds its number of passages."""
    pairs = zip(zip(*lists, strict=True), numbers, strict=True)
    return [fuse_hits(hits, k, method=fusion.method, weights=fusion.weights) for hits, k in pairs]


def find_in_batch(search: Search, requests: Sequence[SearchRequest]) -> list[Hits | HybridHits]:
    """Return the passages for each request, with as few calls of the search as possible.

    An exact search is called once with the largest k. Any other search is called once per distinct k.
    """
    largest = max(request.k for request in requests)
    rows_by_k = defaultdict[int, list[int]](list)
    for row, request in enumerate(requests):
        rows_by_k[largest if search.is_exact else request.k].append(row)
    found_by_row: dict[int, Hits] = {}
    for k, rows in rows_by_k.items():
        found_by_row |= zip(rows, search.find([requests[row].question for row in rows], k), strict=True)
    return [_cut(found_by_row[row], request.k) for row, request in enumerate(requests)]


def _cut(hits: Hits | HybridHits, k: int) -> Hits | HybridHits:
    if isinstance(hits, HybridHits):
        return HybridHits(hits.passage_ids[:k], hits.scores[:k], hits.ranks[:k])
    return Hits(hits.passage_ids[:k], hits.scores[:k])


def _read_passages(search: Search, found: Hits | HybridHits, answer: str) -> list[FoundPassage]:
    passages, collection = [], search.collection
    names = [part.name for part in search.parts]
    all_ranks = found.ranks if isinstance(found, HybridHits) else [()] * len(found.scores)
    for passage_id, score, ranks in zip(found.passage_ids, found.scores, all_ranks, strict=True):
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise DataError(
                f"{collection.path}: passage {passage_id} is missing. Serve the collection that was encoded."
            ) from None
        spans = find_answer_spans([answer], passage.text) if answer else []
        passages.append(
            FoundPassage(
                passage_id=passage_id,
                score=score,
                title=passage.title,
                text=passage.text,
                answer_spans=spans,
                ranks=dict(zip(names, ranks, strict=True)) if ranks else {},
            )
        )
    return passages
