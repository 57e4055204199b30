"""Write a ``.npy`` file row by row. The size and the header of an existing file are never trusted."""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from text.errors import ArtifactError


class PartFile:
    """A ``.npy`` file with random access to its rows, without a memory map.

    If another process truncated a memory-mapped file, reading it would kill this process.

    Args:
        path: The file. It is created if it is missing.
        dtype: Type of the numbers.
        shape: Number of rows, and the width of a row if a row has more than one number.

    Raises:
        ArtifactError: The path is a link, a folder, a device or a pipe.
        OSError: The disk has too little space for all rows. A new file is removed.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.width = path, np.dtype(dtype), shape[1:]
        self._row_bytes = self.dtype.itemsize * math.prod(self.width)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": self.dtype.str, "fortran_order": False, "shape": shape})
        self._start = len(header.getvalue())
        is_new = not os.path.lexists(path)
        if not is_new and not stat.S_ISREG(os.lstat(path).st_mode):
            raise ArtifactError(f"{path}: is a link, a folder, a device or a pipe. Remove it.")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            self._reserve(self._start + shape[0] * self._row_bytes)
            self._write_at(0, header.getvalue())
        except OSError:
            self.close()
            if is_new:
                path.unlink()
            raise

    def read(self, rows: range) -> np.ndarray:
        """Return rows. If another process truncated the file, the missing numbers are 0."""
        size = len(rows) * self._row_bytes
        with _add_path_to_errors(self.path):
            content = os.pread(self._descriptor, size, self._start + rows.start * self._row_bytes)
        return np.frombuffer(content.ljust(size, b"\0"), self.dtype).reshape(len(rows), *self.width)

    def write(self, first: int, numbers: np.ndarray) -> None:
        """Write rows, starting at row ``first``."""
        self._write_at(self._start + first * self._row_bytes, numbers.astype(self.dtype, copy=False).tobytes())

    def flush(self) -> None:
        """Flush all written rows to disk (fsync)."""
        with _add_path_to_errors(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _reserve(self, size: int) -> None:
        """Set the size of the file, and allocate its disk space."""
        try:
            os.ftruncate(self._descriptor, size)
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            reason = f"{os.strerror(error.errno or 0)} ({size} bytes are needed)"
            raise OSError(error.errno, reason, os.fspath(self.path)) from None

    def _write_at(self, place: int, content: bytes) -> None:
        left = memoryview(content)
        with _add_path_to_errors(self.path):
            while left:
                written = os.pwrite(self._descriptor, left, place)
                left, place = left[written:], place + written


@contextmanager
def _add_path_to_errors(path: Path) -> Iterator[None]:
    """Raise the OSErrors of reads and writes with the path of the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), os.fspath(path)) from None
