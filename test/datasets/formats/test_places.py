"""Tests of find_field, with Python's JSON decoder as the oracle."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.datasets.formats.places import find_field, format_place

ROW = b' {"q": "a{\\"[,", "": 1, "p": [{"t": "x"}, {"text":\n7}, 12], "n": {"p": 1}}'


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("", b'{"q"'),
        ("q", b'"q"'),
        ("p", b'"p": ['),
        ("p[0]", b'{"t"'),
        ("p[1].text", b'"text"'),
        ("p[2]", b"12]"),
        ("n.p", b'"p": 1'),
        ("p[0].text", b'{"t"'),  # The field is missing, so the object around it is found.
        ("p[9].text", b'"p": ['),
        ("question", b'{"q"'),
        ("q.x", b'"q"'),
    ],
)
def test_find_field_by_hand(field: str, found: bytes) -> None:
    assert find_field(ROW, field) == ROW.index(found)


def test_format_place() -> None:
    assert format_place("a.jsonl", 3, 40) == "a.jsonl:3 (byte 40)"


def test_row_that_is_not_json_has_a_place() -> None:
    assert find_field(b"  ", "a") == find_field(b"", "a") == 0


keys = st.text('abé"\\,:{}[ ', min_size=1, max_size=3).filter(lambda key: not set(key) & set(".[]"))
values = st.recursive(
    st.none() | st.integers() | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def list_fields(value: object, path: str) -> list[tuple[str, object]]:
    """Return all fields inside a value, with their paths and values."""
    inner = []
    if isinstance(value, dict):
        inner = [(f"{path}.{key}".removeprefix("."), child) for key, child in value.items()]
    elif isinstance(value, list):
        inner = [(f"{path}[{i}]", child) for i, child in enumerate(value)]
    return inner + [found for name, child in inner for found in list_fields(child, name)]


@law
@given(st.dictionaries(keys, values, max_size=4), st.sampled_from([None, 2]))
def test_find_field_finds_every_value(row: dict[str, object], indent: int | None) -> None:
    text = json.dumps(row, indent=indent)
    decode = json.JSONDecoder().raw_decode
    for field, value in list_fields(row, ""):
        rest = text.encode()[find_field(text.encode(), field) :].decode()
        found, end = decode(rest)
        if not field.endswith("]"):
            assert found == field.rpartition(".")[2]
            found, _ = decode(rest[end:].lstrip(": "))
        assert found == value
