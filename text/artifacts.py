"""Read and write files: a result appears whole or not at all, and takes the place of no input.

A file appears under its final name only when every byte of it is on disk: it is written beside
its final place, flushed, renamed, and the folder is flushed (design of ``rename(2)``).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TEMPORARY_PREFIX = ".dpr-text-"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder, and rename it to ``path`` if the block succeeds.

    The folder is created if it is missing. If the block raises, the temporary file is removed and ``path`` stays as it
    was. While the block runs, the temporary file is locked, so that ``remove_leftovers`` of another process keeps it.

    Raises:
        OSError: The folder cannot be written, the disk is full, or ``path`` is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=path.parent)
    try:
        with suppress(OSError):  # Some network file systems have no locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        _flush(name)
        os.replace(name, path)
        _flush(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str], *, untouched_seconds: float = 0) -> int:
    """Remove the temporary files that a killed ``atomic_write`` left in a folder, and return their number.

    A file of a process that lives is locked and stays.

    Args:
        folder: The folder. Its subfolders are left alone.
        untouched_seconds: Keep files that were written to in these last seconds. Use it where other processes may
            write to the folder on a file system without locks.
    """
    count, newest = 0, time.time() - untouched_seconds
    for path in Path(folder).glob(f"{_TEMPORARY_PREFIX}*"):
        with suppress(OSError), open(path, "rb") as file:  # Another process may remove it, or may still write it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not untouched_seconds or path.stat().st_mtime < newest:
                path.unlink()
                count += 1
    return count


@contextmanager
def wait_for_lock(path: str | os.PathLike[str], message: str) -> Iterator[None]:
    """Hold the lock of a file, which is created if it is missing. Wait while another process holds it.

    The lock belongs to the process, so it is gone when the process ends in any way.

    Args:
        path: The file.
        message: Line that is printed to stderr before waiting.

    Raises:
        OSError: The file cannot be created.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(message, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Writes a small UTF-8 text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Write a UTF-8 text file line by line, whole or not at all, and return the number of lines.

    Args:
        path: The file.
        lines: Lines that end in a newline. They may come from a generator, so the file need not fit into memory.
    """
    count = 0
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes a small JSON file for people to read, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; reads 1 MiB at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def describe_file(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the path and the SHA-256 of a file, as a result names its inputs."""
    return {"path": os.fspath(path), "sha256": sha256(path)}


def check_readable(path: str) -> None:
    """Opens a file and closes it again.

    Raises:
        ValueError: It is not there, is a folder, or must not be read.
    """
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(f"{path}: {reason}; expected a file that can be read") from None


def check_files(inputs: Iterable[str | None], outputs: Iterable[str | os.PathLike[str]], *, overwrite: bool) -> None:
    """Makes sure, before any work, that a command can read and write its files.

    Args:
        inputs: Files, or None.
        outputs: Of which none may be an input.
        overwrite: Earlier results may be replaced.

    Raises:
        ValueError: As ``check_readable`` and ``check_writable``.
        FileExistsError: As ``check_writable``.
    """
    given = [path for path in inputs if path is not None]
    for path in given:
        check_readable(path)
    for path in outputs:
        check_writable(path, given, overwrite=overwrite)


def check_writable(path: str | os.PathLike[str], inputs: Iterable[str], *, overwrite: bool) -> None:
    """Makes sure that a result takes the place of nothing that is read, and of nothing else unless that is asked for.

    Args:
        path: Of the result.
        inputs: Files that are there.
        overwrite: An earlier result may be replaced.

    Raises:
        ValueError: It is one of the inputs, under whatever name; a folder, or in a file; or would not be what its
            name says.
        FileExistsError: It is there.
        OSError: Nothing can be written in its folder.
    """
    if os.path.isdir(path):
        raise ValueError(f"{os.fspath(path)} is a folder; expected the name of a file")
    if os.fspath(path).endswith((".gz", ".zst")):
        raise ValueError(f"{os.fspath(path)} would not be compressed; expected a name that does not say so")
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isfile(folder):
        raise ValueError(f"{folder} is a file; expected a folder")
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    if not os.path.exists(path):
        return
    if any(os.path.samefile(path, each) for each in inputs):
        raise ValueError(f"{os.fspath(path)} is read, too; expected an output of its own")
    if not overwrite:
        raise FileExistsError(f"{os.fspath(path)} exists; expected a new file, or --overwrite")


def _flush(path: str | os.PathLike[str]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
