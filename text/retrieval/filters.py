"""Conditions that a hard negative must meet, and the overlap of two texts."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from text.words import separate_units

_SHINGLE = 3
"""Words per shingle. Two texts are compared by their shingles. A Chinese character counts as a word."""
_NUMBERS = ("min_score", "max_score", "margin", "relative_margin", "teacher_margin", "teacher_relative_margin")
"""Filters that are numbers or None."""


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
    teacher_margin: float | None = None
    """Reject candidates that the teacher scores above the first positive's score minus this margin. Needs --teacher
    (denoised negatives of RocketQA, arXiv:2010.08191; TopK-MarginPos of NV-Retriever, arXiv:2407.15831)."""
    teacher_relative_margin: float | None = None
    """Like teacher_margin, as a fraction of the positive's score. TopK-PercPos of NV-Retriever uses 0.05. Use it only
    with a teacher whose scores are all positive."""
    answers: bool = True
    """Reject candidates that contain an answer. Set it to false if answers are very common words, such as yes."""
    max_overlap: float = 0.8
    """Reject candidates whose word trigrams overlap more than this with a positive or a chosen negative (Jaccard
    similarity). Lower it if negatives repeat each other; 1 turns this filter off."""

    @property
    def needs_teacher(self) -> bool:
        """True if a filter compares scores of a teacher."""
        return self.teacher_margin is not None or self.teacher_relative_margin is not None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
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


def find_highest_score(score: float | None, margin: float | None, relative_margin: float | None) -> float | None:
    """Return the highest score that the margins allow. It is infinity without margins.

    Args:
        score: Score of the first positive, or None if it has none.
        margin: Distance to this score.
        relative_margin: Distance to this score, as a fraction of it.

    Returns:
        None if there is a margin and no score.

    >>> find_highest_score(0.8, 0.05, None), find_highest_score(-2.0, None, 0.5)
    (0.75, -3.0)
    """
    if margin is None and relative_margin is None:
        return math.inf
    return None if score is None else score - max(margin or 0.0, abs(score) * (relative_margin or 0.0))


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


def normalize_text(text: str) -> str:
    """Return a text in NFC and case-folded, with single spaces between words and around Chinese characters."""
    return " ".join(separate_units(unicodedata.normalize("NFC", text)).casefold().split())
