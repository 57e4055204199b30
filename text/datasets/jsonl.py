"""Random access to the rows of a JSONL file by byte offset.

A row is what stands between two newline bytes, nothing else ends one: a JSON string may hold
any of Unicode's other line separators. The file is never in memory; what is kept is 8 bytes a
row. What a row means is left to the caller.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import orjson

from text.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SCAN_BYTES = 1 << 24


class JsonlFile:
    """The rows of one JSONL file, read one at a time.

    Args:
        path: UTF-8 file, one JSON object a line. A byte order mark at the start is passed over.

    Raises:
        DataError: The file is empty, compressed, a JSON array, or not UTF-8.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._offsets, self._is_terminated = _scan(self.path)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def offset(self, row: int) -> int:
        """The byte at which a row starts."""
        return int(self._offsets[row])

    def is_blank(self, row: int) -> bool:
        return not self.read(row).strip()

    def read(self, row: int) -> bytes:
        """The bytes of a row, with its newline.

        Raises:
            DataError: The file became shorter since it was opened.
        """
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        with open(self.path, "rb", buffering=0) as file:
            line = os.pread(file.fileno(), end - start, start)
        if len(line) < end - start:
            raise DataError(
                f"{self.path}:{row + 1} (byte {start}): file ends inside this row; "
                "expected the file as it was when it was opened"
            )
        return line

    def parse(self, row: int) -> dict[str, Any]:
        """A row as an object.

        Raises:
            DataError: The row is not one JSON object, with path, line and byte.
        """
        is_cut = row == len(self) - 1 and not self._is_terminated
        return parse_object(self.read(row), self.path, row + 1, self.offset(row), may_be_cut=is_cut)

    def where(self, row: int) -> str:
        """Where a row stands, as errors begin: ``path:line (byte B)``."""
        return f"{self.path}:{row + 1} (byte {self.offset(row)})"


def parse_object(line: bytes, path: str, number: int, offset: int, *, may_be_cut: bool = False) -> dict[str, Any]:
    """One JSON object from one line, strictly as RFC 8259 has it.

    Args:
        line: The bytes of the row.
        path: For the message.
        number: 1-based line, for the message.
        offset: The byte of the file at which ``line`` starts, for the message.
        may_be_cut: This is the last row of a file that does not end in a newline.

    Raises:
        DataError: With path, line and byte of what is wrong.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        place, problem = _explain(line, error, offset, may_be_cut)
        raise DataError(f"{path}:{number} (byte {offset + place}){problem}") from None
    if not isinstance(record, dict):
        names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
        found = names.get(type(record), "a number")
        hint = "; a file that is one JSON array goes through --sel_data first" if found == "an array" else ""
        raise DataError(f"{path}:{number} (byte {offset}): row is {found}; expected a JSON object{hint}")
    return record


def looks_like_utf16(head: bytes) -> bool:
    """Whether a file that starts so is in UTF-16 or UTF-32, with a byte order mark or without."""
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head[:4]


def _scan(path: str) -> tuple[np.ndarray, bool]:
    """Offsets of all rows and of the end; whether the last row ends in a newline."""
    ends, size, last = [], 0, b""
    with open(path, "rb", buffering=0) as file:
        start = _check_head(path, file.read(4096))
        file.seek(0)
        while chunk := file.read(_SCAN_BYTES):
            ends.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n")) + (size + 1))
            size, last = size + len(chunk), chunk[-1:]
    if size == start:
        raise DataError(f"{path}:1 (byte 0): no rows in {path}; expected one JSON object a line")
    tail = [] if last == b"\n" else [size]
    return np.concatenate([[start], *ends, tail]).astype(np.int64), last == b"\n"


def _check_head(path: str, head: bytes) -> int:
    """The byte at which the first row starts; refuses what is not JSONL at all."""
    start = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
    problem = None
    if head.startswith(b"\x1f\x8b"):
        problem = "file is compressed by gzip; expected plain JSONL: unpack it, or select from it with --sel_data"
    elif looks_like_utf16(head):
        problem = "not UTF-8 (it looks like UTF-16 or UTF-32); expected UTF-8"
    elif head[start:].lstrip().startswith(b"["):
        problem = "file is a JSON array; expected one JSON object a line: convert it with --sel_data"
    if problem:
        raise DataError(f"{path}:1 (byte 0): {problem}")
    return start


def _explain(line: bytes, error: orjson.JSONDecodeError, offset: int, may_be_cut: bool) -> tuple[int, str]:
    """The byte within the line, and what is wrong there."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as decode_error:
        if may_be_cut and decode_error.reason == "unexpected end of data":
            return decode_error.start, _cut(line, offset)
        return decode_error.start, ": not UTF-8; expected UTF-8"
    place = len(text[: error.pos].encode("utf-8"))
    if line.startswith(BYTE_ORDER_MARK):
        return 0, ": byte order mark inside the file; expected one at byte 0 only"
    if may_be_cut and error.pos == len(text):
        return place, _cut(line, offset)
    if b"\r" in line.rstrip(b"\r\n"):
        return line.index(b"\r"), ": lone carriage return; expected rows that end in a newline"
    if field := _non_finite_field(text):
        return place, f" {field}: not a finite number; expected a JSON number"
    if "after document" in error.msg:
        return place, ": extra data after the object; expected one JSON object a line"
    return place, f": invalid JSON ({error.msg}); expected one JSON object a line"


def _cut(line: bytes, offset: int) -> str:
    return f": file ends inside this row, at byte {offset + len(line)}; expected the rest of the row"


def _non_finite_field(text: str) -> str | None:
    """The path of the first NaN, Infinity or overflowing number, if that is all that is wrong."""
    try:
        return _find_non_finite(json.loads(text), "")
    except (ValueError, RecursionError):
        return None


def _find_non_finite(value: Any, path: str) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return path.removeprefix(".")
    children = (
        [(f"{path}.{key}", child) for key, child in value.items()]
        if isinstance(value, dict)
        else [(f"{path}[{i}]", child) for i, child in enumerate(value)]
        if isinstance(value, list)
        else []
    )
    return next((found for name, child in children if (found := _find_non_finite(child, name))), None)
