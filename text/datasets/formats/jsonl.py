"""Random access to the rows of a JSONL file by byte offset.

Only a newline byte ends a row, because a JSON string may contain any other Unicode line separator. Neither the file nor
the row offsets are loaded or memory-mapped: both are read from open files, so a truncated file raises an error. The
caller interprets the rows.
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
from text.datasets.formats.compressed_files import BYTE_ORDER_MARK, detect_form
from text.datasets.formats.conversion import NEWLINE, prepare_plain_file
from text.datasets.formats.lines import MAX_ROW_BYTES, explain_long_row
from text.datasets.formats.places import find_field, format_place
from text.datasets.formats.repair import mask_repairs, parse_row_object
from text.datasets.formats.sidecars import load_or_make_sidecar
from text.datasets.formats.strict_json import alternate_parsers, explain_invalid_json
from text.errors import ArtifactError, DataError

INDEXED_BYTES = 1 << 24
"""Minimum size of a file to keep its row offsets in a sidecar. Scanning a smaller file is faster than a sidecar."""
_SCAN_BYTES = 1 << 20
_CAN_PREFETCH = hasattr(os, "posix_fadvise")  # not on macOS


class JsonlFile:
    """Rows of one JSONL file.

    The row offsets of a large file are found once and kept in a sidecar (``text/datasets/formats/sidecars.py``).

    Args:
        path: UTF-8 file with one JSON object per line. A byte order mark at the start is skipped. A gzip or zstd file,
            or a JSON array, is converted once to a file beside it (``text/datasets/formats/conversion.py``).

    Raises:
        DataError: The file is empty, truncated or not UTF-8, or a row is longer than 16 MiB.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.plain_path = prepare_plain_file(self.path)
        """Path of the file that contains the rows: ``path``, or its converted copy."""
        self._is_array = self.plain_path != self.path and detect_form(self.path).is_array
        self._state = _get_state(os.stat(self.plain_path))
        self._original_state = _get_state(os.stat(self.path))
        self._offsets = self._find_rows()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def get_offset(self, row: int) -> int:
        """Return the byte offset of a row. In a compressed file, count decompressed bytes."""
        return int(self._offsets[row])

    def describe_place(self, row: int, field: str = "") -> str:
        """Return the location of a row or field as the start of an error message: ``path:line (byte B)``."""
        return format_place(self.path, *self.find_place(row, field))

    def find_place(self, row: int, field: str = "") -> tuple[int, int]:
        """Return the line and byte of a row in the user's file.

        A row of a JSON array can span many lines, so the location of the field is returned. In a compressed file, lines
        and bytes are counted after decompression.
        """
        if not self._is_array:
            return row + 1, self.get_offset(row)
        with open(self.plain_path, "rb") as file:
            file.seek(self.get_offset(row))
            content = file.read(self.get_offset(row + 1) - self.get_offset(row))
        byte = find_field(content, field)
        return int(self._first_lines[row]) + content.count(NEWLINE, 0, byte), self.get_offset(row) + byte

    @cached_property
    def _first_lines(self) -> np.ndarray:
        """Line of the original JSON array at which each row starts, including the white space before it."""
        newlines = np.zeros(len(self) + 1, dtype=np.int64)
        offsets = self._offsets.read_all() if isinstance(self._offsets, Column) else self._offsets
        with open(self.plain_path, "rb") as file:
            for start in range(0, self.get_offset(len(self)), _SCAN_BYTES):
                found = np.flatnonzero(np.frombuffer(file.read(_SCAN_BYTES), dtype=np.uint8) == ord(NEWLINE)) + start
                newlines += np.bincount(np.searchsorted(offsets, found, "right"), minlength=len(newlines))
        return 1 + np.cumsum(newlines)

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Open the file for reading rows.

        Raises:
            DataError: The size or modification time of the file changed, or its converted copy was removed.
        """
        start = format_place(self.path, 1, 0)
        changed = f"{start}: the file has changed since it was first read. Do not change it during a run."
        if _get_state(os.stat(self.path)) != self._original_state:
            raise DataError(changed)
        try:
            descriptor = os.open(self.plain_path, os.O_RDONLY)
        except FileNotFoundError:
            raise DataError(f"{self.path}: {self.plain_path} was removed. Keep it during a run.") from None
        try:
            if _get_state(os.fstat(descriptor)) != self._state:
                raise DataError(changed)
            yield RowReader(self, descriptor)
        finally:
            os.close(descriptor)

    def _find_rows(self) -> Sequence[int] | np.ndarray:
        """Return the offsets of all rows and of the end of the file, for a large file from its sidecar."""
        if self._state[0] >= INDEXED_BYTES:
            with suppress(PermissionError):  # Without a writable folder, the file is scanned each time.
                return load_or_make_sidecar(
                    self.plain_path, "rows", lambda path: write_arrays(path, [self._scan()]), self._load_offsets
                )
        return self._scan()

    def _load_offsets(self, path: Path) -> Column:
        [offsets] = ArrayFile(path, [np.int64]).columns
        check_ascending(offsets, self._find_first_byte(), self._state[0], path)
        if any((np.diff(piece) > MAX_ROW_BYTES).any() for piece in offsets.iter_pieces()):
            raise ArtifactError(f"{path}: contains a row longer than 16 MiB. Remove it.")
        return offsets

    def _find_first_byte(self) -> int:
        """Return the offset of the first row, after a byte order mark."""
        with open(self.plain_path, "rb", buffering=0) as file:
            return len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0

    def _scan(self) -> np.ndarray:
        """Return the offsets of all rows and of the end of the file."""
        ends, size, last, start = [], 0, b"", self._find_first_byte()
        num_rows, row_start = 0, start  # Index and start of the incomplete row.
        buffer = bytearray(_SCAN_BYTES)
        view = np.frombuffer(buffer, dtype=np.uint8)
        with open(self.plain_path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                found = np.flatnonzero(view[:count] == ord("\n")) + (size + 1)
                size, last = size + count, buffer[count - 1 : count]
                if len(found):
                    ends.append(found)
                    num_rows, row_start = num_rows + len(found), int(found[-1])
                elif size - row_start > MAX_ROW_BYTES:
                    # Reading stops here, because a sparse file may appear to have terabytes.
                    raise explain_long_row(self.path, num_rows + 1, row_start)
        if size == start:
            raise DataError(f"{format_place(self.path, 1, 0)}: no rows. Write one JSON object per line.")
        offsets = np.concatenate([[start], *ends, [] if last == b"\n" else [size]]).astype(np.int64)
        longest = int(np.diff(offsets).argmax())
        if offsets[longest + 1] - offsets[longest] > MAX_ROW_BYTES:
            raise explain_long_row(self.path, longest + 1, int(offsets[longest]))
        return offsets


class RowReader:
    """Reader for the rows of an open JsonlFile. It is not thread-safe."""

    def __init__(self, file: JsonlFile, descriptor: int) -> None:
        self.file = file
        self._descriptor = descriptor
        self.repairs: Counter[str] = Counter()
        """Number of repaired rows per kind of repair (``repair.py``)."""
        self._parsers = alternate_parsers()
        self._buffer = bytearray()

    def read(self, row: int) -> bytes:
        """Return the bytes of a row, with its newline.

        Raises:
            DataError: The file was truncated after it was opened.
        """
        start, end = self.file.get_offset(row), self.file.get_offset(row + 1)
        # The file is not memory-mapped, because reading a memory map of a truncated file kills the process.
        line = os.pread(self._descriptor, end - start, start)
        if len(line) < end - start:
            raise DataError(
                f"{self.file.describe_place(row)}: file was truncated inside this row after it was opened. Do not "
                "change it during a run."
            )
        return line

    def prefetch(self, row: int) -> None:
        """Ask the operating system to load a row into the page cache, without waiting."""
        if _CAN_PREFETCH:
            start = self.file.get_offset(row)
            os.posix_fadvise(self._descriptor, start, self.file.get_offset(row + 1) - start, os.POSIX_FADV_WILLNEED)

    def parse(self, row: int) -> simdjson.Object:
        """Parse a row. The object and its parts are valid until the next row is parsed.

        Raises:
            DataError: The row is not one JSON object. The message names path, line and byte.
        """
        start, end = self.file.get_offset(row), self.file.get_offset(row + 1)
        if end - start > len(self._buffer):
            self._buffer = bytearray(2 * (end - start))
        # The buffer is reused, because allocating new pages for each row takes longer than parsing the row.
        line = memoryview(self._buffer)[: end - start]
        if os.preadv(self._descriptor, [line], start) < end - start:
            self.read(row)  # This raises the error for a truncated file.
        return self.parse_line(row, line)

    def parse_line(self, row: int, line: bytes | memoryview) -> simdjson.Object:
        """Parse a row whose bytes are already read. Same result and errors as ``parse``."""
        try:
            return parse_row_object(line, next(self._parsers), self.repairs)
        except ValueError:
            line = mask_repairs(bytes(line))
            is_cut = not line.endswith(b"\n")
            raise explain_invalid_json(
                line, self.file.path, row + 1, self.file.get_offset(row), may_be_cut=is_cut
            ) from None


def _get_state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
