"""Fuzz test of the readers for JSONL and JSON arrays with atheris. The test suite does not run it.

    pip install atheris && PYTHONPATH=. python test/fuzz/reader.py -max_total_time=600 [folder of seeds]

Rows that Python's parser reads must give the same values, after the documented repairs. Any other row must raise a
DataError with a location, on one line. Other exceptions stop the run.
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


class RefusedError(Exception):
    pass


def parse_tolerantly(line: bytes) -> dict[str, Any]:
    """Parse a row with Python's parser and the repairs of ``text/datasets/formats/repair.py``. This is the oracle."""

    def parse_float(value: str) -> float | None:
        return float(value) if math.isfinite(float(value)) else None

    def parse_integer(value: str) -> float | None:
        is_large = len(value) > 20 or not -(1 << 63) <= int(value) < 1 << 64
        return parse_float(value) if is_large else int(value)

    def build_record(items: list[tuple[str, Any]]) -> dict[str, Any]:
        record = {replace_surrogates(key): value for key, value in items}
        if len(record) < len(items):
            raise RecursionError  # A key occurs twice: parsers may differ, and check_row rejects the row.
        return record

    try:
        value = json.loads(
            line.decode(),
            parse_int=parse_integer,
            parse_float=parse_float,
            parse_constant=parse_float,
            object_pairs_hook=build_record,
        )
    except ValueError:
        raise RefusedError from None
    if not isinstance(value, dict):
        raise RefusedError
    return replace_surrogates(value)


def replace_surrogates(value: Any) -> Any:
    """Return the value with lone surrogates replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [replace_surrogates(inner) for inner in value]
    return {key: replace_surrogates(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def check_jsonl(data: bytes) -> None:
    """Check that each row of a JSONL file equals the oracle's value, or is refused with its location."""
    with open(PATH, "wb") as out:
        out.write(data)
    file = JsonlFile(PATH)
    with file.open() as rows:
        for row in range(len(file)):
            line = rows.read(row)
            try:
                expected = parse_tolerantly(line)
            except (RefusedError, RecursionError) as error:
                expected = error
            record = None  # The previous record must be released before the next row is parsed.
            try:
                record = rows.parse(row)
            except DataError as error:
                assert not isinstance(expected, dict), (line, error)
                check_message(error)
                continue
            assert not isinstance(expected, RefusedError), line
            if isinstance(expected, dict):
                assert record.as_dict() == expected, line
            try:
                check_row(record, line, None, COUNTS)
            except (FieldError, SkipRow) as error:
                assert "\n" not in str(error)


def check_array(data: bytes, size: int) -> None:
    """Check that each element of an array has its location and the oracle's value. The array comes in chunks."""
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    for element in read_elements(chunks, PATH):
        assert data[element.byte :].startswith(element.content)
        assert element.line == data.count(b"\n", 0, element.byte) + 1
        with suppress(RecursionError):
            assert element.record.as_dict() == parse_tolerantly(element.content), element.content


def check_message(error: DataError) -> None:
    assert PLACE.match(str(error)), str(error)
    assert "\n" not in str(error)


def run_input(data: bytes) -> None:
    for read in (lambda: check_jsonl(data), lambda: check_array(data, 1 + len(data) % 37)):
        try:
            read()
        except DataError as error:
            check_message(error)


if __name__ == "__main__":
    atheris.Setup(sys.argv, run_input)
    atheris.Fuzz()
