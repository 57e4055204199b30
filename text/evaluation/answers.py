"""Whether a passage holds an answer, as DPR defines it (arXiv:2004.04906, 5.1): published figures depend on it.

Both are brought into Unicode's NFD. Words are runs of letters, digits and marks; every other character that is neither
space nor control is a word of its own. A title is not looked into.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import regex

_FLAGS = regex.IGNORECASE | regex.UNICODE | regex.MULTILINE
_WORDS = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]", _FLAGS)
SECONDS = 0.1
"""Most time for one regular expression in one passage; what takes longer counts as not found."""


def has_answer(answers: Sequence[str], text: str, *, regular_expressions: bool = False) -> bool:
    """Whether one of the answers stands in a text.

    As words, lower-cased, one after the other. An answer without any word is found in every text, as DPR finds it.

    Args:
        answers: Known to be right.
        text: Of a passage.
        regular_expressions: Answers are such, as those of CuratedTREC; one that is not valid is not found.
    """
    if regular_expressions:
        return any(_matches(answer, unicodedata.normalize("NFD", text)) for answer in answers)
    words = _words(text)
    return any(_words(answer) in words for answer in answers)


def top_k_accuracy(hits: Sequence[Sequence[bool]], k: int) -> float:
    """Share of questions with an answer in one of their first k passages.

    Args:
        hits: Of each question, best first: whether a passage has an answer; shorter where fewer were found.
        k: Cut-off.
    """
    return sum(any(of_question[:k]) for of_question in hits) / len(hits)


@lru_cache(maxsize=1 << 15)
def _words(text: str) -> str:
    """Each word between two spaces, so that one list of words is in another where its text is in the other's."""
    words = [word.lower() for word in _WORDS.findall(unicodedata.normalize("NFD", text))]
    return "".join(f" {word} " for word in words)


def _matches(pattern: str, text: str) -> bool:
    compiled = _compiled(unicodedata.normalize("NFD", pattern))
    try:
        return compiled is not None and compiled.search(text, timeout=SECONDS) is not None
    except TimeoutError:
        return False


@lru_cache(maxsize=1 << 12)
def _compiled(pattern: str) -> regex.Pattern[str] | None:
    try:
        return regex.compile(pattern, _FLAGS)
    except regex.error:
        return None
