"""The selection behind ``--sel_data``: a raw DPR file to JSONL, streaming.

A raw file is one JSON array or JSONL, plain or compressed by gzip; which, its content says, never
its name. The rows of both pass the check of the reader (jsonl.py, parse.py), and a key that stands
twice is refused besides. Rows leave as the bytes that came in, so that every field and every digit
is kept; only the line breaks and indentation inside an array's element go.

In memory are one row (at most 16 MiB) and what is read ahead of it.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, NamedTuple

from tqdm import tqdm

from text.artifacts import atomic_write
from text.datasets.jsonl import parse_object
from text.datasets.parse import POOLS, SkipRow, parse_example
from text.errors import DataError

Path = str | os.PathLike[str]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
_BLANKS = re.compile(r"[ \t\r\n]*")
_NON_ASCII = bytes(range(0x80, 0x100))
_READ_BYTES = 1 << 20
_MAX_ROW_BYTES = 1 << 24
_TOO_LONG = "row is longer than 16 MiB; expected a record in the DPR format"


class Selection(NamedTuple):
    """What was read to make a selection."""

    kept: int
    """Rows written."""
    skipped: int
    """Usable rows that were passed over, as asked."""
    dropped: Counter[str]
    """Rows that are not usable, by reason."""


class _Row(NamedTuple):
    content: bytes
    line: int
    """1-based line at which the row starts."""
    byte: int
    """At which the row starts, in the unpacked file."""
    element: int | None
    """0-based place in the array; None in JSONL."""


def select_rows(
    raw_path: Path, out_path: Path, num_items: int, *, skip_items: int = 0, overwrite: bool = False
) -> Selection:
    """Writes the first usable rows of a raw DPR file, one JSON object a line.

    A row is usable if it has a question, and all three pools are there and not empty. Reading
    stops when there are enough rows, so that a fault further on is not seen. A file with fewer
    usable rows than asked for is no error: compare ``kept`` with ``num_items``.

    Args:
        raw_path: A JSON array or JSONL in the DPR format, plain or compressed by gzip.
        out_path: Appears whole or not at all; its folder is created.
        num_items: Rows to keep at most.
        skip_items: Usable rows to pass over first, so that several selections from one file
            (train, valid, test) have no row in common.
        overwrite: Replaces ``out_path`` where it exists.

    Raises:
        DataError: A row is malformed, the file is cut, or no row is left to keep; with path, line
            and byte. Nothing is written then.
        ValueError: A count is out of range, or ``out_path`` is the raw file itself.
        FileExistsError: ``out_path`` exists and is not to be replaced, or is a folder.
        OSError: A file cannot be read or written.
    """
    _check_arguments(raw_path, out_path, num_items, skip_items, overwrite)
    raw_path = os.fspath(raw_path)
    kept, skipped = 0, 0
    dropped: Counter[str] = Counter()
    with (
        open(raw_path, "rb", buffering=_READ_BYTES) as raw,
        _progress(raw_path) as progress,
        atomic_write(out_path) as temporary,
        open(temporary, "wb") as out,
    ):
        for row in _rows(raw, raw_path):
            reason = _why_dropped(row, raw_path)
            if reason is not None:
                dropped[reason] += 1
            elif skipped < skip_items:
                skipped += 1
            else:
                out.write(_one_line(row.content))
                kept += 1
            progress.update(raw.tell() - progress.n)
            if kept == num_items:
                break
        if kept == 0:
            raise DataError(_nothing_kept(raw_path, skipped, dropped))
    return Selection(kept, skipped, dropped)


def _check_arguments(raw_path: Path, out_path: Path, num_items: int, skip_items: int, overwrite: bool) -> None:
    for name, value, least in (("num_items", num_items, 1), ("skip_items", skip_items, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected {least} or more")
    if not os.path.exists(out_path):
        return
    if os.path.isdir(out_path):
        raise FileExistsError(f"{os.fspath(out_path)} is a folder; expected the name of the file to write")
    if os.path.samefile(raw_path, out_path):
        raise ValueError(f"{os.fspath(out_path)} is the raw file itself; expected another file to write to")
    if not overwrite:
        raise FileExistsError(f"{os.fspath(out_path)} exists; expected a new file, or overwrite")


def _progress(path: str) -> tqdm:
    # delay: a small file is read before a bar is worth showing.
    return tqdm(
        desc=f"Selecting from {os.path.basename(path)}",
        total=os.path.getsize(path),
        unit="B",
        unit_scale=True,
        delay=2,
        leave=False,
        disable=None,
    )


def _nothing_kept(path: str, skipped: int, dropped: Counter[str]) -> str:
    counts = dropped + Counter({"passed over by skip_items": skipped})
    found = ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "it has no rows"
    return f"{path}:1 (byte 0): no row to keep ({found}); expected rows with a question and {', '.join(POOLS)}"


def _one_line(content: bytes) -> bytes:
    # A string cannot hold a raw line break, so that what stands around one is only layout.
    return b"".join(map(bytes.strip, content.splitlines())) + b"\n"


def _why_dropped(row: _Row, path: str) -> str | None:
    """Why a row is not usable, if it is not.

    Raises:
        DataError: It is malformed; with path, line and byte, and the element of an array.
    """
    if not row.content.strip():
        return "blank line"
    try:
        record = _parse(row, path)
        parse_example(record, Counter())
    except SkipRow as skip:
        return str(skip)
    except ValueError as error:
        problem = str(error) if isinstance(error, DataError) else f"{path}:{row.line} (byte {row.byte}) {error}"
        raise DataError(problem if row.element is None else f"{problem}, in {_name(row.element)}") from None
    return next((f"no {name}" for name in POOLS if not record.get(name)), None)


def _parse(row: _Row, path: str) -> dict[str, Any]:
    if len(row.content) > _MAX_ROW_BYTES:
        raise ValueError(_TOO_LONG)
    if row.content.lstrip().startswith(b"["):
        raise ValueError("row is an array; expected a JSON object")
    may_be_cut = row.element is None and not row.content.endswith(b"\n")
    record = parse_object(row.content, path, row.line, row.byte, may_be_cut=may_be_cut)
    if row.element is None:  # an element went through this when its end was looked for
        _end_of_value(row.content.decode().lstrip())
    return record


class _RefusedValue(ValueError):
    """It is JSON, and yet not to be kept."""


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _RefusedValue(f"key {key!r:.80} stands twice in one object; expected each key once")


# Its values are of no use: it finds where an object ends, and sees the keys that others drop.
_DECODER = json.JSONDecoder(object_pairs_hook=_check_keys, parse_int=str)


def _end_of_value(text: str, start: int = 0) -> int:
    """Where the JSON value that begins at ``start`` ends.

    Raises:
        json.JSONDecodeError: It is not JSON, or it is cut.
        _RefusedValue: An object has a key twice, or is nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, start)[1]
    except RecursionError:
        raise _RefusedValue("row is nested too deeply; expected a record in the DPR format") from None


def _rows(raw: BufferedReader, path: str) -> Iterator[_Row]:
    """The rows of a raw file of any of the four kinds.

    Raises:
        DataError: The file is not UTF-8, or cut, or what stands between its rows is not JSON.
    """
    line, byte = 1, 0
    try:
        is_compressed = raw.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
        file = BufferedReader(gzip.GzipFile(fileobj=raw), _READ_BYTES) if is_compressed else raw
        head = file.peek(_READ_BYTES)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head[:4]:
            raise DataError(f"{path}:1 (byte 0): not UTF-8 (it looks like UTF-16 or UTF-32); expected UTF-8")
        start = len(file.read(len(_BYTE_ORDER_MARK))) if head.startswith(_BYTE_ORDER_MARK) else 0
        is_array = head[start:].lstrip().startswith(b"[")
        for row in (_elements if is_array else _lines)(file, path, start):
            line, byte = row.line, row.byte
            yield row
    except _GZIP_ERRORS as error:
        raise DataError(
            f"{path}:{line} (byte {byte}): compressed file is cut or corrupt after this row ({error}); "
            "expected a whole .gz file"
        ) from None


def _lines(file: BufferedReader, path: str, byte: int) -> Iterator[_Row]:
    """The rows of JSONL; ``file`` stands at ``byte``."""
    for number in itertools.count(1):
        # One byte too many shows that a row is too long, without reading all of it.
        content = file.readline(_MAX_ROW_BYTES + 1)
        if not content:
            return
        yield _Row(content, number, byte, element=None)
        byte += len(content)


def _elements(file: BufferedReader, path: str, byte: int) -> Iterator[_Row]:
    """The elements of an array; ``file`` stands at ``byte``, before the bracket."""
    window = _Window(file, byte)
    window.next()
    window.take(1)
    for element in itertools.count():
        found = window.next()
        if found == "]" and element == 0:
            break
        if found != "{":
            raise _misplaced(window, path, f"in place of {_name(element)}", "a JSON object")
        yield _next_row(window, path, element)
        found = window.next()
        if found == "]":
            break
        if found != ",":
            raise _misplaced(window, path, f"after {_name(element)}", "a comma or ]")
        window.take(1)
    window.take(1)
    if window.next():
        raise _misplaced(window, path, "after the array", "the end of the file")


def _name(element: int) -> str:
    return f"element {element} of the array (the first is 0)"


def _misplaced(window: _Window, path: str, place: str, expected: str) -> DataError:
    character = window.next()
    found = f"{character!a}" if character else "file ends"
    return DataError(f"{path}:{window.line} (byte {window.byte}): {found} {place}; expected {expected}")


def _next_row(window: _Window, path: str, element: int) -> _Row:
    line, byte = window.line, window.byte
    try:
        content = window.take_object()
    except _RefusedValue as error:
        raise DataError(f"{path}:{line} (byte {byte}) {error}, in {_name(element)}") from None
    if content is None:
        raise DataError(f"{_why_not_whole(window, path)}, in {_name(element)}")
    return _Row(_without_cr(content), line, byte, element)


def _why_not_whole(window: _Window, path: str) -> str:
    line, byte = window.line, window.byte
    content = window.take(_MAX_ROW_BYTES).rstrip(_NON_ASCII)  # the last character may be cut
    is_end = not window.next()
    try:
        parse_object(_without_cr(content), path, line, byte, may_be_cut=is_end)
    except DataError as error:
        if is_end or "unexpected end of data" not in str(error):
            return str(error)
    return f"{path}:{line} (byte {byte}) {_TOO_LONG}"


def _without_cr(content: bytes) -> bytes:
    """Line breaks as "\\n", at the same bytes: "\\r\\n" is layout here, in JSONL it would be a fault."""
    return content.replace(b"\r\n", b" \n") if b"\r" in content else content


class _Window:
    """The part of an array's file that is in memory, and how far the file was read.

    It is text because json, which finds where an object ends, takes text. Bytes that are not
    UTF-8 come out of it as they went in, for those who parse the object to refuse.
    """

    def __init__(self, file: BufferedReader, byte: int) -> None:
        self.line = 1
        self.byte = byte
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._place = 0

    def next(self) -> str:
        """Passes over blanks; the character after them, which stays. Empty at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._place).group()
            self.take(len(blanks))
            if self._place < len(self._text) or not self._read():
                return self._text[self._place : self._place + 1]

    def take(self, size: int) -> bytes:
        """Passes over so many characters, or those that there are."""
        taken = self._text[self._place : self._place + size]
        content = taken.encode("utf-8", "surrogateescape")
        self._place += len(taken)
        self.byte += len(content)
        self.line += content.count(b"\n")
        return content

    def take_object(self) -> bytes | None:
        """Passes over the object that begins here; None, and no further, if it is not whole.

        Raises:
            _RefusedValue: An object has a key twice, or is nested too deeply.
        """
        while True:
            try:
                return self.take(_end_of_value(self._text, self._place) - self._place)
            except json.JSONDecodeError:
                # Invalid, or only cut by the window: more of the file tells.
                if len(self._text) - self._place > _MAX_ROW_BYTES or not self._read():
                    return None

    def _read(self) -> bool:
        """Adds to the window at least as much as is left in it; False at the end of the file."""
        left = self._text[self._place :]
        more = self._file.read(max(_READ_BYTES, len(left)))
        text = self._decoder.decode(more, final=not more)
        self._text, self._place = left + text, 0
        return bool(more or text)
