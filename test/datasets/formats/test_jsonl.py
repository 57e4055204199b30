"""Tests of JsonlFile: offsets and content of rows, and the location of errors."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from test.helpers import Place, law, parse_place
from text.datasets.formats.jsonl import JsonlFile
from text.errors import DataError

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def make_jsonl(tmp_path: Path) -> Callable[[bytes], JsonlFile]:
    """Return a function that writes bytes to a file and opens it as JsonlFile."""

    def make(content: bytes) -> JsonlFile:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content)
        return JsonlFile(path)

    return make


@pytest.fixture
def find_refusal(make_jsonl: Callable[[bytes], JsonlFile], tmp_path: Path) -> Callable[[bytes], Place]:
    """Return a function that reads a file with the given bytes and returns the location in the error."""

    def find(content: bytes) -> Place:
        with pytest.raises(DataError) as caught:
            parse_all(make_jsonl(content))
        return parse_place(caught.value, tmp_path / "rows.jsonl")

    return find


def parse_all(file: JsonlFile) -> list[dict[str, Any]]:
    with file.open() as rows:
        return [rows.parse(row).as_dict() for row in range(len(file))]


def read_all(file: JsonlFile) -> list[bytes]:
    with file.open() as rows:
        return [rows.read(row) for row in range(len(file))]


def parse_row(file: JsonlFile, row: int) -> dict[str, Any]:
    with file.open() as rows:
        return rows.parse(row).as_dict()


# Rows and offsets


def test_rows_by_hand(make_jsonl) -> None:
    file = make_jsonl(b'{"a": 1}\n\n{"b":2}\n')
    assert len(file) == 3
    assert [file.get_offset(row) for row in range(3)] == [0, 9, 10]
    assert read_all(file) == [b'{"a": 1}\n', b"\n", b'{"b":2}\n']
    assert (parse_row(file, 0), parse_row(file, 2)) == ({"a": 1}, {"b": 2})
    assert file.describe_place(2) == f"{file.path}:3 (byte 10)"


# Characters at which str.splitlines ends a line. JSON strings may contain the first three unescaped.
separators = st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\r\n")
strings = st.text(st.characters(codec="utf-8") | separators, max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)
objects = st.builds(
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only).encode(),
    st.dictionaries(strings, values, max_size=4),
    st.booleans(),
)
rows = st.tuples(objects | st.sampled_from([b"", b" ", b"\t"]), st.sampled_from([b"\n", b"\r\n"])).map(b"".join)


@law
@given(st.sampled_from([b"", BOM]), st.lists(rows, min_size=1, max_size=6), st.booleans())
def test_rows_equal_those_of_python(make_jsonl, head: bytes, lines: list[bytes], is_terminated: bool) -> None:
    body = b"".join(lines) if is_terminated else b"".join(lines).rstrip(b"\r\n")
    assume(body)
    expected = io.BytesIO(body).readlines()  # For bytes, only "\n" ends a line.
    file = make_jsonl(head + body)
    assert len(file) == len(expected)
    assert read_all(file) == expected
    start = len(head)
    for row, line in enumerate(expected):
        assert file.get_offset(row) == start
        if line.strip():
            assert parse_row(file, row) == json.loads(line)
        start += len(line)


# The file is scanned 2^20 bytes at a time. Its newlines are the last byte of a piece, the first byte of the next piece,
# and elsewhere. The file is sparse, so it takes no disk space.
@pytest.mark.parametrize("size", [2**25, 2**25 + 8, 2**25 + 9])
def test_rows_of_a_file_that_is_scanned_in_pieces(tmp_path: Path, size: int) -> None:
    newlines = [place for place in (4, 2**24 - 1, 2**24, 2**25 - 1, 2**25 + 7) if place < size]
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b"{  }")
        for place in newlines:
            file.seek(place)
            file.write(b"\n")
        file.truncate(size)
    rows = JsonlFile(path)
    starts = [0, *(place + 1 for place in newlines)]
    expected = [start for start in starts if start < size]
    assert [rows.get_offset(row) for row in range(len(rows))] == expected
    assert len(read_all(rows)[-1]) == size - expected[-1]


def test_pickle_round_trip(make_jsonl) -> None:
    file = make_jsonl(BOM + b'{"a": 1}\n{"a": 2}')
    copy = pickle.loads(pickle.dumps(file))  # noqa: S301 as a DataLoader does with its dataset
    assert copy.path == file.path
    assert [copy.get_offset(row) for row in range(2)] == [3, 12]
    assert parse_all(copy) == parse_all(file) == [{"a": 1}, {"a": 2}]


# Faults of JSONL syntax


def test_byte_order_mark_at_the_start_is_skipped(make_jsonl) -> None:
    file = make_jsonl(BOM + b'{"a": 1}\n')
    assert parse_all(file) == [{"a": 1}]
    assert file.get_offset(0) == 3


@pytest.mark.parametrize(
    "content, place",
    [(b"{}\n" + BOM + b"{}\n", (2, 3, "")), (BOM + BOM + b"{}\n", (1, 3, ""))],
)
def test_byte_order_mark_elsewhere_is_refused(find_refusal, content: bytes, place: tuple[int, int, str]) -> None:
    assert find_refusal(content) == place


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_utf_16_and_32_are_refused(find_refusal, encoding: str) -> None:
    assert find_refusal('{"a": "b"}\n'.encode(encoding)) == (1, 0, "")


def test_utf_16_with_a_big_endian_byte_order_mark_is_refused(find_refusal) -> None:
    assert find_refusal(b"\xfe\xff\0{\0}") == (1, 0, "")


def test_latin_1_is_refused_at_its_byte(find_refusal) -> None:
    # The byte of é follows {}\n (3 bytes) and {"a": "caf (10 bytes).
    assert find_refusal(b'{}\n{"a": "caf\xe9"}\n') == (2, 13, "")


def test_crlf_is_accepted(make_jsonl) -> None:
    file = make_jsonl(b'{"a": 1}\r\n{"a": 2}\r\n')
    assert parse_all(file) == [{"a": 1}, {"a": 2}]
    assert file.get_offset(1) == 10


@pytest.mark.parametrize(
    "content, place",
    [
        (b'{"a": 1}\r{"a": 2}\r', (1, 8, "")),
        (b'{}\n{"a": 1}\r{"a": 2}\n', (2, 11, "")),
        (b'{"a": 1}\r{', (1, 8, "")),
    ],
)
def test_lone_carriage_return_is_refused(find_refusal, content: bytes, place: tuple[int, int, str]) -> None:
    assert find_refusal(content) == place


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\\u2028", "\\u2029", "\\u0085", "\\u000b", "\\f"])
def test_other_line_separators_end_no_row(make_jsonl, character: str) -> None:
    file = make_jsonl(f'{{"a": "x{character}y"}}\n{{"a": "z"}}\n'.encode())
    assert parse_all(file) == [{"a": json.loads(f'"x{character}y"')}, {"a": "z"}]


@pytest.mark.parametrize("character", [b"\x0b", b"\x0c"])
def test_raw_control_character_is_refused_in_its_row(find_refusal, character: bytes) -> None:
    assert find_refusal(b'{}\n{"a": "' + character + b'"}\n') == (2, 10, "")


@pytest.mark.parametrize(
    "row, byte",
    [
        (b'{"a": 1,}', 7),
        (b'{"a": [1,]}', 8),
        (b"{'a': 1}", 1),
        (b'{"a": 1 /* one */}', 8),
        (b'// one\n{"a": 1}', 0),
        (b'{"a": True}', 6),
        (b'{"a": None}', 6),
        (b'{"a": "x\ty"}', 8),
        (b'{"a": 01}', 6),
        (b'{"a"  1}', 6),
        (b"{a: 1}", 1),
        # The location counts bytes, not characters. These characters have 2, 3 and 4 bytes.
        ('{"é€😀": None}'.encode(), 14),
    ],
)
@pytest.mark.parametrize("head, line, start", [(b"", 1, 0), (b'{"b": 0}\n', 2, 9), (BOM + b"{}\r\n{}\n", 3, 10)])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_nearly_json_is_refused(
    find_refusal, head: bytes, line: int, start: int, row: bytes, byte: int, end: bytes
) -> None:
    assert find_refusal(head + row + end) == (line, start + byte, "")


def test_comment_after_the_object_is_refused(find_refusal) -> None:
    assert find_refusal(b'{"a": 1} # one\n') == (1, 9, "")


WHOLE = r'{"é€😀": ["\ud83d\ude00\n", -1.5e3, true, false, null], "b": {"c": ""}}'.encode()


# The row is truncated at each byte, also inside a character, an escape or a literal.
@pytest.mark.parametrize("size", range(1, len(WHOLE)))
def test_truncated_last_line_is_refused_with_the_byte_of_the_cut(make_jsonl, size: int) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:2 \(byte \d+\): .* byte {9 + size}\b"):
        parse_all(make_jsonl(b'{"a": 1}\n' + WHOLE[:size]))


def test_truncated_last_line_by_hand(find_refusal) -> None:
    assert find_refusal(b'{"a": 1}\n{"a": ') == (2, 15, "")


def test_last_line_without_newline_is_a_row(make_jsonl) -> None:
    assert parse_all(make_jsonl(b'{"a": 1}\n{"a": 2}')) == [{"a": 1}, {"a": 2}]


# The last byte is wrong. More bytes would not make the row valid, so it is not reported as truncated.
@pytest.mark.parametrize("row, byte", [(b'{"a": 1}}', 8), (b'{"a": 1} x', 9), (b'{"a": 1.}', 8), (b"x", 0)])
def test_wrong_last_byte_is_not_reported_as_truncation(find_refusal, row: bytes, byte: int) -> None:
    assert find_refusal(b"{}\n" + row) == (2, 3 + byte, "")


def test_only_the_last_line_can_be_truncated(find_refusal) -> None:
    assert find_refusal(b'{"a": \n{}') == (1, 7, "")


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xe2\x82"], ids=["invalid", "overlong", "truncated"])
def test_bytes_that_are_not_utf_8_are_refused(find_refusal, bad: bytes) -> None:
    assert find_refusal(b'{}\n{"a": "' + bad + b'"}\n') == (2, 10, "")


def test_bytes_of_a_lone_surrogate_are_refused(find_refusal) -> None:
    assert find_refusal(b'{"a": "\xed\xa0\x80"}\n') == (1, 7, "")


def test_raw_nul_is_refused(find_refusal) -> None:
    assert find_refusal(b'{"a": "\0"}\n') == (1, 7, "")
    assert find_refusal(b'{"a": "b"}\n' + b"\0" * 8 + b"\n") == (2, 11, "")


def test_long_line_is_refused(make_jsonl, find_refusal, monkeypatch) -> None:
    monkeypatch.setattr("text.datasets.formats.jsonl.MAX_ROW_BYTES", 12)
    assert len(make_jsonl(b'{"a": "bc"}\n{}\n')) == 2
    assert find_refusal(b'{}\n{"a": "bcd"}\n') == (2, 3, "row")


def test_endless_row_is_refused_where_it_becomes_too_long(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    path.write_bytes(b'{}\n\n{"a": ')
    os.truncate(path, 1 << 40)  # Reading the whole file takes minutes.
    with pytest.raises(DataError) as caught:
        JsonlFile(path)
    assert parse_place(caught.value, path) == (3, 4, "row")


def test_escaped_nul_is_accepted(make_jsonl) -> None:
    assert parse_all(make_jsonl(rb'{"a": "\u0000"}')) == [{"a": "\0"}]


def test_deep_nesting_is_refused(find_refusal) -> None:
    assert find_refusal(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n").line == 1


def test_blank_lines_are_rows(make_jsonl) -> None:
    file = make_jsonl(b"\n \t\r\n{}\n\r\n\n")
    assert [line.isspace() for line in read_all(file)] == [True, True, False, True, True]
    assert file.describe_place(2) == f"{file.path}:3 (byte 5)"


@pytest.mark.parametrize("row, byte", [(b'{"a":1}{"b":2}', 7), (b'{"a": 1} {"b": 2}', 9), (b"{} {", 3)])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_two_documents_on_a_line_are_refused(find_refusal, row: bytes, byte: int, end: bytes) -> None:
    assert find_refusal(b"{}\n" + row + end) == (2, 3 + byte, "")


@pytest.mark.parametrize("row", ["null", "1", "-0.5", '"x"', "true"])
def test_row_that_is_not_an_object_is_refused(find_refusal, row: str) -> None:
    assert find_refusal(f"{{}}\n{row}\n".encode()) == (2, 3, "")


def test_row_that_is_an_array_is_refused(find_refusal) -> None:
    assert find_refusal(b'{}\n[{"a": 1}]\n') == (2, 3, "")


def test_largest_integers_are_kept(make_jsonl) -> None:
    row = {"a": 2**64 - 1, "b": -(2**63)}
    assert parse_all(make_jsonl(json.dumps(row).encode())) == [row]


@pytest.mark.parametrize("content", [b"[]", b'[{"a": 1}]\n', b'\n  [\n{"a": 1}\n]\n', BOM + b"[{}]"])
def test_file_that_is_an_array_is_refused(find_refusal, content: bytes) -> None:
    assert find_refusal(content) == (1, 0, "")


def test_gzip_under_a_plain_name_is_refused(find_refusal) -> None:
    assert find_refusal(gzip.compress(b'{"a": 1}\n')) == (1, 0, "")


def test_file_that_shrinks_is_refused(make_jsonl) -> None:
    file = make_jsonl(b'{"a": 1}\n{"a": 2}\n')
    Path(file.path).write_bytes(b'{"a": 1}\n{"a"')
    with pytest.raises(DataError, match=re.escape(file.path)), file.open():
        pass


def test_file_that_shrinks_while_it_is_read_is_refused(make_jsonl) -> None:
    file = make_jsonl(b'{"a": 1}\n{"a": 2}\n')
    with file.open() as rows:
        Path(file.path).write_bytes(b'{"a": 1}\n{"a"')
        assert rows.parse(0).as_dict() == {"a": 1}
        with pytest.raises(DataError) as caught:
            rows.parse(1)
    assert parse_place(caught.value, file.path) == (2, 9, "")


@pytest.mark.parametrize("content", [b"", BOM])
def test_empty_file_is_refused(find_refusal, content: bytes) -> None:
    assert find_refusal(content) == (1, 0, "")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        JsonlFile(tmp_path / "nowhere.jsonl")
