"""Fuzzes the readers of JSONL and of JSON arrays with atheris; not part of the tests, which take no time for it.

    pip install atheris && PYTHONPATH=. python test/fuzz/reader.py -max_total_time=600 [folder of seeds]

What Python's own parser reads, held to RFC 8259, must be read as the same; everything else must be a
DataError of one line with a place. Any other exception stops the run.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from typing import Any

import atheris  # pyright: ignore[reportMissingImports]

with atheris.instrument_imports(include=["text"]):  # pyright: ignore[reportAttributeAccessIssue]
    from text.datasets.formats.dpr_record import FieldError, SkipRow, check_row
    from text.datasets.formats.json_array import elements
    from text.datasets.formats.jsonl import JsonlFile
    from text.errors import DataError

PATH = os.path.join(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None), "rows.jsonl")
PLACE = re.compile(re.escape(PATH) + r":\d+ \(byte \d+\)")
COUNTS: Counter[str] = Counter()


class Refused(Exception):
    pass


def strict(line: bytes) -> dict[str, Any]:
    """The oracle."""

    def number(value: str) -> int:
        if not -(1 << 63) <= int(value) < 1 << 64:
            raise Refused
        return int(value)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) < len(items):
            raise RecursionError  # a key stands twice: parsers may differ, and the check refuses it
        return dict(items)

    def constant(_: str) -> None:
        raise Refused

    try:
        value = json.loads(line.decode(), parse_int=number, parse_constant=constant, object_pairs_hook=pairs)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogate
    except (ValueError, Refused):
        raise Refused from None
    if not isinstance(value, dict) or not is_finite(value):
        raise Refused
    return value


def is_finite(value: Any) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not (isinstance(value, float) and not math.isfinite(value)) and all(map(is_finite, children))


def read_lines(data: bytes) -> None:
    """Every row of a file: as the oracle has it, or refused with its place."""
    with open(PATH, "wb") as out:
        out.write(data)
    file = JsonlFile(PATH)
    with file.open() as rows:
        for row in range(len(file)):
            line = rows.read(row)
            try:
                expected = strict(line)
            except (Refused, RecursionError) as error:
                expected = error
            record = None  # a record is valid until the next is parsed
            try:
                record = rows.parse(row)
            except DataError as error:
                assert not isinstance(expected, dict), (line, error)
                told(error)
                continue
            assert not isinstance(expected, Refused), line
            if isinstance(expected, dict):
                assert record.as_dict() == expected, line
            try:
                check_row(record, line, None, COUNTS)
            except (FieldError, SkipRow) as error:
                assert "\n" not in str(error)


def read_array(data: bytes, size: int) -> None:
    """All elements of an array that comes in pieces, or a refusal; each is at its byte."""
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    for offset, element, record in elements(chunks, PATH):
        assert data[offset : offset + len(element)] == element
        with suppress(RecursionError):
            assert record.as_dict() == strict(element), element


def told(error: DataError) -> None:
    assert PLACE.match(str(error)), str(error)
    assert "\n" not in str(error)


def target(data: bytes) -> None:
    for read in (lambda: read_lines(data), lambda: read_array(data, 1 + len(data) % 37)):
        try:
            read()
        except DataError as error:
            told(error)


if __name__ == "__main__":
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
