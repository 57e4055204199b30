"""Tests of parse_row_object: repairs of a row, and errors that remain."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from typing import Any

import pytest
import simdjson
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.datasets.formats.repair import mask_repairs, parse_row_object

NOT_FINITE = "rows with NaN or infinite numbers, read as missing"
SURROGATES = "rows with lone surrogates, read as U+FFFD"
LARGE = "rows with integers beyond 64 bits, read as floats"


def read(line: str) -> tuple[dict[str, Any], dict[str, int]]:
    counts: Counter[str] = Counter()
    return parse_row_object(line.encode(), simdjson.Parser(), counts).as_dict(), dict(counts)


@pytest.mark.parametrize(
    ("line", "row", "kinds"),
    [
        ('{"a": NaN, "b": [-Infinity, Infinity]}', {"a": None, "b": [None, None]}, [NOT_FINITE]),
        ('{"a": 1e999, "b": -1E+999, "c": 1e9}', {"a": None, "b": None, "c": 1e9}, [NOT_FINITE]),
        (r'{"a": "x \ud83d y"}', {"a": "x \ufffd y"}, [SURROGATES]),
        (r'{"a": "\udc00\ud800", "\ud83d": 1}', {"a": "\ufffd\ufffd", "\ufffd": 1}, [SURROGATES]),
        (r'{"a": "\ud83d\ude00 \\ud800 \ud800"}', {"a": "😀 \\ud800 \ufffd"}, [SURROGATES]),
        ('{"a": 18446744073709551616}', {"a": 2.0**64}, [LARGE]),
        ('{"a": -9223372036854775809, "b": 1' + "0" * 400 + "}", {"a": -(2.0**63), "b": sys.float_info.max}, [LARGE]),
        ('{"a": -' + "9" * 100_000 + "}", {"a": -sys.float_info.max}, [LARGE]),
        (r'{"a": NaN, "b": "NaN, 1e999 \" NaN", "c": "\ud800"}', None, [NOT_FINITE, SURROGATES]),
    ],
)
def test_repairs_by_hand(line: str, row: dict[str, Any] | None, kinds: list[str]) -> None:
    row = {"a": None, "b": 'NaN, 1e999 " NaN', "c": "\ufffd"} if row is None else row
    assert read(line) == (row, dict.fromkeys(kinds, 1))
    masked = mask_repairs(line.encode())
    assert len(masked) == len(line.encode())
    json.loads(masked)


def test_strict_row_is_not_repaired() -> None:
    assert read('{"a": 18446744073709551615, "b": "NaN"}') == ({"a": 2**64 - 1, "b": "NaN"}, {})


@pytest.mark.parametrize(
    "line",
    [
        '{"a": nan}',
        '{"a": -NaN}',
        '{"a": NaN',
        '{"a": NaNa}',
        "NaN",
        "[NaN]",
        '{"a": NaN,}',
        r'{"a": "\ud80"}',
        '{"a": 01e999}',
        "{",
    ],
)
def test_invalid_json_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        read(line)


def test_repair_keeps_repeated_keys() -> None:
    record = parse_row_object(b'{"a": NaN, "a": 1}', simdjson.Parser(), Counter())
    assert list(record) == ["a", "a"]


texts = st.text(st.characters() | st.sampled_from('\ud800\udfff"\\'), max_size=6)
numbers = st.floats() | st.integers(-(2**70), 2**70)
rows = st.dictionaries(texts, st.lists(texts | numbers, max_size=4), max_size=3)


def repair_value(value: Any) -> Any:
    """Return a value of Python's tolerant parser with the same repairs."""
    if isinstance(value, dict):
        return {repair_value(key): repair_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [repair_value(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else float(value)
    return value if math.isfinite(value) else None


@law
@given(rows)
def test_repaired_rows_equal_those_of_python(row: dict[str, Any]) -> None:
    # Python's json joins two adjacent surrogates, so the row is written and parsed once before the comparison.
    row = json.loads(json.dumps(row))
    assert read(json.dumps(row))[0] == repair_value(row)
