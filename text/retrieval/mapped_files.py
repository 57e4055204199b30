"""Read arrays from ``.npy`` files that may be damaged, and memory-map files that may change while they are in use.

Reading a memory map beyond the end of its file kills the process (SIGBUS). The file therefore stays open, and its size
is checked before each use of the map. If the file is truncated between the check and the read, the process still dies,
so callers check before every block.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from text.errors import ArtifactError


class MappedFile:
    """A memory-mapped file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: The file does not exist.
        ArtifactError: The file is empty.
        OSError: The file cannot be opened or mapped.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._state = self._read_state()
        if not self._state[0]:
            raise ArtifactError(f"{self.path}: the file is empty. Restore it, or create it again.")
        # torch warns about read-only arrays. Copy-on-write makes them writable and leaves the file unchanged.
        try:
            self.content = mmap.mmap(self._descriptor, self._state[0], access=mmap.ACCESS_COPY)
        except OSError as error:  # For example, too many files are open.
            raise OSError(error.errno, os.strerror(error.errno or 0), os.fspath(path)) from None

    def check(self) -> None:
        """Check that the file was not modified since it was opened. This takes less than a microsecond.

        A file that was removed, or replaced by a rename, can still be used.

        Raises:
            ArtifactError: The size or the modification time differs.
        """
        (size, time), (found_size, found_time) = self._state, self._read_state()
        if (size, time) == (found_size, found_time):
            return
        difference = f"{size} bytes before, {found_size} now" if size != found_size else "other modification time"
        raise ArtifactError(
            f"{self.path}: the file changed while it was in use ({difference}). Restore it, and start again."
        )

    def _read_state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


def map_array(file: MappedFile, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array of a memory-mapped ``.npy`` file, without a copy.

    Raises:
        ArtifactError: The file has another dtype or shape, or is damaged.
    """
    with open(file.path, "rb") as opened:
        offset = _check_header(opened, file.path, dtype, shape)
    return np.frombuffer(file.content, dtype, math.prod(shape), offset).reshape(shape)


def read_array(path: str | os.PathLike[str], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read the array of a ``.npy`` file into memory.

    Raises:
        FileNotFoundError: The file does not exist.
        ArtifactError: The file has another dtype or shape, or is damaged.
    """
    with open(path, "rb") as file:
        _check_header(file, path, dtype, shape)
        return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)


def _check_header(file: BinaryIO, path: str | os.PathLike[str], dtype: str, shape: tuple[int, ...]) -> int:
    """Check the header and the size of a ``.npy`` file, and return the byte offset of its numbers."""
    try:
        found: Any = np.lib.format.read_array_header_1_0(file) if _is_version_1(file) else "another .npy version"
    except Exception as error:  # NumPy parses the header as a Python literal, and any error of the parser gets through.
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"{os.fspath(path)}: the NumPy header is damaged ({reason}). Restore the file, or encode again."
        ) from None
    if found != (shape, False, np.dtype(dtype)):
        raise ArtifactError(
            f"{os.fspath(path)}: holds {found} instead of {shape} {dtype}. Restore the file, or encode again."
        )
    expected = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
    if (size := os.fstat(file.fileno()).st_size) != expected:
        raise ArtifactError(
            f"{os.fspath(path)}: has {size} bytes instead of {expected}. Restore the file, or encode again."
        )
    return file.tell()


def _is_version_1(file: BinaryIO) -> bool:
    return np.lib.format.read_magic(file) == (1, 0)
