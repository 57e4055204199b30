"""JSON objects, strictly as RFC 8259 has them, and what is wrong with a text that is none.

simdjson says quickly whether a text is one; where it is not, a slower look says why, at which byte.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import orjson
import simdjson

from text.datasets.formats.compressed_files import BYTE_ORDER_MARK
from text.errors import DataError

_INTEGERS = range(-(1 << 63), 1 << 64)
_CUT_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\(u[0-9a-fA-F]{0,3})?")


def parse_object(line: bytes | memoryview, parser: simdjson.Parser) -> simdjson.Object:
    """One JSON object from one line, strictly as RFC 8259 has it; fields are converted when they are asked for.

    Raises:
        ValueError: It is not that; ``explain`` says why.
    """
    try:
        record = parser.parse(line)
    except RuntimeError as error:
        if "_ERROR: " not in str(error):  # not of the text: a part of the record before is still held
            raise
        raise ValueError(str(error)) from None  # too deep, or an integer out of range
    if type(record) is not simdjson.Object or line[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK:
        raise ValueError("not one JSON object")
    return record


def two_parsers() -> Iterator[simdjson.Parser]:
    """Two parsers in turn, for a loop whose variable still holds a record while the next one is parsed."""
    return itertools.cycle((simdjson.Parser(), simdjson.Parser()))


def explain(
    line: bytes, path: str, number: int, offset: int, *, may_be_cut: bool = False, element: int | None = None
) -> DataError:
    """What is wrong with a line that ``parse_object`` refuses, with its place in the file.

    Args:
        line: The bytes of the row.
        path: For the message.
        number: 1-based line, for the message.
        offset: The byte of the file at which ``line`` starts, for the message.
        may_be_cut: This is the last row of a file that does not end in a newline.
        element: The row is this element of an array, and may have newlines between its parts.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        place, field, problem = _explain(line, error, element is not None)
        if place == len(line) and may_be_cut:
            row = "row" if element is None else "element"
            problem = f"file ends inside this {row}, at byte {offset + len(line)}; expected the rest of the {row}"
    else:
        place, field, problem = _explain_value(line, record)
    label = f" {field}" if field else ""
    if element is not None:
        label = f" [{element}]" + (f".{field}" if field else "")
    return DataError(f"{path}:{number} (byte {offset + place}){label}: {problem}")


def is_beginning(text: bytes) -> bool:
    """Whether nothing is wrong with a text, so far, but that it ends too early to be a JSON value."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _explain(text, error, True)[0] == len(text)
    return False


def _explain(line: bytes, error: orjson.JSONDecodeError, is_element: bool) -> tuple[int, str, str]:
    """The byte within the line, the field if it is known, and what is wrong there; the line's end if it is cut."""
    expected = "expected a JSON object" if is_element else "expected one JSON object a line"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as decode_error:
        is_cut = decode_error.reason == "unexpected end of data"
        return len(line) if is_cut else decode_error.start, "", "not UTF-8; expected UTF-8"
    place = len(text[: error.pos].encode("utf-8"))
    if line.startswith(BYTE_ORDER_MARK):
        return 0, "", "byte order mark inside the file; expected one at byte 0 only"
    if _CUT_SURROGATE.fullmatch(text, error.pos):
        place = len(line)
    if place < len(line) and (hole := line.find(bytes(8))) >= 0:
        return hole, "", "hole of NUL bytes (a writer that crashed?); expected a JSON object"
    if place < len(line) and not is_element and b"\r" in line.rstrip(b"\r\n"):
        return line.index(b"\r"), "", "lone carriage return; expected rows that end in a newline"
    if field := _field(text, lambda value: isinstance(value, float) and not math.isfinite(value)):
        return place, field, "not a finite number; expected a JSON number"
    if "after document" in error.msg:
        return place, "", f"extra data after the object; {expected}"
    return place, "", f"invalid JSON ({error.msg}); {expected}"


def _explain_value(line: bytes, record: Any) -> tuple[int, str, str]:
    """Likewise, of a line that is valid JSON for orjson."""
    if not isinstance(record, dict):
        names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
        found = names.get(type(record), "a number")
        hint = "; a file that is one JSON array starts with it" if found == "an array" else ""
        return 0, "", f"row is {found}; expected a JSON object{hint}"
    field = _field(line.decode("utf-8"), lambda value: type(value) is int and value not in _INTEGERS)
    return 0, field or "", "integer out of range; expected one from -2^63 to 2^64 - 1"


def _field(text: str, is_wanted: Any) -> str | None:
    """The path of the first value of that kind, if Python's own, more tolerant parser can read the text."""
    try:
        return _find(json.loads(text), "", is_wanted)
    except (ValueError, RecursionError):
        return None


def _find(value: Any, path: str, is_wanted: Any) -> str | None:
    if is_wanted(value):
        return path.removeprefix(".")
    children = (
        [(f"{path}.{key}", child) for key, child in value.items()]
        if isinstance(value, dict)
        else [(f"{path}[{i}]", child) for i, child in enumerate(value)]
        if isinstance(value, list)
        else []
    )
    return next((found for name, child in children if (found := _find(child, name, is_wanted))), None)
