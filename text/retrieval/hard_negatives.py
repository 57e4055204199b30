"""Hard negatives: passages that a search ranks high and that do not answer the question.

Sources are runs, so that another threshold needs no search and no encoding. What is taken, and why what stands before
it is not, is said of every candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from text.evaluation import has_answer, rank_passages
from text.records import Passage

_SHINGLE = 3
"""Words of which texts are compared."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a candidate must pass.

    Raises:
        ValueError: A number is not one that can be meant.
    """

    first_rank: int = 1
    last_rank: int = 100
    min_score: float | None = None
    max_score: float | None = None
    margin: float | None = None
    """Least distance of a candidate's score below that of the first positive, in the same source."""
    relative_margin: float | None = None
    """Likewise, as a share of the positive's score; 0.05 in NV-Retriever (arXiv:2407.15831)."""
    answers: bool = True
    """Leave out what holds an answer (``has_answer``)."""
    max_overlap: float = 0.8
    """Largest share of common runs of three words with a positive or a negative that is taken (Broder 1997)."""

    def __post_init__(self) -> None:
        for name in ("min_score", "max_score", "margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and (math.isnan(value) or ("margin" in name and value < 0)):
                raise ValueError(f"{name} is {value}; expected a number{', 0 or more' * ('margin' in name)}")
        if not 1 <= self.first_rank <= self.last_rank:
            raise ValueError(f"ranks are {self.first_rank} to {self.last_rank}; expected 1 or more, in order")
        if not 0 < self.max_overlap <= 1:
            raise ValueError(f"max_overlap is {self.max_overlap}; expected above 0, to 1")


class Source(NamedTuple):
    """What one search found for one question."""

    name: str
    scores: Mapping[str, float]
    """By passage id."""
    number: int
    """How many negatives to take."""


class Negative(NamedTuple):
    """A candidate that was taken."""

    passage: Passage
    source: str
    rank: int
    """From 1 on, of the source."""
    score: float


class Rejected(NamedTuple):
    """A candidate that was not."""

    passage_id: str
    source: str
    rank: int
    score: float
    reason: str


def choose_hard_negatives(
    positives: Sequence[Passage],
    answers: Sequence[str],
    sources: Sequence[Source],
    find: Callable[[str], Passage],
    filters: Filters,
    *,
    regular_expressions: bool = False,
) -> tuple[list[Negative], list[Rejected]]:
    """Negatives of one question, source by source, each from the best rank on, until it has given its number.

    Args:
        positives: All passages known to answer; the first one's score is what margins are measured from.
        answers: Strings, of which no negative holds one.
        sources: What was found.
        find: A passage by its id, such as ``PassageCollection.find``.
        filters: What candidates must pass.
        regular_expressions: Answers are such.

    Raises:
        KeyError: A source has a passage that ``find`` does not know.
    """
    taken: list[Negative] = []
    rejected: list[Rejected] = []
    known = {passage.passage_id for passage in positives} - {""}
    texts = [_plain(passage.text) for passage in positives]
    for source in sources:
        wanted = len(taken) + source.number
        highest = _highest(source, positives, filters)
        for rank, passage_id in enumerate(rank_passages(source.scores), start=1):
            if len(taken) == wanted:
                break
            score = source.scores[passage_id]
            reason = _by_numbers(passage_id, rank, score, known, taken, highest, filters)
            passage = find(passage_id) if reason is None else None
            if passage is not None:
                reason = _by_text(passage, texts, answers, taken, filters, regular_expressions)
            if passage is None or reason is not None:
                rejected.append(Rejected(passage_id, source.name, rank, score, reason or ""))
            else:
                taken.append(Negative(passage, source.name, rank, score))
    return taken, rejected


def _highest(source: Source, positives: Sequence[Passage], filters: Filters) -> float | None:
    """What no score of a source may be above: infinite without margins, None where the positive has no score."""
    if filters.margin is None and filters.relative_margin is None:
        return float("inf")
    score = source.scores.get(positives[0].passage_id) if positives else None
    if score is None:
        return None
    return score - max(filters.margin or 0.0, abs(score) * (filters.relative_margin or 0.0))


def _by_numbers(
    passage_id: str,
    rank: int,
    score: float,
    known: set[str],
    taken: Sequence[Negative],
    highest: float | None,
    filters: Filters,
) -> str | None:
    """Why a candidate is rejected by its id, rank or score, if it is."""
    if passage_id in known:
        return "a positive"
    if any(passage_id == negative.passage.passage_id for negative in taken):
        return "taken already"
    if not filters.first_rank <= rank <= filters.last_rank:
        return "outside the ranks"
    if filters.min_score is not None and score < filters.min_score:
        return "score too low"
    if filters.max_score is not None and score > filters.max_score:
        return "score too high"
    if highest is None:
        return "no score of the positive"
    return "within the margin" if score > highest else None


def _by_text(
    passage: Passage,
    texts: Sequence[str],
    answers: Sequence[str],
    taken: Sequence[Negative],
    filters: Filters,
    regular_expressions: bool,
) -> str | None:
    """Why a candidate is rejected by its text, if it is."""
    text = _plain(passage.text)
    if not text:
        return "no text"
    if text in texts:
        return "text of a positive"
    if filters.answers and has_answer(answers, passage.text, regular_expressions=regular_expressions):
        return "holds an answer"
    if any(overlap(text, other) > filters.max_overlap for other in texts):
        return "near a positive"
    if any(overlap(text, _plain(negative.passage.text)) > filters.max_overlap for negative in taken):
        return "near one that is taken"
    return None


def overlap(text: str, other: str) -> float:
    """Share of runs of three words that both texts have, of those that either has.

    >>> overlap("the oak was old and tall", "the oak was old and dead")  # 3 in both, of 5
    0.6
    """
    ours, theirs = _shingles(text), _shingles(other)
    return len(ours & theirs) / max(1, len(ours | theirs))


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[place : place + _SHINGLE]) for place in range(max(1, len(words) - _SHINGLE + 1))}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
