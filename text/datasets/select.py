"""The selection behind ``--sel_data``: a raw DPR file to JSONL, streaming.

A raw file is a JSON array or JSONL, plain or compressed by gzip; which, its content says, never its
name. In memory is one row, and what is read ahead of it. Rows are checked as ``DPRDataPipe`` checks
them, and a key that stands twice in one object, which a parser would drop silently, is refused.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import ijson
import orjson
from tqdm import tqdm

from text.artifacts import atomic_write
from text.datasets.jsonl import BYTE_ORDER_MARK, looks_like_utf16, parse_object
from text.datasets.parse import POOLS, FieldError, SkipRow, parse_example
from text.errors import DataError

Path = str | os.PathLike[str]
File = BinaryIO | gzip.GzipFile

_READ_BYTES = 1 << 20
_MAX_ROW_BYTES = 1 << 24


class Selection(NamedTuple):
    """What was read to make a selection."""

    kept: int
    """Rows written."""
    skipped: int
    """Usable rows that were passed over, as asked."""
    dropped: Counter[str]
    """Rows that are not usable, by reason."""


class _Row(NamedTuple):
    where: str
    """As errors begin; the name of a field goes after it."""
    record: dict[str, Any]
    content: bytes
    """As it is written."""


def select_rows(
    raw_path: Path, out_path: Path, num_items: int, *, skip_items: int = 0, overwrite: bool = False
) -> Selection:
    """Writes the first usable rows of a raw DPR file, one JSON object a line.

    A row is usable if it has a question, and all three pools are there and not empty; all its
    fields are kept. Reading stops when there are enough rows. A file with fewer usable rows than
    asked for is no error: compare ``kept`` with ``num_items``.

    Args:
        raw_path: A JSON array or JSONL in the DPR format, plain or compressed by gzip.
        out_path: Appears whole or not at all; its folder is created.
        num_items: Rows to keep at most.
        skip_items: Usable rows to pass over first, so that several selections from one file
            (train, valid, test) have no row in common.
        overwrite: Replaces ``out_path`` where it exists.

    Raises:
        DataError: A row is malformed, the file is cut, or no row is left to keep; with path and
            byte, and the line or element. Nothing is written then.
        ValueError: A count is out of range, or ``out_path`` is the raw file itself.
        FileExistsError: ``out_path`` exists and is not to be replaced, or is a folder.
        OSError: A file cannot be read or written.
    """
    _check_arguments(raw_path, out_path, num_items, skip_items, overwrite)
    raw_path = os.fspath(raw_path)
    kept, skipped = 0, 0
    dropped: Counter[str] = Counter()
    with (
        open(raw_path, "rb") as raw,
        _progress(raw_path) as progress,
        atomic_write(out_path) as temporary,
        open(temporary, "wb") as out,
    ):
        for row in _rows(raw, raw_path):
            reason = "blank line" if row is None else _why_dropped(row)
            if reason is not None:
                dropped[reason] += 1
            elif skipped < skip_items:
                skipped += 1
            else:
                assert row is not None
                out.write(row.content + b"\n")
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


def _why_dropped(row: _Row) -> str | None:
    """Why a row is not usable, if it is not."""
    try:
        parse_example(row.record, Counter())
    except SkipRow as skip:
        return str(skip)
    except FieldError as error:
        raise DataError(f"{row.where}{error}") from None
    return next((f"no {name}" for name in POOLS if not row.record.get(name)), None)


def _rows(raw: BinaryIO, path: str) -> Iterator[_Row | None]:
    """The rows of a file of any of the four kinds; None for a blank line."""
    is_compressed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    file = gzip.GzipFile(fileobj=raw) if is_compressed else raw
    try:
        head = file.read(4096)
        if looks_like_utf16(head):
            raise DataError(f"{path}:1 (byte 0): not UTF-8 (it looks like UTF-16 or UTF-32); expected UTF-8")
        start = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
        file.seek(start)
        is_array = head[start:].lstrip().startswith(b"[")
        yield from _elements(file, path) if is_array else _lines(file, path, start)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = str(error).rstrip(".")
        raise DataError(
            f"{path}:1 (byte {raw.tell()}): gzip file is cut or damaged before this byte ({reason}); expected all of it"
        ) from None


def _lines(file: File, path: str, byte: int) -> Iterator[_Row | None]:
    """The rows of JSONL; ``file`` stands at ``byte``."""
    for number in itertools.count(1):
        # One byte too many shows that a row is too long, without reading all of it.
        line = file.readline(_MAX_ROW_BYTES + 1)
        if not line:
            return
        where = f"{path}:{number} (byte {byte}) "
        if len(line) > _MAX_ROW_BYTES:
            raise DataError(f"{where}row: longer than 16 MiB; expected one record a line")
        if line.strip():
            record = parse_object(line, path, number, byte, may_be_cut=not line.endswith(b"\n"))
            try:
                json.loads(line, object_pairs_hook=_check_keys)
            except FieldError as error:
                raise DataError(f"{where}{error}") from None
            except RecursionError:
                raise DataError(f"{where}row: nested too deeply; expected a record in the DPR format") from None
            yield _Row(where, record, line.strip())
        else:
            yield None
        byte += len(line)


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            _refuse(_Twice(key))
        seen.add(key)


def _elements(file: File, path: str) -> Iterator[_Row]:
    """The elements of an array; an error names the place in it, as ``[3].question``.

    A lone surrogate that is escaped (``\\ud800``) comes as "?": yajl, which ijson is built on, has it so.
    """
    source = _Source(file)
    elements = ijson.items(source, "item", buf_size=_READ_BYTES, use_float=True, map_type=_Object)
    for number in itertools.count():
        where = source.where = f"{path}:1 (byte 0) [{number}]"
        source.left = _MAX_ROW_BYTES + _READ_BYTES
        try:
            record = next(elements)
        except StopIteration:
            return
        except (ijson.JSONError, UnicodeDecodeError) as error:
            message = error.args[0] if isinstance(error.args[0], bytes) else str(error).encode()
            reason = message.decode("utf-8", "backslashreplace").strip().split("\n")[0]
            raise DataError(
                f"{where}: {reason}, before byte {file.tell()}; expected a whole JSON array in UTF-8"
            ) from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: not an object; expected a record in the DPR format")
        try:
            content = orjson.dumps(record, default=_refuse)
        except TypeError as error:
            # From _refuse, or, without a cause, of what is nested too deeply for a record.
            raise DataError(f"{where}.{error.__cause__ or error}") from None
        yield _Row(f"{where}.", record, content)


class _Source:
    """A file as ijson reads it: an element that does not end is refused before it fills the memory."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.where = ""
        self.left = 0

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise DataError(f"{self.where}: longer than 16 MiB; expected a record in the DPR format")
        return self.file.read(size)


class _Object(dict[str, Any]):
    """Shows a key that stands twice by its value, since ijson's C code lets no exception pass."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _Twice(key) if key in self else value)


class _Twice(NamedTuple):
    key: str


def _refuse(twice: _Twice) -> None:
    raise FieldError(f"{twice.key}: key stands twice in one object; expected each key once")
