"""Whether a passage holds an answer, as DPR defines it (arXiv:2004.04906, 5.1): published figures depend on it.

Both are brought into Unicode's NFD. Words are runs of letters, digits and marks; every other character that is neither
space nor control is a word of its own. A title is not looked into.

DPR's rule finds nothing in scripts that put no spaces between words. There, each letter is a word of its own, which
compares texts as strings (``text/words.py``). A text without such letters is compared as DPR does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from text.words import compile_expression, word_pattern

SECONDS = 0.1
"""Most time for one regular expression in one passage; what takes longer counts as not found."""


def has_answer(
    answers: Sequence[str], text: str, *, regular_expressions: bool = False, slow: set[str] | None = None
) -> bool:
    r"""Whether one of the answers stands in a text.

    As words, lower-cased, one after the other. An answer without any word is found in every text, as DPR finds it.
    In scripts without spaces, such as Chinese, each letter is a word.

    Args:
        answers: Known to be right.
        text: Of a passage.
        regular_expressions: Answers are such, as those of CuratedTREC; one that is not valid is not found.
        slow: Gets the regular expressions that took more than ``SECONDS``, and so count as not found.

    >>> has_answer(["Mount Pelee"], "In 1902 MOUNT PELEE destroyed Saint-Pierre.")
    True
    >>> has_answer(["Pele"], "Mount Pelee"), has_answer(["saint pierre"], "Saint-Pierre")  # words; "-" is one
    (False, False)
    >>> has_answer(["中国"], "长城是中国古代的军事防御工程"), has_answer(["1985"], "他生于1985年")
    (True, True)
    >>> has_answer([r"19\d\d"], "in 1902", regular_expressions=True)
    True
    """
    if regular_expressions:
        return any(_matches(answer, unicodedata.normalize("NFD", text), slow) for answer in answers)
    words = _words(text)
    return any(_words(answer) in words for answer in answers)


def answer_spans(answers: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Where ``has_answer`` finds the answers: start and end in the text, in order; those that overlap as one.

    An answer without any word is found, but nowhere.

    Args:
        answers: Known to be right; not regular expressions.
        text: Of a passage.
    """
    normal, words = unicodedata.normalize("NFD", text), _words(text)
    # Normal form takes characters apart one by one, and orders the marks behind a letter, which all are in its word.
    origins = [place for place, character in enumerate(text) for _ in unicodedata.normalize("NFD", character)]
    places = [(origins[word.start()], origins[word.end() - 1] + 1) for word in word_pattern(normal).finditer(normal)]
    spans: list[tuple[int, int]] = []
    for first, last in sorted(_occurrences(answers, words)):
        start, end = places[first][0], places[last][1]
        if spans and start < spans[-1][1]:
            earlier = spans.pop()
            start, end = earlier[0], max(end, earlier[1])
        spans.append((start, end))
    return spans


def top_k_accuracy(hits: Sequence[Sequence[bool]], k: int) -> float:
    """Share of questions with an answer in one of their first k passages.

    Args:
        hits: Of each question, best first: whether a passage has an answer; shorter where fewer were found.
        k: Cut-off.

    Raises:
        ValueError: There are no questions.

    >>> top_k_accuracy([[False, True], [False, False], [True]], k=1)
    0.3333...
    """
    if not hits:
        raise ValueError("no questions; expected one or more")
    return sum(any(of_question[:k]) for of_question in hits) / len(hits)


@lru_cache(maxsize=1 << 15)
def _words(text: str) -> str:
    """Each word between two spaces, so that one list of words is in another where its text is in the other's."""
    normal = unicodedata.normalize("NFD", text)
    return "".join(f" {word.lower()} " for word in word_pattern(normal).findall(normal))


def _occurrences(answers: Sequence[str], words: str) -> Iterator[tuple[int, int]]:
    """Numbers of the first and the last word, wherever an answer stands."""
    for answer in map(_words, answers):
        length, spaces, seen = answer.count(" ") // 2, 0, 0
        while answer and (at := words.find(answer, seen)) >= 0:
            spaces += words.count(" ", seen, at + 1)  # two for each word before this one, and its first
            yield spaces // 2, spaces // 2 + length - 1
            seen = at + 1


def _matches(pattern: str, text: str, slow: set[str] | None) -> bool:
    compiled = compile_expression(unicodedata.normalize("NFD", pattern))
    try:
        return compiled is not None and compiled.search(text, timeout=SECONDS) is not None
    except TimeoutError:
        if slow is not None:
            slow.add(pattern)
        return False
