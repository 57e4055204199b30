"""Choose the hard negatives of one question: passages that a search ranks high but that do not answer it.

The candidates come from TREC runs, so you can change a filter without a new search. Every candidate is either chosen
or rejected with a reason, until there are enough negatives. ``text/retrieval/mining.py`` mines all rows of a file.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from text.evaluation import has_answer, rank_passages
from text.records import Passage
from text.words import separate_units

_SHINGLE = 3
"""Words per shingle. Two texts are compared by their shingles. A Chinese character counts as a word."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Conditions that a hard negative must meet.

    Raises:
        ValueError: A number is out of range.
    """

    first_rank: int = 1
    """First rank to consider, counted from 1. Increase it to skip likely false negatives at the top."""
    last_rank: int = 100
    """Last rank to consider. A search with a model retrieves this many passages per question."""
    min_score: float | None = None
    """Minimum score of a negative in its run. Use it to drop easy negatives."""
    max_score: float | None = None
    """Maximum score of a negative in its run. Use it to drop probable positives by an absolute score."""
    margin: float | None = None
    """Reject candidates that score above the first positive's score minus this margin, in the same run: above 0.75 for
    a positive of 0.80 and a margin of 0.05. Use it with the scores of a teacher, not of the model that you train."""
    relative_margin: float | None = None
    """Like margin, as a fraction of the positive's score. NV-Retriever uses 0.05 (arXiv:2407.15831)."""
    answers: bool = True
    """Reject candidates that contain an answer. Set it to false if answers are very common words, such as yes."""
    max_overlap: float = 0.8
    """Reject candidates whose word trigrams overlap more than this with a positive or a chosen negative (Jaccard
    similarity). Lower it if negatives repeat each other; 1 turns this filter off."""

    def __post_init__(self) -> None:
        for name in ("min_score", "max_score", "margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and (math.isnan(value) or ("margin" in name and value < 0)):
                raise ValueError(f"{name} is {value}. Use a number{' of 0 or more' * ('margin' in name)}.")
        if not 1 <= self.first_rank <= self.last_rank:
            raise ValueError(
                f"first_rank is {self.first_rank} and last_rank is {self.last_rank}. "
                "Ranks start at 1, and last_rank must not be below first_rank."
            )
        if not 0 < self.max_overlap <= 1:
            raise ValueError(f"max_overlap is {self.max_overlap}. Use a number above 0 and at most 1.")


class Source(NamedTuple):
    """The candidates of one question from one run."""

    name: str
    """Name of the run, which each negative records."""
    scores: Mapping[str, float]
    """Score of each candidate by passage id."""
    number: int
    """Number of negatives to choose from this run."""


class Negative(NamedTuple):
    """A candidate that was chosen as a hard negative."""

    passage: Passage
    source: str
    """Name of the source."""
    rank: int
    """Rank in the source, counted from 1."""
    score: float
    """Score in the source."""


class RejectedCandidate(NamedTuple):
    """A candidate that was not chosen."""

    passage_id: str
    source: str
    """Name of the source."""
    rank: int
    """Rank in the source, counted from 1."""
    score: float
    """Score in the source."""
    reason: str
    """Reason for the rejection, such as "holds an answer"."""


def choose_hard_negatives(
    positives: Sequence[Passage],
    answers: Sequence[str],
    sources: Sequence[Source],
    find: Callable[[str], Passage],
    filters: Filters,
    *,
    regular_expressions: bool = False,
    same_question_positives: Sequence[tuple[int, int]] = (),
    slow: set[str] | None = None,
) -> tuple[list[Negative], list[RejectedCandidate]]:
    """Choose the hard negatives of one question, and return them with the rejected candidates.

    The sources are used in order. The candidates of a source are tried by rank until it has given its number of
    negatives.

    Args:
        positives: All known positives. Margins are relative to the score of the first one.
        answers: Answer strings. With ``filters.answers``, passages that contain one are rejected.
        sources: The candidates.
        find: Function that returns a passage by its id, such as ``PassageCollection.find``.
        filters: Conditions that a negative must meet.
        regular_expressions: Treat the answers as regular expressions.
        same_question_positives: ``Passage.keys`` of the positives of other rows with the same question.
        slow: Set that collects the regular expressions that time out. A timeout counts as no match.

    Raises:
        KeyError: ``find`` does not know a candidate.

    >>> passages = {"p": Passage("p", "", "a beetle ate"), "n": Passage("n", "", "a fig fell")}
    >>> negatives, rejected = choose_hard_negatives(
    ...     [passages["p"]], ["beetle"], [Source("bm25", {"p": 2.0, "n": 1.0}, 1)], passages.__getitem__, Filters()
    ... )
    >>> negatives[0].passage.passage_id, rejected[0].reason
    ('n', 'a positive')
    """
    taken: list[Negative] = []
    rejected: list[RejectedCandidate] = []
    known = {passage.passage_id for passage in positives} - {""}
    known_keys = set(chain.from_iterable(same_question_positives))
    texts = [_normalize(passage.text) for passage in positives]
    for source in sources:
        wanted = len(taken) + source.number
        highest = _find_highest_score(source, positives, filters)
        for rank, passage_id in enumerate(rank_passages(source.scores), start=1):
            if len(taken) == wanted:
                break
            score = source.scores[passage_id]
            reason = _reject_by_numbers(passage_id, rank, score, known, taken, highest, filters)
            passage = find(passage_id) if reason is None else None
            if passage is not None:
                reason = _reject_by_text(passage, texts, answers, taken, filters, regular_expressions, slow)
                if known_keys and not known_keys.isdisjoint(passage.keys):
                    reason = "a positive"
            if passage is None or reason is not None:
                rejected.append(RejectedCandidate(passage_id, source.name, rank, score, reason or ""))
            else:
                taken.append(Negative(passage, source.name, rank, score))
    return taken, rejected


def _find_highest_score(source: Source, positives: Sequence[Passage], filters: Filters) -> float | None:
    """Return the highest score that the margins allow. It is infinity without margins.

    Return None if a margin is set but the first positive has no score.
    """
    if filters.margin is None and filters.relative_margin is None:
        return float("inf")
    score = source.scores.get(positives[0].passage_id) if positives else None
    if score is None:
        return None
    return score - max(filters.margin or 0.0, abs(score) * (filters.relative_margin or 0.0))


def _reject_by_numbers(
    passage_id: str,
    rank: int,
    score: float,
    known: set[str],
    taken: Sequence[Negative],
    highest: float | None,
    filters: Filters,
) -> str | None:
    """Return the reason to reject a candidate by its id, rank or score. None if it passes."""
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


def _reject_by_text(
    passage: Passage,
    texts: Sequence[str],
    answers: Sequence[str],
    taken: Sequence[Negative],
    filters: Filters,
    regular_expressions: bool,
    slow: set[str] | None,
) -> str | None:
    """Return the reason to reject a candidate by its text. None if it passes."""
    text = _normalize(passage.text)
    if not text:
        return "no text"
    if text in texts:
        return "text of a positive"
    if filters.answers and has_answer(answers, passage.text, regular_expressions=regular_expressions, slow=slow):
        return "holds an answer"
    if any(measure_overlap(text, other) > filters.max_overlap for other in texts):
        return "near a positive"
    if any(measure_overlap(text, _normalize(negative.passage.text)) > filters.max_overlap for negative in taken):
        return "near one that is taken"
    return None


def measure_overlap(text: str, other: str) -> float:
    """Return the Jaccard similarity of the word trigrams of two texts (shingles; Broder 1997).

    >>> measure_overlap("the oak was old and tall", "the oak was old and dead")  # 3 shingles in both, 5 in either
    0.6
    """
    ours, theirs = _split_shingles(text), _split_shingles(other)
    return len(ours & theirs) / max(1, len(ours | theirs))


def _split_shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[place : place + _SHINGLE]) for place in range(max(1, len(words) - _SHINGLE + 1))}


def _normalize(text: str) -> str:
    """Return a text in NFC and case-folded, with single spaces between words and around Chinese characters."""
    return " ".join(separate_units(unicodedata.normalize("NFC", text)).casefold().split())
