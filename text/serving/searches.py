"""Run one or more searches side by side for several questions at a time.

A question that is searched together with others gets the passages that it would have got alone. This module knows no
protocol and no page: see ``text/serving/app.py``.
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
from text.evaluation import answer_spans
from text.retrieval import Found, load_retriever, open_collection


class SearchRequest(NamedTuple):
    """A question, and the number of passages to find for it."""

    question: str
    k: int
    answer: str = ""
    """Text to mark in the passages. Nothing is marked if it is empty."""


class Search(NamedTuple):
    """One way to find passages in a collection."""

    name: str
    find: Callable[[Sequence[str], int], list[Found]]
    """Returns the k best passages of each question."""
    collection: PassageCollection
    is_exact: bool = True
    """Whether the k best passages are always the first k of a longer result. An approximate index may find others."""
    is_cut: Callable[[str], bool] = lambda question: False
    """Returns whether a question is longer than the limit of the search."""
    check: Callable[[], None] = lambda: None
    """Raises an ArtifactError, a DataError or an OSError if a file of the search has changed since it was loaded."""


@dataclass(frozen=True, kw_only=True)
class FoundPassage:
    """A passage that a search found."""

    passage_id: str
    score: float
    title: str
    text: str
    answer_spans: list[tuple[int, int]]
    """Start and end of each occurrence of the answer in the text, in characters."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The passages that one search found for a question."""

    name: str
    """Name of the search."""
    seconds: float
    """Time that the search took for all questions of the batch."""
    passages: list[FoundPassage]
    """Passages, best first."""
    question_is_cut: bool = False
    """The question is longer than the model's limit, so only its beginning was used."""


def load_search(
    model: str | os.PathLike[str],
    embeddings: str | os.PathLike[str],
    *,
    name: str | None = None,
    index: str | None = None,
    index_parameters: str = "",
    precision: str = "float32",
    device: str | None = None,
    check_hashes: bool = True,
) -> Search:
    """Load a model and the embeddings that it encoded as a search.

    Args:
        model: The folder of the model.
        embeddings: The folder of the embeddings. The collection must still be where it was.
        name: Name of the search, which clients read. By default the name of the model's folder, without its path.
        index, index_parameters, precision, device, check_hashes: As for ``text.retrieval.load_retriever``.

    Raises:
        ValueError: The collection cannot be read.
        ArtifactError: The collection has changed since it was encoded.
        Exception: As for ``text.retrieval.load_retriever``.
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

    def is_cut(question: str) -> bool:
        return bool(retriever.embedder.count_truncated([question]))

    def check() -> None:
        retriever.shards.check_unchanged()
        with collection.rows.open():  # raises
            pass

    return Search(name or name_folders([model])[0], retriever.search, collection, index is None, is_cut, check)


def name_folders(folders: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a short name for each folder: its own name, with its parent's if two are equal, or else with a number.

    Clients read these names, so they have no paths.

    >>> name_folders(["runs/a/model", "runs/b/model"])
    ['a/model', 'b/model']
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for names in ([path.name for path in paths], [f"{path.parent.name}/{path.name}" for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]


def search_all(searches: Sequence[Search], requests: Sequence[SearchRequest]) -> list[list[SearchResult]]:
    """Return the result of each search for each request.

    Args:
        searches: Searches to run.
        requests: Questions that are searched together. At least one.

    Returns:
        One list for each request, with one result for each search.

    Raises:
        ArtifactError: The embeddings have changed since they were loaded.
        DataError: The collection has changed, or a search found a passage that its collection does not have.
        OSError: A file cannot be read.
    """
    results: list[list[SearchResult]] = [[] for _ in requests]
    for search in searches:
        started = time.perf_counter()
        all_found = find_together(search, requests)
        seconds = time.perf_counter() - started
        for request, found, own_results in zip(requests, all_found, results, strict=True):
            passages = _read_passages(search.collection, found, request.answer)
            own_results.append(
                SearchResult(
                    name=search.name,
                    seconds=seconds,
                    passages=passages,
                    question_is_cut=search.is_cut(request.question),
                )
            )
    return results


def find_together(search: Search, requests: Sequence[SearchRequest]) -> list[Found]:
    """Return the passages of each request with as few calls of the search as possible.

    An exact search is called once, with the largest k. Any other search is called once for each k.
    """
    largest = max(request.k for request in requests)
    rows_by_k = defaultdict[int, list[int]](list)
    for row, request in enumerate(requests):
        rows_by_k[largest if search.is_exact else request.k].append(row)
    found_by_row: dict[int, Found] = {}
    for k, rows in rows_by_k.items():
        found_by_row |= zip(rows, search.find([requests[row].question for row in rows], k), strict=True)
    found = [found_by_row[row] for row in range(len(requests))]
    return [
        Found(each.passage_ids[: request.k], each.scores[: request.k])
        for each, request in zip(found, requests, strict=True)
    ]


def _read_passages(collection: PassageCollection, found: Found, answer: str) -> list[FoundPassage]:
    passages = []
    for passage_id, score in zip(found.passage_ids, found.scores, strict=True):
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise DataError(
                f"{collection.path}: no passage {passage_id}. Serve the collection that was encoded."
            ) from None
        spans = answer_spans([answer], passage.text) if answer else []
        passages.append(
            FoundPassage(passage_id=passage_id, score=score, title=passage.title, text=passage.text, answer_spans=spans)
        )
    return passages
