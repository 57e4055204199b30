"""What serve.py answers with: one or more searches, side by side, for some questions at a time.

Knows of no protocol and no page. Whoever asks several questions at once gets what each would have got alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from text.datasets import PassageCollection
from text.errors import DataError
from text.evaluation import answer_spans
from text.retrieval import Found


class Asked(NamedTuple):
    """A question that can be meant."""

    question: str
    k: int
    answer: str = ""
    """Marked in passages, if there is one."""


class Search(NamedTuple):
    """One way to find passages."""

    name: str
    find: Callable[[Sequence[str], int], list[Found]]
    """k passages for each question."""
    collection: PassageCollection
    exact: bool = True
    """Whether the first passages of many are those of few."""


@dataclass(frozen=True, kw_only=True)
class FoundPassage:
    passage_id: str
    score: float
    title: str
    text: str
    answer_spans: list[tuple[int, int]]
    """Start and end in the text, in characters, wherever the answer stands."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    name: str
    """Of the search."""
    seconds: float
    """That it took, for all questions answered together."""
    passages: list[FoundPassage]
    """Best first."""


def search_all(searches: Sequence[Search], asked: Sequence[Asked]) -> list[list[SearchResult]]:
    """What each search finds, for each question.

    Raises:
        DataError: The collection does not have a passage that was found.
    """
    of_searches = []
    for search in searches:
        started = time.perf_counter()
        found = find_together(search, asked)
        seconds = time.perf_counter() - started
        of_searches.append(
            [
                SearchResult(
                    name=search.name, seconds=seconds, passages=_passages(search.collection, each, of_question)
                )
                for each, of_question in zip(asked, found, strict=True)
            ]
        )
    return [list(of_question) for of_question in zip(*of_searches, strict=True)]


def find_together(search: Search, asked: Sequence[Asked]) -> list[Found]:
    """In one call, with the largest k, where the search is exact; otherwise in one for each k."""
    largest, by_k = max(each.k for each in asked), defaultdict[int, list[int]](list)
    for place, each in enumerate(asked):
        by_k[largest if search.exact else each.k].append(place)
    found = {}
    for k, places in by_k.items():
        found |= zip(places, search.find([asked[place].question for place in places], k), strict=True)
    return [Found(*(column[: each.k] for column in found[place])) for place, each in enumerate(asked)]


def _passages(collection: PassageCollection, asked: Asked, found: Found) -> list[FoundPassage]:
    passages = []
    for passage_id, score in zip(found.passage_ids, found.scores, strict=True):
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise DataError(f"{collection.path}: no passage {passage_id}; expected those that were encoded") from None
        spans = answer_spans([asked.answer], passage.text) if asked.answer else []
        passages.append(
            FoundPassage(passage_id=passage_id, score=score, title=passage.title, text=passage.text, answer_spans=spans)
        )
    return passages
