"""Fuzzes the readers of JSONL and of JSON arrays with atheris; not part of the tests, which take no time for it.

    pip install atheris && PYTHONPATH=. python test/fuzz/reader.py -max_total_time=600 [folder of seeds]

What Python's own parser reads must be read as the same, with the repairs that are told; everything else must be a
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
    from text.datasets.formats.dpr_record import SkipRow, check_row
    from text.datasets.formats.json_array import read_elements
    from text.datasets.formats.jsonl import JsonlFile
    from text.datasets.formats.values import FieldError
    from text.errors import DataError

PATH = os.path.join(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None), "rows.jsonl")
PLACE = re.compile(re.escape(PATH) + r":\d+ \(byte \d+\)")
COUNTS: Counter[str] = Counter()


class Refused(Exception):
    pass


def tolerant(line: bytes) -> dict[str, Any]:
    """The oracle: Python's own parser, with the repairs of ``text/datasets/formats/repair.py``."""

    def finite(value: str) -> float | None:
        return float(value) if math.isfinite(float(value)) else None

    def integer(value: str) -> float | None:
        is_large = len(value) > 20 or not -(1 << 63) <= int(value) < 1 << 64
        return finite(value) if is_large else int(value)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        record = {whole(key): value for key, value in items}
        if len(record) < len(items):
            raise RecursionError  # a key stands twice: parsers may differ, and the check refuses the row
        return record

    try:
        value = json.loads(
            line.decode(), parse_int=integer, parse_float=finite, parse_constant=finite, object_pairs_hook=pairs
        )
    except ValueError:
        raise Refused from None
    if not isinstance(value, dict):
        raise Refused
    return whole(value)


def whole(value: Any) -> Any:
    """The same value with U+FFFD in the place of lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    return {key: whole(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def read_lines(data: bytes) -> None:
    """Every row of a file: as the oracle has it, or refused with its place."""
    with open(PATH, "wb") as out:
        out.write(data)
    file = JsonlFile(PATH)
    with file.open() as rows:
        for row in range(len(file)):
            line = rows.read(row)
            try:
                expected = tolerant(line)
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
    for element in read_elements(chunks, PATH):
        assert data[element.byte :].startswith(element.content)
        assert element.line == data.count(b"\n", 0, element.byte) + 1
        with suppress(RecursionError):
            assert element.record.as_dict() == tolerant(element.content), element.content


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
