"""Strict JSON objects (RFC 8259), and errors that locate the problem in invalid JSON.

simdjson parses quickly. If it rejects a text, orjson parses the text again to find the reason and the byte.
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
"""Range of the integers that the parser accepts."""
_CUT_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\(u[0-9a-fA-F]{0,3})?")


def parse_object(line: bytes | memoryview, parser: simdjson.Parser) -> simdjson.Object:
    """Parse one JSON object, strictly by RFC 8259. Fields are converted on access.

    Raises:
        ValueError: The line is not one JSON object. ``explain_invalid_json`` finds the reason.
    """
    try:
        record = parser.parse(line)
    except RuntimeError as error:
        if "_ERROR: " not in str(error):  # The text is not the problem: the caller still holds a previous record.
            raise
        raise ValueError(str(error)) from None  # Nested too deeply, or an integer out of range.
    if type(record) is not simdjson.Object or line[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK:
        raise ValueError("not one JSON object")
    return record


def alternate_parsers() -> Iterator[simdjson.Parser]:
    """Yield two parsers in turn, so that a loop variable can hold a record while the next record is parsed."""
    return itertools.cycle((simdjson.Parser(), simdjson.Parser()))


def explain_invalid_json(
    line: bytes, path: str, number: int, offset: int, *, may_be_cut: bool = False, element: int | None = None
) -> DataError:
    """Return the error for a line that ``parse_object`` rejects, with its location in the file.

    Args:
        line: Bytes of the row.
        path: Path of the file.
        number: 1-based number of the file's line at which ``line`` starts.
        offset: Byte offset in the file at which ``line`` starts.
        may_be_cut: True for the last row of a file that does not end with a newline.
        element: Index of the row in a JSON array. Such a row may contain newlines.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        place, problem = _find_problem(line, error, element is not None)
        if place == len(line) and may_be_cut:
            row = "row" if element is None else "element"
            problem = f"file is truncated inside this {row}, at byte {offset + len(line)}. Restore the file."
    else:
        place, problem = 0, _explain_value(record)
    label = "" if element is None else f" [{element}]"
    # The newline at the end of a JSONL row belongs to the line of the row, not to the next line.
    number += (line.removesuffix(b"\n") if element is None else line).count(b"\n", 0, place)
    return DataError(f"{format_place(path, number, offset + place)}{label}: {problem}")


def is_incomplete_json(text: bytes) -> bool:
    """Return whether a text is the beginning of a JSON value, without an error before its end."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _find_problem(text, error, True)[0] == len(text)
    return False


def _find_problem(line: bytes, error: orjson.JSONDecodeError, is_element: bool) -> tuple[int, str]:
    """Return the byte and the description of the first problem. For a truncated line, the byte is the line's end."""
    expected = "expected a JSON object" if is_element else "expected one JSON object per line"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as decode_error:
        is_cut = decode_error.reason == "unexpected end of data"
        return len(line) if is_cut else decode_error.start, "not UTF-8. Convert the file to UTF-8."
    place = len(text[: error.pos].encode("utf-8"))
    if line.startswith(BYTE_ORDER_MARK):
        return 0, "byte order mark inside the file. Remove it; it may only be at byte 0."
    if _CUT_SURROGATE.fullmatch(text, error.pos):
        place = len(line)
    if place < len(line) and (hole := line.find(bytes(8))) >= 0:
        return hole, "run of NUL bytes, perhaps left by a writer that crashed. Write the file again."
    if place < len(line) and not is_element and b"\r" in line.rstrip(b"\r\n"):
        return line.index(b"\r"), "carriage return without a newline. End each row with a newline."
    if "after document" in error.msg:
        return place, f"extra data after the object; {expected}"
    return place, f"invalid JSON ({error.msg}); {expected}"


def _explain_value(record: Any) -> str:
    """Return the problem with a line that orjson reads but ``parse_object`` rejects."""
    if isinstance(record, dict):
        return "nested too deeply to be a record in the DPR format"
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    found = names.get(type(record), "a number")
    hint = ". A file that is one JSON array must start with the array." if found == "an array" else ""
    return f"row is {found}; expected a JSON object{hint}"
