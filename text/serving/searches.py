"""One or more searches over a batch of questions.

A question gets the same passages in a batch as alone. HTTP and HTML are in ``text/serving/app.py``.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from text.datasets import PassageCollection
from text.errors import DataError
from text.evaluation import find_answer_spans
from text.retrieval import Hits, load_retriever, open_collection


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


@dataclass(frozen=True, kw_only=True)
class FoundPassage:
    """A passage that a search found."""

    passage_id: str
    score: float
    title: str
    text: str
    answer_spans: list[tuple[int, int]]
    """Start and end of each answer in ``text``, in characters."""


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
    for search in searches:
        started = time.perf_counter()
        all_found = find_in_batch(search, requests)
        seconds = time.perf_counter() - started
        for request, found, own_results in zip(requests, all_found, results, strict=True):
            passages = _read_passages(search.collection, found, request.answer)
            own_results.append(
                SearchResult(
                    name=search.name,
                    seconds=seconds,
                    passages=passages,
                    question_is_cut=search.is_truncated(request.question),
                )
            )
    return results


def find_in_batch(search: Search, requests: Sequence[SearchRequest]) -> list[Hits]:
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
    found = [found_by_row[row] for row in range(len(requests))]
    return [
        Hits(each.passage_ids[: request.k], each.scores[: request.k])
        for each, request in zip(found, requests, strict=True)
    ]


def _read_passages(collection: PassageCollection, found: Hits, answer: str) -> list[FoundPassage]:
    passages = []
    for passage_id, score in zip(found.passage_ids, found.scores, strict=True):
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise DataError(
                f"{collection.path}: passage {passage_id} is missing. Serve the collection that was encoded."
            ) from None
        spans = find_answer_spans([answer], passage.text) if answer else []
        passages.append(
            FoundPassage(passage_id=passage_id, score=score, title=passage.title, text=passage.text, answer_spans=spans)
        )
    return passages
