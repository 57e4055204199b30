"""Locations in the user's files for error messages: ``path:line (byte B) field``."""

from __future__ import annotations

import json
import re

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_PART = re.compile(r"\[(\d{1,9})\]|([^.\[\]]+)")
_NO_KEY = ""
"""Placeholder for the key of an object's next member, before the key is read."""


def format_place(path: str, line: int, byte: int) -> str:
    """Return a location in a file as text.

    >>> format_place("train.jsonl", 3, 120)
    'train.jsonl:3 (byte 120)'
    """
    return f"{path}:{line} (byte {byte})"


def find_field(row: bytes, field: str) -> int:
    """Return the byte offset of a field in a JSON object.

    Args:
        row: One JSON object. White space before it is skipped.
        field: Path of keys and list indices, such as ``a[1].c``. An empty path is the object itself.

    Returns:
        The first byte of the field's key, or of the list element. If the field is missing, the first byte of its
        nearest parent.

    >>> find_field(b'{"a": [{"b": 1}, {"c": 2}]}', "a[1].c")
    18
    """
    wanted = [int(number) if number else key for number, key in _PART.findall(field)]
    path: list[str | int] = []
    found, depth = 0, -1
    for token in _TOKEN.finditer(row):
        mark = token.group()
        if mark in (b"}", b"]"):
            path.pop()
        elif mark == b",":
            path[-1] = path[-1] + 1 if isinstance(path[-1], int) else _NO_KEY
        elif mark != b":":
            if path and path[-1] == _NO_KEY and mark[:1] == b'"':
                path[-1] = json.loads(mark) or "\0"  # An empty key would look like the placeholder.
            if len(path) > depth and path == wanted[: len(path)]:
                found, depth = token.start(), len(path)
            if depth == len(wanted):
                break
            if mark in (b"{", b"["):
                path.append(_NO_KEY if mark == b"{" else 0)
    return found
