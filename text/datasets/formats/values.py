"""Conversion of JSON values to strings. A value with one possible meaning is read. Any other value is a FieldError."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from simdjson import Array, Object

from text.words import has_word

JsonObject = Object | dict[str, Any]
"""A JSON object of simdjson or orjson."""
_EXACT_FLOATS = float(1 << 53)
"""Smallest absolute value at which two integers can be the same float."""
_CONTAINER = re.compile(
    r"""\s*(
      \[\s*(np\.\w+\()?['"].*['"]\)?,?\s*\]?  # list, or the beginning of a list
    | \(\s*['"].*['"]\s*,.*\)                 # tuple
    | \{\s*['"].*\}                           # set or dictionary
    | (np\.|numpy\.)?array\(\s*\[.*           # NumPy array
    )\s*""",
    re.DOTALL | re.VERBOSE,
)
"""A container of strings as Python or NumPy prints it. A text such as ``[sic] yes`` does not match."""
_BRACKETS = re.compile(r"""\s*(\[.*\]|\(\s*['"].*\))\s*""", re.DOTALL)
"""A string that may be a printed list."""
TEXT_KEYS = ("text", "contents")
"""Keys of a passage's text. Pyserini uses ``contents``."""
QUESTION_ID_KEYS = ("_id", "question_id", "qid", "query_id", "id")
"""Keys of a question's id, in order of precedence."""
PASSAGE_ID_KEYS = ("passage_id", "psg_id", "id", "docidx")
"""Keys of a passage's id in the DPR format, in order of precedence."""
_LOOKS_LIKE_LIST = "answers: a string that looks like a list. Give a list of strings"


class FieldError(ValueError):
    """Error for a field that is missing or has the wrong type.

    The message is ``FIELD: PROBLEM`` or ``FIELD: PROBLEM. DETAILS``. ``split_reason`` splits it.
    """


class Reason(NamedTuple):
    """Reason why a row is unusable."""

    kind: str
    """Reason without list indices and details, so that many rows share it."""
    field: str
    """Field with the problem. Empty if the reason concerns the whole row."""
    details: str


def split_reason(reason: str) -> Reason:
    """Split the message of a FieldError into kind, field and details. Another reason is returned whole.

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
    """Return a number as text, or None for other values and for numbers that can be written in several ways.

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
    """Return a string field. A number is read as text and counted.

    Args:
        value: JSON value of the field.
        field: Name of the field for the error message.
        plural: Plural noun for the count, such as "titles".
        counts: Number of converted values per kind. It is updated.

    Raises:
        FieldError: The value is neither a string nor a number.
    """
    if type(value) is str:
        return value
    text = number_to_text(value)
    if text is None:
        raise FieldError(f"{field}: {describe_type(value)}. Give a string")
    counts[f"{plural} that are numbers, read as text"] += 1
    return text


def read_title(value: Any, field: str, counts: Counter[str]) -> str:
    """Return a title. A null title is read as an empty string.

    Raises:
        FieldError: The value is neither a string nor a number nor null.
    """
    return "" if value is None else read_string(value, field, "titles", counts)


def read_text(record: JsonObject, prefix: str) -> str | None:
    """Return the text of a passage, or None if it is null.

    Args:
        record: JSON object of the passage.
        prefix: Field of the passage in its row, for the error message, such as ``positive_ctxs[0].``.

    Raises:
        FieldError: Both text keys are missing, or the value is neither a string nor null.
    """
    for key in TEXT_KEYS:
        value = record.get(key)
        if type(value) is str:
            return value
        if value is not None:
            raise FieldError(f"{prefix}{key}: {describe_type(value)}. Give a string")
    if not any(key in record for key in TEXT_KEYS):
        raise FieldError(f"{prefix}text: missing. Give one of the keys {', '.join(TEXT_KEYS)}; {list_keys(record)}")
    return None


def list_keys(record: JsonObject) -> str:
    """Return the keys of a record as one line for an error message."""
    return f"found {' '.join(', '.join(record).split())[:200] or 'none'}"


def check_no_repeated_key(keys: list[str]) -> None:
    """Check that no key occurs twice in an object, because a parser would silently use one of the two values.

    Raises:
        FieldError: A key occurs twice. The message names it.
    """
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise FieldError(f"{twice}: key stands twice in one object. Give each key once")


def read_id(value: Any, field: str, counts: Counter[str]) -> str:
    """Return an id as text. A float such as 12.0 is read as an integer and counted.

    Raises:
        FieldError: The value is not a string or integer, or is a float beyond the exact integers.
    """
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if type(value) is not float or not value.is_integer() or abs(value) >= _EXACT_FLOATS:
        raise FieldError(f"{field}: {describe_type(value)}. Give a string or an integer below 2^64")
    counts["ids such as 12.0, read as 12"] += 1
    return str(int(value))


def find_question_id(record: JsonObject) -> str:
    """Return the id of a question as text. The id is empty if it is missing or not a string or integer."""
    key, value = find_id(record, QUESTION_ID_KEYS)
    try:
        return "" if value is None else read_id(value, key, Counter())
    except FieldError:
        return ""


def find_id(record: JsonObject, keys: Sequence[str]) -> tuple[str, Any]:
    """Return the first key whose value is neither null nor empty, and the value.

    If there is no such key, return a key with an empty string, or else the first key and None.
    """
    empty: tuple[str, Any] = (keys[0], None)
    for key in keys:
        value = record.get(key)
        if value is not None and value != "":
            return key, value
        empty = empty if value is None else (key, value)
    return empty


def find_answers(record: JsonObject) -> Any:
    """Return the value of ``answers``.

    If ``answers`` is missing, ``answer`` is read. Some data sets store an object in ``answer``, which is ignored.
    """
    answers = record.get("answers")
    if answers is None:
        answers = record.get("answer")
        return answers if type(answers) in (str, int, float, Array) else None
    return answers


def read_answers(answers: Any, counts: Counter[str]) -> list[str]:
    """Return the answers of a question. Answers without a word are dropped, because every passage contains them.

    A single string is read as a list of one answer, and a number as text. Both are counted.

    Raises:
        FieldError: An answer has another type, or the only answer looks like a printed list.
    """
    if answers is None:
        return []
    if type(answers) not in (Array, list):
        answers = [_read_single_answer(answers, counts)]
    texts = [answer for answer in answers if type(answer) is str and has_word(answer)]
    if len(texts) < len(answers):
        texts = [text for i, answer in enumerate(answers) if has_word(text := _read_answer(answer, i, counts))]
        counts["blank answers, left out"] += len(answers) - len(texts)
    if len(texts) == 1 == len(answers) and _CONTAINER.fullmatch(texts[0]):
        raise FieldError(_LOOKS_LIKE_LIST)
    return texts


def describe_type(value: Any) -> str:
    """Return the type of a JSON value as words for an error message."""
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


def _read_single_answer(answer: Any, counts: Counter[str]) -> str:
    text = answer if type(answer) is str else number_to_text(answer)
    if text is None:
        raise FieldError(f"answers: {describe_type(answer)}. Give a list of strings")
    if _BRACKETS.fullmatch(text):
        raise FieldError(_LOOKS_LIKE_LIST)
    counts["answers that are no list, read as one answer"] += 1
    return text


def _read_answer(answer: Any, i: int, counts: Counter[str]) -> str:
    if answer is None or type(answer) is str:
        return answer or ""
    text = number_to_text(answer)
    if text is None:
        raise FieldError(f"answers[{i}]: {describe_type(answer)}. Give a string")
    counts["answers that are numbers, read as text"] += 1
    return text
