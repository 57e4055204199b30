"""Arrays of numbers in one file, read piece by piece.

The arrays follow each other. The file ends with the length of each array, as int64. The file is never memory-mapped:
reading a memory map of a truncated file kills the process.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from text.errors import ArtifactError, DataError

_LENGTH_BYTES = 8
_BLOCK_BYTES = 1 << 8
"""Bytes to read for one element. The elements beside it are likely to be read next."""
_PIECE_BYTES = 1 << 24
_MARK_STEP = 512


def write_arrays(path: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write arrays to a file that ``ArrayFile`` reads."""
    with open(path, "wb") as file:
        for array in (*arrays, get_array_lengths(arrays)):
            write_array(file, array)


def write_array(file: BinaryIO, array: np.ndarray | Any) -> None:
    """Write the elements of an array of any type."""
    file.write(np.ascontiguousarray(array).view(np.uint8).data)


def get_array_lengths(arrays: Sequence[Sequence[Any] | np.ndarray]) -> np.ndarray:
    """Return the length of each array, as stored at the end of the file."""
    return np.array([len(array) for array in arrays], np.int64)


class ArrayFile:
    """Arrays of one file. A process that unpickles this object opens the file again.

    Args:
        path: File written by ``write_arrays``.
        dtypes: Element type of each array.

    Raises:
        ArtifactError: The file does not contain arrays of these types.
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path, dtypes: Sequence[Any]) -> None:
        self.path = path
        self._state = self._open()
        sizes = [np.dtype(dtype).itemsize for dtype in dtypes]
        end = self._state[0] - _LENGTH_BYTES * len(sizes)
        # Python integers do not overflow.
        lengths = np.frombuffer(self.read(end, self._state[0]), np.int64).tolist() if end >= 0 else [-1]
        spans = [length * size for length, size in zip(lengths, sizes, strict=False)]
        if min(lengths) < 0 or sum(spans) != end:
            raise ArtifactError(f"{path}: does not contain the expected arrays. Remove it.")
        starts = [sum(spans[:number]) for number in range(len(spans))]
        self.columns = [Column(self, *each) for each in zip(dtypes, starts, lengths, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        try:
            is_same = self._open() == self._state
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise DataError(f"{self.path}: file was removed or changed while in use. Do not change it during a run.")

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` to before ``end``.

        Raises:
            DataError: The file was truncated after it was opened.
        """
        content = os.pread(self._descriptor, end - start, start)
        if len(content) == end - start:
            return content
        if not content:
            raise DataError(f"{self.path}: file was truncated while in use. Do not change it during a run.")
        return content + self.read(start + len(content), end)  # One call reads at most 2 GB.

    def _open(self) -> tuple[int, int]:
        """Open the file and return its size and modification time."""
        self._descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


class Column(Sequence[int]):
    """One array of an ``ArrayFile``."""

    def __init__(self, file: ArrayFile, dtype: Any, start: int, length: int) -> None:
        self._file, self._dtype, self._start, self._length = file, np.dtype(dtype), start, length
        self._size = self._dtype.itemsize
        self._block: tuple[int, Any] = 0, ()
        """Index of the first element of the last block read, and the elements of this block."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_block": (0, ())}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return one element of an integer array. The elements around it are cached.

        Raises:
            IndexError: The index is out of range.
            DataError: The file was truncated after it was opened.
        """
        first, block = self._block  # One assignment, so that threads never mix two blocks.
        if not first <= index < first + len(block):
            if not 0 <= index < self._length:
                raise IndexError(index)
            size = _BLOCK_BYTES // self._size
            first = index - index % size
            content = self._file.read(
                self._start + first * self._size, self._start + min(self._length, first + size) * self._size
            )
            block = memoryview(content).cast(self._dtype.char)  # pyright: ignore[reportArgumentType, reportCallIssue]
            self._block = first, block
        return block[index - first]

    def slice(self, start: int, end: int) -> np.ndarray:
        """Return the elements from index ``start`` to before ``end``.

        Raises:
            DataError: Same as ``read_bytes``.
        """
        return np.frombuffer(self.read_bytes(start, end), self._dtype)

    def read_bytes(self, start: int, end: int) -> bytes:
        """Return the bytes of the elements from index ``start`` to before ``end``.

        Raises:
            DataError: The range is invalid, or the file was truncated after it was opened.
        """
        if not 0 <= start <= end <= self._length:
            raise DataError(f"{self._file.path}: file is damaged. Remove it, and it will be rebuilt.")
        return self._file.read(self._start + start * self._size, self._start + end * self._size)

    def find(self, number: int) -> range:
        """Return the indices of a number. The elements must be in ascending order; one block of them is read."""
        start = max(0, bisect_left(self._marks, number) - 1) * _MARK_STEP
        block = self.slice(start, min(self._length, bisect_right(self._marks, number) * _MARK_STEP))
        first, last = (start + int(np.searchsorted(block, number, side)) for side in ("left", "right"))
        return range(first, last)

    @cached_property
    def _marks(self) -> list[int]:
        """Every 512th element, kept in memory for the binary search."""
        return [self[index] for index in range(0, self._length, _MARK_STEP)]

    def read_all(self) -> np.ndarray:
        """Return all elements."""
        return self.slice(0, self._length)

    def iter_pieces(self) -> Iterator[np.ndarray]:
        """Yield all elements in pieces of 16 MiB. Each piece starts with the last element of the previous piece."""
        size = _PIECE_BYTES // self._size
        for start in range(0, self._length, size):
            yield self.slice(max(0, start - 1), min(self._length, start + size))


def is_in_range(numbers: Column, end: int) -> bool:
    """Return whether all numbers are at least 0 and below ``end``."""
    return all(piece.min() >= 0 and piece.max() < end for piece in numbers.iter_pieces())


def check_ascending(ends: Column, start: int, end: int, path: Path) -> None:
    """Check that the offsets ``ends`` start with ``start``, never decrease, and finish with ``end``.

    Raises:
        ArtifactError: The offsets do not fit. The message names ``path``.
    """
    fits = len(ends) > 0 and ends[0] == start and ends[len(ends) - 1] == end
    if not (fits and is_ascending(ends)):
        raise ArtifactError(f"{path}: offsets do not fit the data file. Remove it.")


def is_ascending(numbers: Column) -> bool:
    """Return whether the numbers never decrease."""
    return all((piece[1:] >= piece[:-1]).all() for piece in numbers.iter_pieces())
