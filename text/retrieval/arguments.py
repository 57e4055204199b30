"""Check what a program hands to a search or to an embedder: lists of texts, and the number of results."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

from text.records import Passage


def list_texts(texts: Iterable[str] | Iterable[Passage], name: str = "text") -> list[Any]:
    """Return texts in a list, and check each of them.

    Args:
        texts: A list, a tuple, an array of NumPy, or anything else that yields texts in their order.
        name: What one of them is called in errors.

    Raises:
        TypeError: ``texts`` is a string, a dict or a set, or one of the texts is neither a string nor a passage; with
            its place.
        ValueError: A text has half of a surrogate pair.
    """
    if isinstance(texts, (str, bytes, Mapping, Set, Passage)) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}s is a {type(texts).__name__}. Give a list of {name}s.")
    listed = list(texts)
    for row, text in enumerate(listed):
        _check_text(text, f"{name} {row}")
    return listed


def list_questions(questions: Iterable[str]) -> list[str]:
    """Return questions in a list, and check each of them.

    Raises:
        TypeError: ``questions`` is a string, a dict or a set, or a question is no string; with its place.
        ValueError: A question has half of a surrogate pair.
    """
    listed = list_texts(questions, "question")
    for row, question in enumerate(listed):
        if not isinstance(question, str):
            raise TypeError(f"question {row} is a {type(question).__name__}. Give a string.")
    return listed


def check_k(k: int) -> int:
    """Return k, the number of passages for each question, as an int.

    Raises:
        TypeError: k is no whole number.
        ValueError: k is below 1.

    >>> check_k(10)
    10
    """
    try:
        number = operator.index(k)
    except TypeError:
        raise TypeError(f"k is {k!r}. Give a whole number.") from None
    if number < 1:
        raise ValueError(f"k is {number}; expected 1 or more")
    return number


def _check_text(text: object, place: str) -> None:
    """Check that a text is a string, or a passage of strings, in Unicode."""
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
            raise ValueError(f"{part}{place}: {found} is half of a surrogate pair. Give Unicode text.") from None
