"""Values of JSON fields as strings. A value with one possible meaning is read, every other one is a FieldError."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from simdjson import Array, Object

from text.words import has_word

_EXACT_FLOATS = float(1 << 53)
"""From here on two integers can be the same float."""
_CONTAINER = re.compile(
    r"""\s*(
      \[\s*(np\.\w+\()?['"].*['"]\)?,?\s*\]?  # list, or the beginning of one
    | \(\s*['"].*['"]\s*,.*\)                 # tuple
    | \{\s*['"].*\}                           # set or dictionary
    | (np\.|numpy\.)?array\(\s*\[.*           # array of NumPy
    )\s*""",
    re.DOTALL | re.VERBOSE,
)
"""A container of strings, as Python and NumPy write it. A text in brackets such as ``[sic] yes`` is none."""
_BRACKETS = re.compile(r"""\s*(\[.*\]|\(\s*['"].*\))\s*""", re.DOTALL)
"""A value that is no list, but may have been one."""
TEXT_KEYS = ("text", "contents")
"""Where a passage has its text; ``contents`` is Pyserini's."""
QUESTION_ID_KEYS = ("_id", "question_id", "qid", "query_id", "id")
"""Where a question has its id."""
_LOOKS_LIKE_LIST = "answers: a string that looks like a list. Give a list of strings"


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


def read_string(value: Any, field: str, plural: str, counts: Counter[str]) -> str:
    """Return a string. A number is read as text, and counted under the plural of its name.

    Raises:
        FieldError: The value has another type.
    """
    if type(value) is str:
        return value
    text = number_to_text(value)
    if text is None:
        raise FieldError(f"{field}: {kind(value)}. Give a string")
    counts[f"{plural} that are numbers, read as text"] += 1
    return text


def read_title(value: Any, field: str, counts: Counter[str]) -> str:
    """Return a title, which is empty where there is none.

    Raises:
        FieldError: The value is neither a string nor a number nor null.
    """
    return "" if value is None else read_string(value, field, "titles", counts)


def read_text(record: Object, prefix: str) -> str | None:
    """Return the text of a passage, or None if it is null.

    Args:
        record: The passage.
        prefix: Place of the passage in its row, for a message, such as ``positive_ctxs[0].``.

    Raises:
        FieldError: No key of a text is there, or its value has another type.
    """
    for key in TEXT_KEYS:
        value = record.get(key)
        if type(value) is str:
            return value
        if value is not None:
            raise FieldError(f"{prefix}{key}: {kind(value)}. Give a string")
    if not any(key in record for key in TEXT_KEYS):
        raise FieldError(f"{prefix}text: missing. Give one of the keys {', '.join(TEXT_KEYS)}; {list_keys(record)}")
    return None


def list_keys(record: Object) -> str:
    """Return the keys of a record, whatever they are, in one line for a message."""
    return f"found {' '.join(', '.join(record).split())[:200] or 'none'}"


def refuse_repeated_key(keys: list[str]) -> None:
    """Refuse an object in which a key stands twice: a parser would choose silently.

    Raises:
        FieldError: With the key.
    """
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise FieldError(f"{twice}: key stands twice in one object. Give each key once")


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


def find_question_id(record: Object) -> str:
    """Return the id of a question as text. Empty if a row gives none, or one that is no string and no whole number."""
    key, value = find_id(record, QUESTION_ID_KEYS)
    try:
        return "" if value is None else read_id(value, key, Counter())
    except FieldError:
        return ""


def find_id(record: Object, keys: Sequence[str]) -> tuple[str, Any]:
    """Return the first of these keys whose value is neither null nor an empty string, and its value.

    Without one, an empty string is returned with its key, or None with the first key.
    """
    empty: tuple[str, Any] = (keys[0], None)
    for key in keys:
        value = record.get(key)
        if value is not None and value != "":
            return key, value
        empty = empty if value is None else (key, value)
    return empty


def find_answers(record: Object) -> Any:
    """Return the value of ``answers``.

    Where it is missing, ``answer`` is read if it is a string, a number or a list. Some data sets have an object there.
    """
    answers = record.get("answers")
    if answers is None:
        answers = record.get("answer")
        return answers if type(answers) in (str, int, float, Array) else None
    return answers


def read_answers(answers: Any, counts: Counter[str]) -> list[str]:
    """Return the answers of a question without those that have no word, which would be found in every passage.

    One string is read as a list of one answer, and a number as text. Both are counted.

    Raises:
        FieldError: An answer has another type, or the only one looks like a list.
    """
    if answers is None:
        return []
    if type(answers) not in (Array, list):
        answers = [_read_only_answer(answers, counts)]
    texts = [answer for answer in answers if type(answer) is str and has_word(answer)]
    if len(texts) < len(answers):
        texts = [text for i, answer in enumerate(answers) if has_word(text := _read_answer(answer, i, counts))]
        counts["blank answers, left out"] += len(answers) - len(texts)
    if len(texts) == 1 == len(answers) and _CONTAINER.fullmatch(texts[0]):
        raise FieldError(_LOOKS_LIKE_LIST)
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
    if _BRACKETS.fullmatch(text):
        raise FieldError(_LOOKS_LIKE_LIST)
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
