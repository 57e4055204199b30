"""Places in the user's files, as errors name them: ``path:line (byte B) field``."""

from __future__ import annotations

import json
import re

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_PART = re.compile(r"\[(\d{1,9})\]|([^.\[\]]+)")
_NOT_YET = ""
"""Stands for the key of an object's next member, before the key is read."""


def format_place(path: str, line: int, byte: int) -> str:
    """Return a place in a file.

    >>> format_place("train.jsonl", 3, 120)
    'train.jsonl:3 (byte 120)'
    """
    return f"{path}:{line} (byte {byte})"


def find_field(row: bytes, field: str) -> int:
    """Return the byte of a JSON object at which a field stands.

    Args:
        row: One JSON object. White space before it is passed over.
        field: Keys and numbers of elements. An empty field is the object itself.

    Returns:
        The first byte of the field's key, or of the element. If the field is missing, the first byte of the nearest
        part around it.

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
            path[-1] = path[-1] + 1 if isinstance(path[-1], int) else _NOT_YET
        elif mark != b":":
            if path and path[-1] == _NOT_YET and mark[:1] == b'"':
                path[-1] = json.loads(mark) or "\0"  # an empty key is no key that anyone asks for
            if len(path) > depth and path == wanted[: len(path)]:
                found, depth = token.start(), len(path)
            if depth == len(wanted):
                break
            if mark in (b"{", b"["):
                path.append(_NOT_YET if mark == b"{" else 0)
    return found
