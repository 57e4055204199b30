"""Read arrays from ``.npy`` files that may be damaged, and map files that may be changed while they are in use.

Reading a map behind the end of its file would kill the process (SIGBUS). So a file stays open, and its size is looked
at before each use of the map. A file that becomes shorter between this check and the read that follows still kills the
process. Whoever reads a map therefore checks it block by block.
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
    """A file in memory whose pages are read when they are used.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is empty.
        OSError: The file cannot be opened or mapped.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._state = self._look()
        if not self._state[0]:
            raise ArtifactError(f"{self.path}: the file is empty. Restore it, or make it again.")
        # Copy on write leaves the file as it is. torch warns about arrays that cannot be written.
        try:
            self.content = mmap.mmap(self._descriptor, self._state[0], access=mmap.ACCESS_COPY)
        except OSError as error:  # Too many files are open, for example.
            raise OSError(error.errno, os.strerror(error.errno or 0), os.fspath(path)) from None

    def check(self) -> None:
        """Check that nobody has written to the file since it was opened. It takes less than a microsecond.

        A file that was removed, or replaced by a rename, can still be used.

        Raises:
            ArtifactError: Its size or its time of modification differs.
        """
        (size, time), (found_size, found_time) = self._state, self._look()
        if (size, time) == (found_size, found_time):
            return
        difference = f"{size} bytes before, {found_size} now" if size != found_size else "it has another time of change"
        raise ArtifactError(f"{self.path}: changed while it was in use ({difference}). Restore it, and start again.")

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


def map_array(file: MappedFile, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array in a mapped ``.npy`` file.

    Raises:
        ArtifactError: The file is not of this type and shape.
    """
    with open(file.path, "rb") as opened:
        offset = _check_header(opened, file.path, dtype, shape)
    return np.frombuffer(file.content, dtype, math.prod(shape), offset).reshape(shape)


def read_array(path: str | os.PathLike[str], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array in a ``.npy`` file, in memory.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is not of this type and shape.
    """
    with open(path, "rb") as file:
        _check_header(file, path, dtype, shape)
        return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)


def _check_header(file: BinaryIO, path: str | os.PathLike[str], dtype: str, shape: tuple[int, ...]) -> int:
    """Return where the numbers of a ``.npy`` file begin. The file has no other size than its header says."""
    try:
        found: Any = np.lib.format.read_array_header_1_0(file) if _is_version_1(file) else "another version"
    except Exception as error:  # NumPy evaluates the header as a literal and lets any error of that through.
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{os.fspath(path)}: no header of NumPy ({reason}). Restore it, or encode again.") from None
    if found != (shape, False, np.dtype(dtype)):
        raise ArtifactError(f"{os.fspath(path)}: holds {found}, but the plan says {shape} {dtype}. It is damaged.")
    expected = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
    if (size := os.fstat(file.fileno()).st_size) != expected:
        raise ArtifactError(f"{os.fspath(path)}: {size} bytes instead of {expected}. Restore it, or encode again.")
    return file.tell()


def _is_version_1(file: BinaryIO) -> bool:
    return np.lib.format.read_magic(file) == (1, 0)
