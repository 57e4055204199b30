"""JSON objects, strictly as RFC 8259 has them, and what is wrong with a text that is none.

simdjson says quickly whether a text is one; where it is not, a slower look says why, at which byte.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import orjson
import simdjson

from text.datasets.formats.compressed_files import BYTE_ORDER_MARK
from text.datasets.formats.places import format_place
from text.errors import DataError

INTEGERS = range(-(1 << 63), 1 << 64)
"""Integers that the parser reads."""
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
    """Return the error about a line that ``parse_object`` refuses, with its place in the file.

    Args:
        line: The bytes of the row.
        path: For the message.
        number: 1-based line of the file at which ``line`` starts, for the message.
        offset: The byte of the file at which ``line`` starts, for the message.
        may_be_cut: This is the last row of a file that does not end in a newline.
        element: The row is this element of an array, and may have newlines between its parts.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        place, problem = _explain(line, error, element is not None)
        if place == len(line) and may_be_cut:
            row = "row" if element is None else "element"
            problem = f"file ends inside this {row}, at byte {offset + len(line)}; expected the rest of the {row}"
    else:
        place, problem = 0, _explain_value(record)
    label = "" if element is None else f" [{element}]"
    # The newline that ends a JSONL row is the end of its line, not the beginning of the next one.
    number += (line.removesuffix(b"\n") if element is None else line).count(b"\n", 0, place)
    return DataError(f"{format_place(path, number, offset + place)}{label}: {problem}")


def is_beginning(text: bytes) -> bool:
    """Whether nothing is wrong with a text, so far, but that it ends too early to be a JSON value."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _explain(text, error, True)[0] == len(text)
    return False


def _explain(line: bytes, error: orjson.JSONDecodeError, is_element: bool) -> tuple[int, str]:
    """Return the byte within the line, and what is wrong there; the line's end if it is cut."""
    expected = "expected a JSON object" if is_element else "expected one JSON object a line"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as decode_error:
        is_cut = decode_error.reason == "unexpected end of data"
        return len(line) if is_cut else decode_error.start, "not UTF-8; expected UTF-8"
    place = len(text[: error.pos].encode("utf-8"))
    if line.startswith(BYTE_ORDER_MARK):
        return 0, "byte order mark inside the file; expected one at byte 0 only"
    if _CUT_SURROGATE.fullmatch(text, error.pos):
        place = len(line)
    if place < len(line) and (hole := line.find(bytes(8))) >= 0:
        return hole, "hole of NUL bytes (a writer that crashed?); expected a JSON object"
    if place < len(line) and not is_element and b"\r" in line.rstrip(b"\r\n"):
        return line.index(b"\r"), "lone carriage return; expected rows that end in a newline"
    if "after document" in error.msg:
        return place, f"extra data after the object; {expected}"
    return place, f"invalid JSON ({error.msg}); {expected}"


def _explain_value(record: Any) -> str:
    """Return what is wrong with a line that is valid JSON for orjson."""
    if isinstance(record, dict):
        return "nested too deeply; expected a record in the DPR format"
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    found = names.get(type(record), "a number")
    hint = "; a file that is one JSON array starts with it" if found == "an array" else ""
    return f"row is {found}; expected a JSON object{hint}"
