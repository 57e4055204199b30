"""Arrays of numbers in one file, read piece by piece.

The arrays lie one after another. Behind them stands the number of elements of each, as int64. A file is never mapped
into memory: reading a map of a file that was made shorter would kill the process.
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
"""Bytes that are read for one element. The elements beside it are likely to be asked for next."""
_PIECE_BYTES = 1 << 24
_MARK_STEP = 512


def write_arrays(path: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write a file that ``ArrayFile`` reads."""
    with open(path, "wb") as file:
        for array in (*arrays, array_lengths(arrays)):
            write_array(file, array)


def write_array(file: BinaryIO, array: np.ndarray | Any) -> None:
    """Write the elements of an array of any kind, one after another."""
    file.write(np.ascontiguousarray(array).view(np.uint8).data)


def array_lengths(arrays: Sequence[Sequence[Any] | np.ndarray]) -> np.ndarray:
    """Return the numbers of elements, which stand at the end of the file."""
    return np.array([len(array) for array in arrays], np.int64)


class ArrayFile:
    """The arrays of one file. Other processes that get this object by pickling open the file again.

    Args:
        path: A file that ``write_arrays`` wrote.
        dtypes: The type of the elements of each array.

    Raises:
        ArtifactError: The file does not hold such arrays.
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path, dtypes: Sequence[Any]) -> None:
        self.path = path
        self._state = self._open()
        sizes = [np.dtype(dtype).itemsize for dtype in dtypes]
        end = self._state[0] - _LENGTH_BYTES * len(sizes)
        # As Python's integers, which do not overflow.
        lengths = np.frombuffer(self.read(end, self._state[0]), np.int64).tolist() if end >= 0 else [-1]
        spans = [length * size for length, size in zip(lengths, sizes, strict=False)]
        if min(lengths) < 0 or sum(spans) != end:
            raise ArtifactError(f"{path}: has not the arrays that belong here. Remove it.")
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
            raise DataError(f"{self.path}: removed or changed while it was used. Leave it as it is during a run.")

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes between two places.

        Raises:
            DataError: The file was made shorter since it was opened.
        """
        content = os.pread(self._descriptor, end - start, start)
        if len(content) == end - start:
            return content
        if not content:
            raise DataError(f"{self.path}: was made shorter while it was used. Leave it as it is during a run.")
        return content + self.read(start + len(content), end)  # One call reads 2 GB at most.

    def _open(self) -> tuple[int, int]:
        """Open the file and return its size and time of change."""
        self._descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


class Column(Sequence[int]):
    """One array of a file."""

    def __init__(self, file: ArrayFile, dtype: Any, start: int, length: int) -> None:
        self._file, self._dtype, self._start, self._length = file, np.dtype(dtype), start, length
        self._size = self._dtype.itemsize
        self._block: tuple[int, Any] = 0, ()
        """Number of the first element of the block that was read last, and its elements."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_block": (0, ())}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return an element of an array of integers. Neighbours come quickly.

        Raises:
            IndexError: There is none.
            DataError: The file was made shorter since it was opened.
        """
        first, block = self._block  # One assignment, so that threads never mix two blocks.
        if not first <= number < first + len(block):
            if not 0 <= number < self._length:
                raise IndexError(number)
            size = _BLOCK_BYTES // self._size
            first = number - number % size
            content = self._file.read(
                self._start + first * self._size, self._start + min(self._length, first + size) * self._size
            )
            block = memoryview(content).cast(self._dtype.char)  # pyright: ignore[reportArgumentType, reportCallIssue]
            self._block = first, block
        return block[number - first]

    def slice(self, start: int, end: int) -> np.ndarray:
        """Return the elements between two numbers.

        Raises:
            DataError: As ``content``.
        """
        return np.frombuffer(self.content(start, end), self._dtype)

    def content(self, start: int, end: int) -> bytes:
        """Return the bytes of the elements between two numbers.

        Raises:
            DataError: There are none, or the file was made shorter since it was opened.
        """
        if not 0 <= start <= end <= self._length:
            raise DataError(f"{self._file.path}: is damaged. Remove it, and it is made anew.")
        return self._file.read(self._start + start * self._size, self._start + end * self._size)

    def find(self, number: int) -> range:
        """Return the places of a number among elements in ascending order. The file is read once."""
        start = max(0, bisect_left(self._marks, number) - 1) * _MARK_STEP
        block = self.slice(start, min(self._length, bisect_right(self._marks, number) * _MARK_STEP))
        first, last = (start + int(np.searchsorted(block, number, side)) for side in ("left", "right"))
        return range(first, last)

    @cached_property
    def _marks(self) -> list[int]:
        """Every so many of the elements, in memory."""
        return [self[number] for number in range(0, self._length, _MARK_STEP)]

    def array(self) -> np.ndarray:
        """Return all elements."""
        return self.slice(0, self._length)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all elements, some megabytes at a time. Each piece begins with the last element of the one before."""
        size = _PIECE_BYTES // self._size
        for start in range(0, self._length, size):
            yield self.slice(max(0, start - 1), min(self._length, start + size))


def are_within(numbers: Column, end: int) -> bool:
    """Return whether all numbers are from 0 to below an end."""
    return all(piece.min() >= 0 and piece.max() < end for piece in numbers.pieces())


def check_ascending(ends: Column, start: int, end: int, path: Path) -> None:
    """Check that numbers begin with ``start``, never fall, and end with ``end``.

    Raises:
        ArtifactError: They do not.
    """
    fits = len(ends) > 0 and ends[0] == start and ends[len(ends) - 1] == end
    if not (fits and is_ascending(ends)):
        raise ArtifactError(f"{path}: has places that do not fit its data. Remove it.")


def is_ascending(numbers: Column) -> bool:
    """Return whether numbers never fall."""
    return all((piece[1:] >= piece[:-1]).all() for piece in numbers.pieces())
