"""Values of JSON fields as strings. A value with one possible meaning is read, every other one is a FieldError."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from simdjson import Array

_EXACT_FLOATS = float(1 << 53)
"""From here on two integers can be the same float."""
_LIST = re.compile(r"""\s*(\[.*\]|\(\s*['"].*\))\s*""", re.DOTALL)
"""A list or a tuple of strings, as Python and numpy write them."""


class FieldError(ValueError):
    """A field is missing or has the wrong type.

    The message is ``FIELD: PROBLEM``, or ``FIELD: PROBLEM. DETAILS``. ``split_reason`` takes it apart.
    """


class Reason(NamedTuple):
    """Why a row cannot be used."""

    kind: str
    """Without numbers of elements and details: many rows have the same."""
    field: str
    """Empty if the reason is not about one field."""
    details: str


def split_reason(reason: str) -> Reason:
    """Take the message of a FieldError apart. Another reason stays whole.

    >>> split_reason("positive_ctxs[0].text: a number. Give a string")
    Reason(kind='positive_ctxs.text: a number', field='positive_ctxs[0].text', details='Give a string')
    >>> split_reason("blank question")
    Reason(kind='blank question', field='', details='')
    """
    field, colon, problem = reason.partition(": ")
    if not colon:
        return Reason(reason, "", "")
    problem, _, details = problem.partition(". ")
    return Reason(re.sub(r"\[\d+\]", "", field) + f": {problem}", field, details)


def number_to_text(value: Any) -> str | None:
    """Return a number as text, or None for any other value and for a number that can be written in several ways.

    >>> number_to_text(1984), number_to_text(12.0), number_to_text(2.5), number_to_text(1e30), number_to_text(True)
    ('1984', '12', '2.5', None, None)
    """
    if type(value) is int:
        return str(value)
    if type(value) is not float or abs(value) >= _EXACT_FLOATS:
        return None
    text = repr(value)
    return str(int(value)) if value.is_integer() else None if "e" in text else text


def read_title(value: Any, field: str, counts: Counter[str]) -> str:
    """Return a title. A number is read as text, and counted.

    Raises:
        FieldError: The value has another type.
    """
    if value is None or type(value) is str:
        return value or ""
    title = number_to_text(value)
    if title is None:
        raise FieldError(f"{field}: {kind(value)}. Give a string or null")
    counts["titles that are numbers, read as text"] += 1
    return title


def read_id(value: Any, field: str, counts: Counter[str]) -> str:
    """Return an id. An integer is read as text. So is a float such as 12.0, and it is counted.

    Raises:
        FieldError: The value has another type, or is a number that a float cannot hold exactly.
    """
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if type(value) is not float or not value.is_integer() or abs(value) >= _EXACT_FLOATS:
        raise FieldError(f"{field}: {kind(value)}. Give a string or an integer below 2^64")
    counts["ids such as 12.0, read as 12"] += 1
    return str(int(value))


def read_answers(answers: Any, counts: Counter[str]) -> list[str]:
    """Return the answers of a question without blank ones, which would be found in every passage.

    One string is read as a list of one answer, and a number as text. Both are counted.

    Raises:
        FieldError: An answer has another type, or a string looks like a list.
    """
    if answers is None:
        return []
    if type(answers) not in (Array, list):
        answers = [_read_only_answer(answers, counts)]
    texts = [answer for answer in answers if type(answer) is str and answer.strip()]
    if len(texts) < len(answers):
        texts = [text for i, answer in enumerate(answers) if (text := _read_answer(answer, i, counts)).strip()]
        counts["blank answers, left out"] += len(answers) - len(texts)
    return texts


def kind(value: Any) -> str:
    """Return the kind of a JSON value, for a message."""
    names = {
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        Array: "a list",
        list: "a list",
        type(None): "null",
    }
    return names.get(type(value), "an object")


def _read_only_answer(answer: Any, counts: Counter[str]) -> str:
    text = answer if type(answer) is str else number_to_text(answer)
    if text is None:
        raise FieldError(f"answers: {kind(answer)}. Give a list of strings")
    if _LIST.fullmatch(text):
        raise FieldError("answers: a string that looks like a list. Give a list of strings")
    counts["answers that are no list, read as one answer"] += 1
    return text


def _read_answer(answer: Any, i: int, counts: Counter[str]) -> str:
    if answer is None or type(answer) is str:
        return answer or ""
    text = number_to_text(answer)
    if text is None:
        raise FieldError(f"answers[{i}]: {kind(answer)}. Give a string")
    counts["answers that are numbers, read as text"] += 1
    return text
