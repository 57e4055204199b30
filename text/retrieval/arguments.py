"""Check the arguments of a search or an embedder: lists of texts, and the number of results."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

from text.records import Passage


def list_texts(texts: Iterable[str] | Iterable[Passage], name: str = "text") -> list[Any]:
    """Return the texts as a list, and check each text.

    Args:
        texts: A list, a tuple, a NumPy array, or any other ordered iterable.
        name: Name of one text in error messages.

    Raises:
        TypeError: ``texts`` is a string, a dict or a set. Or a text is neither a string nor a passage; the message
            names its position.
        ValueError: A text contains a lone surrogate, so it is not valid Unicode.
    """
    if isinstance(texts, (str, bytes, Mapping, Set, Passage)) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}s is a {type(texts).__name__}. Give a list of {name}s.")
    listed = list(texts)
    for row, text in enumerate(listed):
        _check_text(text, f"{name} {row}")
    return listed


def list_questions(questions: Iterable[str]) -> list[str]:
    """Return the questions as a list, and check each question.

    Raises:
        TypeError: ``questions`` is a string, a dict or a set. Or a question is not a string; the message names its
            position.
        ValueError: A question contains a lone surrogate, so it is not valid Unicode.
    """
    listed = list_texts(questions, "question")
    for row, question in enumerate(listed):
        if not isinstance(question, str):
            raise TypeError(f"question {row} is a {type(question).__name__}. Give a string.")
    return listed


def check_k(k: int) -> int:
    """Return k, the number of passages per question, as an int.

    Raises:
        TypeError: k is not an integer.
        ValueError: k is below 1.

    >>> check_k(10)
    10
    """
    try:
        number = operator.index(k)
    except TypeError:
        raise TypeError(f"k is {k!r}. It must be an integer.") from None
    if number < 1:
        raise ValueError(f"k is {number}; expected 1 or more")
    return number


def _check_text(text: object, place: str) -> None:
    """Check that a text is a string or a passage, and that it is valid Unicode."""
    parts = {"": text}
    if isinstance(text, Passage):
        parts = {"passage_id of ": text.passage_id, "title of ": text.title, "text of ": text.text}
    for part, value in parts.items():
        if not isinstance(value, str):
            advice = "Give a string." if part else "Give a string, or a text.records.Passage(passage_id, title, text)."
            raise TypeError(f"{part}{place} is a {type(value).__name__}. {advice}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = ascii(value[error.start])
            raise ValueError(f"{part}{place}: {found} is a lone surrogate. Use valid Unicode text.") from None
