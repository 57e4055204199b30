"""JsonlFile: where rows stand, what they hold, and where a file that is not JSONL is refused."""

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
def opened(tmp_path: Path) -> Callable[[bytes], JsonlFile]:
    """Makes a file of the given bytes."""

    def open_it(content: bytes) -> JsonlFile:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content)
        return JsonlFile(path)

    return open_it


@pytest.fixture
def refusal(opened: Callable[[bytes], JsonlFile], tmp_path: Path) -> Callable[[bytes], Place]:
    """Reads a file of the given bytes, and returns the place that the error names."""

    def read_it(content: bytes) -> Place:
        with pytest.raises(DataError) as caught:
            parsed(opened(content))
        return parse_place(caught.value, tmp_path / "rows.jsonl")

    return read_it


def parsed(file: JsonlFile) -> list[dict[str, Any]]:
    with file.open() as rows:
        return [rows.parse(row).as_dict() for row in range(len(file))]


def read(file: JsonlFile) -> list[bytes]:
    with file.open() as rows:
        return [rows.read(row) for row in range(len(file))]


def parse(file: JsonlFile, row: int) -> dict[str, Any]:
    with file.open() as rows:
        return rows.parse(row).as_dict()


# Rows and offsets


def test_rows_by_hand(opened) -> None:
    file = opened(b'{"a": 1}\n\n{"b":2}\n')
    assert len(file) == 3
    assert [file.get_offset(row) for row in range(3)] == [0, 9, 10]
    assert read(file) == [b'{"a": 1}\n', b"\n", b'{"b":2}\n']
    assert (parse(file, 0), parse(file, 2)) == ({"a": 1}, {"b": 2})
    assert file.describe_place(2) == f"{file.path}:3 (byte 10)"


# Characters at which str.splitlines ends a line; in JSON the first three may stand as they are.
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
def test_rows_equal_pythons(opened, head: bytes, lines: list[bytes], is_terminated: bool) -> None:
    body = b"".join(lines) if is_terminated else b"".join(lines).rstrip(b"\r\n")
    assume(body)
    expected = io.BytesIO(body).readlines()  # of bytes: "\n" alone ends a line
    file = opened(head + body)
    assert len(file) == len(expected)
    assert read(file) == expected
    start = len(head)
    for row, line in enumerate(expected):
        assert file.get_offset(row) == start
        if line.strip():
            assert parse(file, row) == json.loads(line)
        start += len(line)


# The file is scanned 2^20 bytes at a time: its newlines stand on the last byte of a piece, on the
# first of the next, and elsewhere. Between them are holes, so that it takes no room on the disk.
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
    assert len(read(rows)[-1]) == size - expected[-1]


def test_pickled_there_and_back(opened) -> None:
    file = opened(BOM + b'{"a": 1}\n{"a": 2}')
    copy = pickle.loads(pickle.dumps(file))  # noqa: S301 what a DataLoader does with its dataset
    assert copy.path == file.path
    assert [copy.get_offset(row) for row in range(2)] == [3, 12]
    assert parsed(copy) == parsed(file) == [{"a": 1}, {"a": 2}]


# Faults of JSONL syntax


def test_byte_order_mark_at_the_start_is_passed_over(opened) -> None:
    file = opened(BOM + b'{"a": 1}\n')
    assert parsed(file) == [{"a": 1}]
    assert file.get_offset(0) == 3


@pytest.mark.parametrize(
    "content, place",
    [(b"{}\n" + BOM + b"{}\n", (2, 3, "")), (BOM + BOM + b"{}\n", (1, 3, ""))],
)
def test_byte_order_mark_elsewhere_is_refused(refusal, content: bytes, place: tuple[int, int, str]) -> None:
    assert refusal(content) == place


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_utf_16_and_32_are_refused(refusal, encoding: str) -> None:
    assert refusal('{"a": "b"}\n'.encode(encoding)) == (1, 0, "")


def test_utf_16_with_a_big_endian_byte_order_mark_is_refused(refusal) -> None:
    assert refusal(b"\xfe\xff\0{\0}") == (1, 0, "")


def test_latin_1_is_refused_at_its_byte(refusal) -> None:
    # {}\n and {"a": "caf are 3 + 10 bytes, then comes é.
    assert refusal(b'{}\n{"a": "caf\xe9"}\n') == (2, 13, "")


def test_crlf_is_accepted(opened) -> None:
    file = opened(b'{"a": 1}\r\n{"a": 2}\r\n')
    assert parsed(file) == [{"a": 1}, {"a": 2}]
    assert file.get_offset(1) == 10


@pytest.mark.parametrize(
    "content, place",
    [
        (b'{"a": 1}\r{"a": 2}\r', (1, 8, "")),
        (b'{}\n{"a": 1}\r{"a": 2}\n', (2, 11, "")),
        (b'{"a": 1}\r{', (1, 8, "")),  # and the file ends here
    ],
)
def test_lone_carriage_return_is_refused(refusal, content: bytes, place: tuple[int, int, str]) -> None:
    assert refusal(content) == place


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\\u2028", "\\u2029", "\\u0085", "\\u000b", "\\f"])
def test_other_line_separators_end_no_row(opened, character: str) -> None:
    file = opened(f'{{"a": "x{character}y"}}\n{{"a": "z"}}\n'.encode())
    assert parsed(file) == [{"a": json.loads(f'"x{character}y"')}, {"a": "z"}]


@pytest.mark.parametrize("character", [b"\x0b", b"\x0c"])
def test_raw_control_character_is_refused_in_its_row(refusal, character: bytes) -> None:
    assert refusal(b'{}\n{"a": "' + character + b'"}\n') == (2, 10, "")


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
        # The byte counts bytes, not characters: these are 2, 3 and 4 each.
        ('{"é€😀": None}'.encode(), 14),
    ],
)
@pytest.mark.parametrize("head, line, start", [(b"", 1, 0), (b'{"b": 0}\n', 2, 9), (BOM + b"{}\r\n{}\n", 3, 10)])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_nearly_json_is_refused(refusal, head: bytes, line: int, start: int, row: bytes, byte: int, end: bytes) -> None:
    assert refusal(head + row + end) == (line, start + byte, "")


def test_comment_after_the_object_is_refused(refusal) -> None:
    assert refusal(b'{"a": 1} # one\n') == (1, 9, "")


WHOLE = r'{"é€😀": ["\ud83d\ude00\n", -1.5e3, true, false, null], "b": {"c": ""}}'.encode()


# Wherever it is cut, also inside a character, an escape or a literal.
@pytest.mark.parametrize("size", range(1, len(WHOLE)))
def test_truncated_last_line_is_refused_with_the_byte_of_the_cut(opened, size: int) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:2 \(byte \d+\): .* byte {9 + size}\b"):
        parsed(opened(b'{"a": 1}\n' + WHOLE[:size]))


def test_truncated_last_line_by_hand(refusal) -> None:
    assert refusal(b'{"a": 1}\n{"a": ') == (2, 15, "")


def test_last_line_without_newline_is_a_row(opened) -> None:
    assert parsed(opened(b'{"a": 1}\n{"a": 2}')) == [{"a": 1}, {"a": 2}]


# Its last byte is wrong, which is not the same as cut: more bytes would not help.
@pytest.mark.parametrize("row, byte", [(b'{"a": 1}}', 8), (b'{"a": 1} x', 9), (b'{"a": 1.}', 8), (b"x", 0)])
def test_wrong_last_byte_is_not_taken_for_a_truncation(refusal, row: bytes, byte: int) -> None:
    assert refusal(b"{}\n" + row) == (2, 3 + byte, "")


def test_only_the_last_line_can_be_truncated(refusal) -> None:
    assert refusal(b'{"a": \n{}') == (1, 7, "")


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xe2\x82"], ids=["invalid", "overlong", "truncated"])
def test_bytes_that_are_not_utf_8_are_refused(refusal, bad: bytes) -> None:
    assert refusal(b'{}\n{"a": "' + bad + b'"}\n') == (2, 10, "")


def test_bytes_of_a_lone_surrogate_are_refused(refusal) -> None:
    assert refusal(b'{"a": "\xed\xa0\x80"}\n') == (1, 7, "")


def test_raw_nul_is_refused(refusal) -> None:
    assert refusal(b'{"a": "\0"}\n') == (1, 7, "")
    assert refusal(b'{"a": "b"}\n' + b"\0" * 8 + b"\n") == (2, 11, "")


def test_line_that_is_too_long_is_refused(opened, refusal, monkeypatch) -> None:
    monkeypatch.setattr("text.datasets.formats.jsonl.MAX_ROW_BYTES", 12)
    assert len(opened(b'{"a": "bc"}\n{}\n')) == 2
    assert refusal(b'{}\n{"a": "bcd"}\n') == (2, 3, "row")


def test_a_row_without_an_end_is_refused_where_it_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    path.write_bytes(b'{}\n\n{"a": ')
    os.truncate(path, 1 << 40)  # To read all of it takes minutes.
    with pytest.raises(DataError) as caught:
        JsonlFile(path)
    assert parse_place(caught.value, path) == (3, 4, "row")


def test_escaped_nul_is_accepted(opened) -> None:
    assert parsed(opened(rb'{"a": "\u0000"}')) == [{"a": "\0"}]


def test_deep_nesting_is_refused(refusal) -> None:
    assert refusal(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n").line == 1


def test_blank_lines_are_rows(opened) -> None:
    file = opened(b"\n \t\r\n{}\n\r\n\n")
    assert [line.isspace() for line in read(file)] == [True, True, False, True, True]
    assert file.describe_place(2) == f"{file.path}:3 (byte 5)"


@pytest.mark.parametrize("row, byte", [(b'{"a":1}{"b":2}', 7), (b'{"a": 1} {"b": 2}', 9), (b"{} {", 3)])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_two_documents_on_a_line_are_refused(refusal, row: bytes, byte: int, end: bytes) -> None:
    assert refusal(b"{}\n" + row + end) == (2, 3 + byte, "")


@pytest.mark.parametrize("row", ["null", "1", "-0.5", '"x"', "true"])
def test_row_that_is_no_object_is_refused(refusal, row: str) -> None:
    assert refusal(f"{{}}\n{row}\n".encode()) == (2, 3, "")


def test_row_that_is_an_array_is_refused(refusal) -> None:
    assert refusal(b'{}\n[{"a": 1}]\n') == (2, 3, "")


def test_largest_integers_are_kept(opened) -> None:
    row = {"a": 2**64 - 1, "b": -(2**63)}
    assert parsed(opened(json.dumps(row).encode())) == [row]


@pytest.mark.parametrize("content", [b"[]", b'[{"a": 1}]\n', b'\n  [\n{"a": 1}\n]\n', BOM + b"[{}]"])
def test_file_that_is_an_array_is_refused(refusal, content: bytes) -> None:
    assert refusal(content) == (1, 0, "")


def test_gzip_under_a_plain_name_is_refused(refusal) -> None:
    assert refusal(gzip.compress(b'{"a": 1}\n')) == (1, 0, "")


def test_file_that_shrinks_is_refused(opened) -> None:
    file = opened(b'{"a": 1}\n{"a": 2}\n')
    Path(file.path).write_bytes(b'{"a": 1}\n{"a"')
    with pytest.raises(DataError, match=re.escape(file.path)), file.open():
        pass


def test_file_that_shrinks_while_it_is_read_is_refused(opened) -> None:
    file = opened(b'{"a": 1}\n{"a": 2}\n')
    with file.open() as rows:
        Path(file.path).write_bytes(b'{"a": 1}\n{"a"')
        assert rows.parse(0).as_dict() == {"a": 1}
        with pytest.raises(DataError) as caught:
            rows.parse(1)
    assert parse_place(caught.value, file.path) == (2, 9, "")


@pytest.mark.parametrize("content", [b"", BOM])
def test_empty_file_is_refused(refusal, content: bytes) -> None:
    assert refusal(content) == (1, 0, "")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        JsonlFile(tmp_path / "nowhere.jsonl")
