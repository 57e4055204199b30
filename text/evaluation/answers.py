"""Answer matching and top-k accuracy as DPR defines them (arXiv:2004.04906, section 5.1).

Answers and passages are normalized to Unicode NFD and split into words. A word is a run of letters, digits and marks.
Every other character is a word of its own, except separators and control characters. Titles are not searched.

DPR's rule cannot match words in scripts without spaces, such as Chinese. There, each letter is a word of its own, so
matching compares strings (``text/words.py``). All other texts are matched exactly as in DPR.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from text.words import compile_expression, get_word_pattern

MAX_SECONDS = 0.1
"""Time limit for one regular expression in one passage. After that, the answer counts as not found."""


def has_answer(
    answers: Sequence[str], text: str, *, regular_expressions: bool = False, slow: set[str] | None = None
) -> bool:
    r"""Return whether a text contains at least one of the answers.

    An answer matches if its words occur in the text one after another, ignoring case. An answer without words matches
    every text, as in DPR. In scripts without spaces, such as Chinese, each letter is a word.

    Args:
        answers: Correct answers of a question.
        text: Text of a passage.
        regular_expressions: Treat answers as regular expressions (CuratedTREC). An invalid expression never matches.
        slow: Set that collects the regular expressions that exceeded ``MAX_SECONDS``. They count as not found.

    >>> has_answer(["Mount Pelee"], "In 1902 MOUNT PELEE destroyed Saint-Pierre.")
    True
    >>> has_answer(["Pele"], "Mount Pelee"), has_answer(["saint pierre"], "Saint-Pierre")  # "-" is a word
    (False, False)
    >>> has_answer(["中国"], "长城是中国古代的军事防御工程"), has_answer(["1985"], "他生于1985年")
    (True, True)
    >>> has_answer([r"19\d\d"], "in 1902", regular_expressions=True)
    True
    """
    if regular_expressions:
        return any(_match_expression(answer, unicodedata.normalize("NFD", text), slow) for answer in answers)
    words = _join_words(text)
    return any(_join_words(answer) in words for answer in answers)


def find_answer_spans(answers: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Return the spans at which ``has_answer`` finds the answers.

    Args:
        answers: Correct answers of a question. Regular expressions are not supported.
        text: Text of a passage.

    Returns:
        Start and end of each span, in characters, sorted. Overlapping spans are merged. An answer without words has no
        span.
    """
    normal, words = unicodedata.normalize("NFD", text), _join_words(text)
    # NFD decomposes each character on its own. It may reorder marks, but only within a word.
    origins = [place for place, character in enumerate(text) for _ in unicodedata.normalize("NFD", character)]
    found = get_word_pattern(normal).finditer(normal)
    places = [(origins[word.start()], origins[word.end() - 1] + 1) for word in found]
    spans: list[tuple[int, int]] = []
    for first, last in sorted(_find_occurrences(answers, words)):
        start, end = places[first][0], places[last][1]
        if spans and start < spans[-1][1]:
            earlier = spans.pop()
            start, end = earlier[0], max(end, earlier[1])
        spans.append((start, end))
    return spans


def top_k_accuracy(hits: Sequence[Sequence[bool]], k: int) -> float:
    """Return the share of questions with an answer in one of their first k passages.

    Args:
        hits: For each question, whether each found passage has an answer, best passage first. Lengths may differ.
        k: Cut-off.

    Raises:
        ValueError: ``hits`` is empty.

    >>> top_k_accuracy([[False, True], [False, False], [True]], k=1)
    0.3333...
    """
    if not hits:
        raise ValueError("There are no questions.")
    return sum(any(has_hit[:k]) for has_hit in hits) / len(hits)


@lru_cache(maxsize=1 << 15)
def _join_words(text: str) -> str:
    """Return the words of a text, each between two spaces. A substring test then finds sequences of words."""
    normal = unicodedata.normalize("NFD", text)
    return "".join(f" {word.lower()} " for word in get_word_pattern(normal).findall(normal))


def _find_occurrences(answers: Sequence[str], words: str) -> Iterator[tuple[int, int]]:
    """Yield the positions of the first and the last word of each occurrence of an answer."""
    for answer in map(_join_words, answers):
        length, spaces, seen = answer.count(" ") // 2, 0, 0
        while answer and (at := words.find(answer, seen)) >= 0:
            spaces += words.count(" ", seen, at + 1)  # Two per preceding word, plus the first space of this word.
            yield spaces // 2, spaces // 2 + length - 1
            seen = at + 1


def _match_expression(pattern: str, text: str, slow: set[str] | None) -> bool:
    compiled = compile_expression(unicodedata.normalize("NFD", pattern))
    try:
        return compiled is not None and compiled.search(text, timeout=MAX_SECONDS) is not None
    except TimeoutError:
        if slow is not None:
            slow.add(pattern)
        return False
