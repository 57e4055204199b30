"""The selection behind ``--sel_data``: a raw DPR file to JSONL, streaming.

A raw file is one JSON array or JSONL, plain or compressed by gzip; which, its content says, never
its name. The rows of both go through one check, that of the reader (jsonl.py, parse.py), and
duplicate keys are refused besides. Both leave as the bytes they came in, so that every field and
every digit is kept; only line breaks and indentation between the tokens of an array's element go.
In memory are one row (at most 16 MiB) and what is read ahead of it.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from typing import NamedTuple

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
# Only where an object ends is of interest, so that its values need not be made.
_OBJECT_DECODER = json.JSONDecoder(object_pairs_hook=len, parse_int=len, parse_float=len)


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
    """1-based, at which the row starts."""
    byte: int
    """At which the row starts, in the file as it is when unpacked."""
    element: int | None
    """0-based place in the array; None in JSONL."""
    may_be_cut: bool
    """The file ends where the row does."""


def select_rows(
    raw_path: Path, out_path: Path, num_items: int, *, skip_items: int = 0, overwrite: bool = False
) -> Selection:
    """Writes the first usable rows of a raw DPR file, one JSON object a line.

    A row is usable if it has a question and all three pools are there and not empty. Reading
    stops when there are enough rows, so that a fault further on is not seen. A file with fewer
    usable rows than asked for is no error: the caller compares ``kept`` with ``num_items``.

    Args:
        raw_path: A JSON array or JSONL in the DPR format, plain or compressed by gzip.
        out_path: Appears whole or not at all; its folder is created.
        num_items: Rows to keep at most.
        skip_items: Usable rows to pass over first, so that several selections from one file
            (train, valid, test) have no row in common.
        overwrite: Replaces ``out_path`` where it exists.

    Raises:
        DataError: A row is malformed, the file is cut, or no row is left to keep; nothing is
            written then.
        ValueError: A count is out of range, or ``out_path`` is the raw file.
        FileExistsError: ``out_path`` exists, or is a folder.
        OSError: A file cannot be read or written.
    """
    _check_arguments(raw_path, out_path, num_items, skip_items, overwrite)
    raw_path, kept, skipped, dropped = os.fspath(raw_path), 0, 0, Counter()
    with (
        open(raw_path, "rb", buffering=_READ_BYTES) as raw,
        _progress(raw_path) as progress,
        atomic_write(out_path) as temporary,
        open(temporary, "wb") as out,
    ):
        for row in _rows(raw, raw_path):
            reason = _examine(row, raw_path)
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
    out_path = os.fspath(out_path)
    if os.path.isdir(out_path):
        raise FileExistsError(f"{out_path} is a folder; expected the name of the file to write")
    if os.path.samefile(raw_path, out_path):
        raise ValueError(f"{out_path} is the raw file itself; expected another file to write to")
    if not overwrite:
        raise FileExistsError(f"{out_path} exists; expected a new file, or overwrite")


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
    found = ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "it is empty"
    return f"{path}:1 (byte 0): no row to keep ({found}); expected rows with a question and {', '.join(POOLS)}"


def _one_line(content: bytes) -> bytes:
    # A string cannot hold a raw line break, so what stands around one is only layout.
    return b"".join(line.strip() for line in content.splitlines()) + b"\n"


def _examine(row: _Row, path: str) -> str | None:
    """Why a row is not usable, if it is not.

    Raises:
        DataError: It is malformed; with path, line and byte, and element in an array.
    """
    try:
        return _why_dropped(row, path)
    except DataError as error:
        if row.element is None:
            raise
        raise DataError(f"{error} (element {row.element} of the array, counted from 0)") from None


def _why_dropped(row: _Row, path: str) -> str | None:
    if not row.content.strip():
        return "blank line"
    where = f"{path}:{row.line} (byte {row.byte})"
    if row.content.lstrip().startswith(b"["):
        raise DataError(f"{where}: row is an array; expected a JSON object")
    # In an array a row may span lines: "\r\n" is layout there, and is one byte longer than "\n".
    content = row.content if row.element is None else row.content.replace(b"\r\n", b" \n")
    record = parse_object(content, path, row.line, row.byte, may_be_cut=row.may_be_cut)
    _check_keys(content, where)
    try:
        parse_example(record, Counter())
    except SkipRow as skip:
        return str(skip)
    except ValueError as error:
        raise DataError(f"{where} {error}") from None
    return next((f"no {name}" for name in POOLS if not record.get(name)), None)


def _check_keys(content: bytes, where: str) -> None:
    """Refuses an object that has a key twice; ``content`` is known to be valid JSON."""
    objects: list[list[tuple[str, object]]] = []
    try:
        json.loads(content, object_pairs_hook=objects.append)
    except RecursionError:
        raise DataError(f"{where}: nested too deeply; expected the DPR format") from None
    for pairs in objects:
        if len(dict(pairs)) < len(pairs):
            key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise DataError(f"{where}: key {key!r:.80} stands twice in one object; expected each key once")


def _rows(raw: BufferedReader, path: str) -> Iterator[_Row]:
    """The rows of a raw file of any of the four kinds."""
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
            f"{path}:{line} (byte {byte}): the compressed file is cut or corrupt after this row ({error}); "
            "expected a whole .gz file"
        ) from None


def _lines(file: BufferedReader, path: str, byte: int) -> Iterator[_Row]:
    """The rows of JSONL; ``file`` stands at ``byte``."""
    for number in itertools.count(1):
        line = file.readline(_MAX_ROW_BYTES + 1)
        if not line:
            return
        if len(line) > _MAX_ROW_BYTES:
            raise DataError(
                f"{path}:{number} (byte {byte}): row is longer than 16 MiB; expected one JSON object a line"
            )
        yield _Row(line, number, byte, None, may_be_cut=not line.endswith(b"\n"))
        byte += len(line)


def _elements(file: BufferedReader, path: str, byte: int) -> Iterator[_Row]:
    """The elements of an array; ``file`` stands at ``byte``, before the bracket.

    Raises:
        DataError: What stands between the elements, or after the array, is not JSON.
    """
    window = _Window(file, byte)
    window.next()
    window.take(1)
    for element in itertools.count():
        found = window.next()
        if element == 0 and found == "]":
            break
        if found != "{":
            raise DataError(_misplaced(window, path, f"element {element} of the array (counted from 0)", "an object"))
        line, byte = window.line, window.byte
        size = window.object_size()
        if size is not None:
            yield _Row(window.take(size), line, byte, element, may_be_cut=False)
        else:
            yield _unfinished(window, path, element)
        found = window.next()
        if found == "]":
            break
        if found != ",":
            raise DataError(_misplaced(window, path, f"what follows element {element}", "a comma or ]"))
        window.take(1)
    window.take(1)
    if window.next():
        raise DataError(_misplaced(window, path, "the end of the array", "nothing after it"))
