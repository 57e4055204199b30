"""Tests of compressed files and JSON arrays: they give the same rows as the plain file, or an error."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law, parse_place, records, write_jsonl
from text.datasets import DPRDataPipe
from text.datasets.formats.compressed_files import Form, detect_form, read_chunks
from text.datasets.formats.conversion import prepare_plain_file
from text.datasets.formats.jsonl import JsonlFile
from text.errors import DataError

COMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.compress}
ROWS = b"".join(json.dumps(row).encode() + b"\n" for row in records(40))


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def find_refused_byte(path: str) -> int:
    """Return the byte that the error names."""
    with pytest.raises(DataError) as caught:
        prepare_plain_file(path)
    place = parse_place(caught.value, path)
    assert place.line == 1
    folder = Path(path).parent / ".dpr-text"
    assert not folder.exists() or not list(folder.iterdir())  # No converted file is left behind.
    return place.byte


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.jsonl.zst", "r.json", "r.json.gz", "r.json.zst"])
@pytest.mark.parametrize("indent", [None, 1, 4])
def test_same_batches_from_all_forms(tmp_path: Path, name: str, indent: int | None) -> None:
    rows = records(9)
    plain = DPRDataPipe(write_jsonl(tmp_path / "plain.jsonl", rows), 4, train=True)
    content = (
        json.dumps(rows, indent=indent).encode() if ".json." in f"{name}." else (tmp_path / "plain.jsonl").read_bytes()
    )
    pack = COMPRESS.get(Path(name).suffix, bytes)
    path = tmp_path / name
    path.write_bytes(pack(content))
    for _ in range(2):
        pipe = DPRDataPipe(path, 4, train=True)
        for epoch in range(2):
            for one in (pipe, plain):
                one.set_epoch(epoch)
            assert list(pipe) == list(plain)


def test_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl.gz", gzip.compress(ROWS))
    plain = prepare_plain_file(path)
    assert Path(plain).read_bytes() == ROWS
    monkeypatch.setattr("text.datasets.formats.conversion._convert", None)
    assert prepare_plain_file(path) == plain


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json"])
def test_two_processes_can_convert_the_same_file(tmp_path: Path, name: str) -> None:
    """The converted file of the second process replaces the file that the first process reads."""
    rows = json.dumps(records(9)).encode() if name.endswith(".json") else gzip.compress(ROWS)
    path = write(tmp_path / name, rows)
    first = JsonlFile(path)
    Path(first.plain_path).unlink()
    second = JsonlFile(path)
    for file in (first, second):
        with file.open() as reader:
            assert reader.parse(1)["question"] == records(9)[1]["question"]


def test_plain_file_is_not_converted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    assert prepare_plain_file(path) == path
    assert not (tmp_path / ".dpr-text").exists()


@pytest.mark.parametrize("indent", [None, 4])
def test_conversion_keeps_the_byte_offset_of_each_element(tmp_path: Path, indent: int | None) -> None:
    rows = [{"a": 1, "b": [{"c": "x\ny"}]}, {}, {"a": "]}, {"}]
    content = b" \n" + json.dumps(rows, indent=indent).replace("\n", "\r\n").encode()
    file = JsonlFile(write(tmp_path / "rows.json", content))
    assert len(file) == 3
    with file.open() as opened:
        for number, row in enumerate(rows):
            line = opened.read(number)
            assert json.loads(line) == row
            start = file.get_offset(number) + len(line) - len(line.lstrip())
            assert content[start : start + 1] == b"{"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_fault_in_an_array_has_its_line_and_byte(tmp_path: Path, pack: Callable[[bytes], bytes], newline: str) -> None:
    rows: list[dict[str, Any]] = [*records(40), {"question": "q", "positive_ctxs": [{"title": "t", "text": True}]}]
    content = ("\n" + json.dumps(rows, indent=2)).replace("\n", newline).encode()
    path = write(tmp_path / ("rows.json.gz" if pack is gzip.compress else "rows.json"), pack(content))
    with pytest.raises(DataError) as caught:
        DPRDataPipe(path, 1)
    byte = content.index(b'"text": true')
    line = content.count(b"\n", 0, byte) + 1
    assert parse_place(caught.value, path) == (line, byte, "positive_ctxs[0].text")


@law
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.sampled_from([None, 1]))
def test_rows_of_an_array_are_at_their_lines_and_bytes(tmp_path: Path, gaps: list[int], indent: int | None) -> None:
    parts = ["\n" * gap + json.dumps({"a": [gap, {}]}, indent=indent) + "\n" * gap for gap in gaps]
    content = f"[{','.join(parts)}]".encode()
    path = tmp_path / "rows.json"
    file = JsonlFile(write(path, content))
    starts = [match.start() for match in re.finditer(rb'\{\s*"a"', content)]
    expected = [(content.count(b"\n", 0, start) + 1, start) for start in starts]
    assert [file.find_place(row) for row in range(len(file))] == expected
    last = content.rindex(b"{}")
    assert file.find_place(len(file) - 1, "a[1]") == (content.count(b"\n", 0, last) + 1, last)


def test_array_that_is_named_jsonl_is_refused(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        content = json.dumps(records(2)).encode()
        assert (
            find_refused_byte(write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)) == 0
        )


def test_truncated_array_is_refused(tmp_path: Path) -> None:
    content = json.dumps(records(3)).encode()
    assert find_refused_byte(write(tmp_path / "rows.json", content[:-300])) == len(content) - 300
    assert find_refused_byte(write(tmp_path / "rows.json.gz", gzip.compress(content[:-1]))) == len(content) - 1


# Compression. Every truncation of a compressed file is an error, and no converted file is left behind.


@pytest.mark.slow
@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_truncation_of_a_compressed_file_is_refused_at_its_byte(tmp_path: Path, suffix: str) -> None:
    packed = COMPRESS[suffix](ROWS)
    path = tmp_path / f"rows.jsonl{suffix}"
    for size in range(20, len(packed)):
        assert find_refused_byte(write(path, packed[:size])) == size


@pytest.mark.parametrize("suffix", COMPRESS)
def test_truncated_end_of_a_large_file_is_refused_at_its_byte(tmp_path: Path, suffix: str) -> None:
    # The file is large enough for several reads. Its last byte, part of the trailer, is removed.
    packed = COMPRESS[suffix](b"".join(b'{"a": %d}\n' % (i * 7919 % 100_003) for i in range(100_000)))
    assert len(packed) > 1 << 17
    assert find_refused_byte(write(tmp_path / f"rows.jsonl{suffix}", packed[:-1])) == len(packed) - 1


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("garbage", [b"x", b"\0" * 512, b"garbage" * 100, ROWS])
def test_garbage_after_the_compressed_data_is_refused(tmp_path: Path, suffix: str, garbage: bytes) -> None:
    packed = COMPRESS[suffix](ROWS)
    assert find_refused_byte(write(tmp_path / f"rows.jsonl{suffix}", packed + garbage)) <= len(packed + garbage)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_several_members_are_accepted(tmp_path: Path, suffix: str) -> None:
    half = len(ROWS) // 2
    packed = COMPRESS[suffix](ROWS[:half]) + COMPRESS[suffix](b"") + COMPRESS[suffix](ROWS[half:])
    assert Path(prepare_plain_file(write(tmp_path / f"rows.jsonl{suffix}", packed))).read_bytes() == ROWS


@pytest.mark.parametrize("suffix", COMPRESS)
def test_flipped_bit_is_refused(tmp_path: Path, suffix: str) -> None:
    packer = zstandard.ZstdCompressor(write_checksum=True).compress if suffix == ".zst" else gzip.compress
    packed = bytearray(packer(ROWS))
    packed[len(packed) // 2] ^= 4
    assert find_refused_byte(write(tmp_path / f"rows.jsonl{suffix}", bytes(packed))) <= len(packed)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", gzip.compress(ROWS)),
        ("rows.jsonl", zstandard.compress(ROWS)),
        ("rows.jsonl.gz", zstandard.compress(ROWS)),
        ("rows.jsonl.gz", ROWS),
        ("rows.jsonl.zst", gzip.compress(ROWS)),
    ],
)
def test_name_that_contradicts_the_content_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    assert find_refused_byte(write(tmp_path / name, content)) == 0


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_compressed_file_without_rows_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = write(tmp_path / f"rows.jsonl{suffix}", COMPRESS[suffix](content))
    with pytest.raises(DataError, match="^" + re.escape(path)):
        DPRDataPipe(path, 1)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_utf_16_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows.jsonl{suffix}", COMPRESS[suffix]('{"a": 1}'.encode("utf-16")))
    assert find_refused_byte(path) == 0


@law
@given(st.binary(max_size=300), st.sampled_from(list(COMPRESS)), st.integers(1, 4))
def test_decompression_restores_the_content(tmp_path: Path, content: bytes, suffix: str, members: int) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(COMPRESS[suffix](content) * members)
    form = Form({".gz": "gzip", ".zst": "zstd"}[suffix], is_array=False)
    assert b"".join(read_chunks(str(path), form)) == content * members


def test_form_is_read_from_the_content(tmp_path: Path) -> None:
    for content, is_array in ((b"{}", False), (b" \n[{}]", True), (b"\xef\xbb\xbf[]", True), (b"", False)):
        assert detect_form(write(tmp_path / "x", content)) == Form(None, is_array)


def test_pipe_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="^" + re.escape(str(tmp_path / "pipe"))):
        detect_form(str(tmp_path / "pipe"))


def test_compressed_file_that_changes_or_loses_its_conversion_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl.gz", gzip.compress(ROWS))
    rows = JsonlFile(path)
    Path(rows.plain_path).unlink()
    with pytest.raises(DataError, match=re.escape(rows.plain_path)), rows.open():
        pass
    rows = JsonlFile(path)
    write(tmp_path / "rows.jsonl.gz", gzip.compress(ROWS[:-1]))
    with pytest.raises(DataError, match="^" + re.escape(path)), rows.open():
        pass


@pytest.mark.parametrize("suffix", COMPRESS)
def test_decompression_bomb_is_read_in_pieces_and_refused(tmp_path: Path, suffix: str) -> None:
    for megabytes in (60, 400):
        path = write(tmp_path / f"spaces.jsonl{suffix}", COMPRESS[suffix](b"\n" * (megabytes << 20)))
        sizes = list[int]()
        try:
            sizes.extend(len(chunk) for chunk in read_chunks(path, detect_form(path)))
            assert sum(sizes) == 60 << 20
        except DataError as error:
            assert parse_place(error, path).line == 1 and megabytes == 400
        assert max(sizes, default=0) <= 64 << 20 and sum(sizes) < 150 << 20
    with pytest.raises(DataError):
        prepare_plain_file(path)
    assert list(tmp_path.glob(".dpr-text/*")) == []
