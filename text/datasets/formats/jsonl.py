"""Random access to the rows of a JSONL file by byte offset.

A row is what stands between two newline bytes, nothing else ends one: a JSON string may hold
any of Unicode's other line separators. Neither the file nor the offsets of its rows are in memory or mapped into it:
both are read from open files, so that a file that is cut is an error. What a row means is left to the caller.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import simdjson

from text.datasets.formats.array_files import ArrayFile, Column, check_ascending, write_arrays
from text.datasets.formats.compressed_files import BYTE_ORDER_MARK, form_of
from text.datasets.formats.conversion import NEWLINE, plain_file
from text.datasets.formats.lines import MAX_ROW_BYTES, explain_long_row
from text.datasets.formats.places import find_field, format_place
from text.datasets.formats.repair import mask_repairs, parse_row_object
from text.datasets.formats.sidecars import sidecar
from text.datasets.formats.strict_json import explain, two_parsers
from text.errors import ArtifactError, DataError

INDEXED_BYTES = 1 << 24
"""From this size on, what was found in a file is kept beside it; a smaller one is read sooner than that is found."""
_SCAN_BYTES = 1 << 20
_CAN_PREFETCH = hasattr(os, "posix_fadvise")  # not on macOS


class JsonlFile:
    """The rows of one JSONL file.

    Where rows start is found once, and kept in a file beside the data (``text/datasets/formats/sidecars.py``).

    Args:
        path: UTF-8 file, one JSON object a line. A byte order mark at the start is passed over. A
            file compressed by gzip or zstd, or one that is a JSON array, is converted once into a file
            beside it (``text/datasets/formats/conversion.py``).

    Raises:
        DataError: The file is empty, cut, not UTF-8, or a row is longer than 16 MiB.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.plain_path = plain_file(self.path)
        """Where the rows are: the file itself, or what it was converted to."""
        self._is_array = self.plain_path != self.path and form_of(self.path).is_array
        self._state = _state(os.stat(self.plain_path))
        self._state_of_path = _state(os.stat(self.path))
        self._offsets = self._find_rows()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def offset(self, row: int) -> int:
        """The byte at which a row starts; in a compressed file, of what it holds."""
        return int(self._offsets[row])

    def where(self, row: int, field: str = "") -> str:
        """Return the place of a row or of its field, as errors begin: ``path:line (byte B)``."""
        return format_place(self.path, *self.place(row, field))

    def place(self, row: int, field: str = "") -> tuple[int, int]:
        """Return the line and the byte of a row in the user's file.

        A row of an array can have many lines: the place is the one of the field. The place in a compressed file is
        the one in its content.
        """
        if not self._is_array:
            return row + 1, self.offset(row)
        with open(self.plain_path, "rb") as file:
            file.seek(self.offset(row))
            content = file.read(self.offset(row + 1) - self.offset(row))
        byte = find_field(content, field)
        return int(self._first_lines[row]) + content.count(NEWLINE, 0, byte), self.offset(row) + byte

    @cached_property
    def _first_lines(self) -> np.ndarray:
        """Line of the user's array in which each row starts, with the white space before it."""
        newlines = np.zeros(len(self) + 1, dtype=np.int64)
        offsets = self._offsets.array() if isinstance(self._offsets, Column) else self._offsets
        with open(self.plain_path, "rb") as file:
            for start in range(0, self.offset(len(self)), _SCAN_BYTES):
                found = np.flatnonzero(np.frombuffer(file.read(_SCAN_BYTES), dtype=np.uint8) == ord(NEWLINE)) + start
                newlines += np.bincount(np.searchsorted(offsets, found, "right"), minlength=len(newlines))
        return 1 + np.cumsum(newlines)

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Opens the file to read rows from it.

        Raises:
            DataError: The file is not the one that was there at first: size or time of change differ. Or what it was
                converted to is gone.
        """
        start = format_place(self.path, 1, 0)
        changed = f"{start}: the file has changed since it was first read. Leave it as it is during a run."
        if _state(os.stat(self.path)) != self._state_of_path:
            raise DataError(changed)
        try:
            descriptor = os.open(self.plain_path, os.O_RDONLY)
        except FileNotFoundError:
            raise DataError(f"{self.path}: {self.plain_path} was removed; expected it to stay during a run") from None
        try:
            if _state(os.fstat(descriptor)) != self._state:
                raise DataError(changed)
            yield RowReader(self, descriptor)
        finally:
            os.close(descriptor)

    def _find_rows(self) -> Sequence[int] | np.ndarray:
        """Return the offsets of all rows and of the end. Those of a large file are read from its sidecar."""
        if self._state[0] >= INDEXED_BYTES:
            with suppress(PermissionError):  # no folder for it: it is made anew each time
                return sidecar(
                    self.plain_path, "rows", lambda path: write_arrays(path, [self._scan()]), self._load_offsets
                )
        return self._scan()

    def _load_offsets(self, path: Path) -> Column:
        [offsets] = ArrayFile(path, [np.int64]).columns
        check_ascending(offsets, self._first_byte(), self._state[0], path)
        if any((np.diff(piece) > MAX_ROW_BYTES).any() for piece in offsets.pieces()):
            raise ArtifactError(f"{path}: has a row that is longer than 16 MiB. Remove it.")
        return offsets

    def _first_byte(self) -> int:
        """Return where the first row starts: behind a byte order mark."""
        with open(self.plain_path, "rb", buffering=0) as file:
            return len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0

    def _scan(self) -> np.ndarray:
        """Return the offsets of all rows and of the end."""
        ends, size, last, start = [], 0, b"", self._first_byte()
        num_rows, row_start = 0, start  # Of the row that is not complete.
        buffer = bytearray(_SCAN_BYTES)
        view = np.frombuffer(buffer, dtype=np.uint8)
        with open(self.plain_path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                found = np.flatnonzero(view[:count] == ord("\n")) + (size + 1)
                size, last = size + count, buffer[count - 1 : count]
                if len(found):
                    ends.append(found)
                    num_rows, row_start = num_rows + len(found), int(found[-1])
                elif (
                    size - row_start > MAX_ROW_BYTES
                ):  # The rest is not read: a sparse file may seem to have terabytes.
                    raise explain_long_row(self.path, num_rows + 1, row_start)
        if size == start:
            raise DataError(f"{format_place(self.path, 1, 0)}: no rows; expected one JSON object a line")
        offsets = np.concatenate([[start], *ends, [] if last == b"\n" else [size]]).astype(np.int64)
        longest = int(np.diff(offsets).argmax())
        if offsets[longest + 1] - offsets[longest] > MAX_ROW_BYTES:
            raise explain_long_row(self.path, longest + 1, int(offsets[longest]))
        return offsets


class RowReader:
    """Reads the rows of an open JsonlFile; for one thread."""

    def __init__(self, file: JsonlFile, descriptor: int) -> None:
        self.file = file
        self._descriptor = descriptor
        self.repairs: Counter[str] = Counter()
        """Number of rows that were repaired when they were parsed (``repair.py``), by kind."""
        self._parsers = two_parsers()
        self._buffer = bytearray()

    def read(self, row: int) -> bytes:
        """The bytes of a row, with its newline.

        Raises:
            DataError: The file became shorter since it was opened.
        """
        start, end = self.file.offset(row), self.file.offset(row + 1)
        # Not a memory map: reading one where the file was cut kills the process.
        line = os.pread(self._descriptor, end - start, start)
        if len(line) < end - start:
            raise DataError(
                f"{self.file.where(row)}: file ends inside this row; expected the file as it was when it was opened"
            )
        return line

    def prefetch(self, row: int) -> None:
        """Has a row that will be read soon fetched from the disk, and does not wait for it."""
        if _CAN_PREFETCH:
            start = self.file.offset(row)
            os.posix_fadvise(self._descriptor, start, self.file.offset(row + 1) - start, os.POSIX_FADV_WILLNEED)

    def parse(self, row: int) -> simdjson.Object:
        """A row as an object, valid until the next row is parsed; no part of it may be kept.

        Raises:
            DataError: The row is not one JSON object, with path, line and byte.
        """
        start, end = self.file.offset(row), self.file.offset(row + 1)
        if end - start > len(self._buffer):
            self._buffer = bytearray(2 * (end - start))
        # Into memory that is there already: to get new pages for each row costs more than to parse it.
        line = memoryview(self._buffer)[: end - start]
        if os.preadv(self._descriptor, [line], start) < end - start:
            self.read(row)  # raises
        return self.parse_line(row, line)

    def parse_line(self, row: int, line: bytes | memoryview) -> simdjson.Object:
        """Likewise, of a row that was read before."""
        try:
            return parse_row_object(line, next(self._parsers), self.repairs)
        except ValueError:
            line = mask_repairs(bytes(line))
            is_cut = not line.endswith(b"\n")
            raise explain(line, self.file.path, row + 1, self.file.offset(row), may_be_cut=is_cut) from None


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
