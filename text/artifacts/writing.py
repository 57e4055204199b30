"""Atomic writes: a file appears complete under its final name, or not at all.

The content goes to a temporary file in the same folder. This file is flushed to disk and renamed (``rename(2)``), and
then the folder is flushed. The writing process locks its temporary file. A temporary file without a lock was left by a
killed process, and the next writer in the folder removes it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from text.errors import UsageError

_PREFIX = ".dpr-text-"
_cleaned: set[str] = set()
"""Folders where this process has already removed the temporary files of killed processes."""


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, overwrite: bool = True, private_as: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and rename it to ``path`` if the block succeeds.

    A missing folder is created. If the block raises, the temporary file is removed and ``path`` is unchanged. A
    replaced file keeps its mode. A symbolic link is kept, and its target is replaced.

    Args:
        path: The final path of the file.
        overwrite: Replace an existing file. If false, a file that another process creates in the meantime is kept too.
        private_as: A file that is copied into the new file. Users who cannot read it cannot read the new file.

    Raises:
        UsageError: ``path`` is a device, a pipe or a socket.
        FileExistsError: ``path`` exists, and ``overwrite`` is false.
        OSError: The folder is not writable, the disk is full, or ``path`` is a folder.
    """
    with write_together([path], overwrite=overwrite, private_as=private_as) as [temporary]:
        yield temporary


@contextmanager
def write_together(
    paths: Sequence[str | os.PathLike[str]],
    *,
    overwrite: bool = True,
    private_as: str | os.PathLike[str] | None = None,
) -> Iterator[list[Path]]:
    """Yield a temporary path for each file, and rename all files if the block succeeds.

    Files are renamed only after all of them are on disk. Arguments and errors are as in ``atomic_write``.
    """
    targets = [_find_target(path, overwrite=overwrite) for path in paths]
    with ExitStack() as stack:
        stack.enter_context(_add_path_to_error(paths[0]))
        temporaries = [stack.enter_context(_create_temporary_file(target, private_as)) for target in targets]
        yield temporaries
        for temporary, target in zip(temporaries, targets, strict=True):
            _keep_mode(temporary, target)
            _flush(temporary)
        for temporary, target in zip(temporaries, targets, strict=True):
            _publish(temporary, target, overwrite=overwrite)
        for folder in {target.parent for target in targets}:
            _flush(folder)


def remove_leftovers(folder: str | os.PathLike[str]) -> int:
    """Remove the temporary files that killed processes left in a folder, and return their number.

    The file of a running process is locked, so it is kept. A file system without locks keeps all files. Subfolders are
    not searched.
    """
    count = 0
    for path in filter(_is_temporary, Path(folder).glob(f"{_PREFIX}*")):
        with suppress(OSError):  # Another process may have removed the file, or may still be writing it.
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    path.unlink()
                    count += 1
            finally:
                os.close(descriptor)
    return count


@contextmanager
def wait_for_lock(path: str | os.PathLike[str], message: str) -> Iterator[None]:
    """Hold the lock of a file, and wait while another process holds it. A missing file is created.

    The lock belongs to the process, so it is released when the process ends for any reason.

    Args:
        path: The lock file.
        message: Line to print to stderr before waiting.

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


def is_disk_full(error: OSError) -> bool:
    """Return whether a write failed because the disk is full. An error of NumPy without an errno counts as well."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)


def write_text(path: str | os.PathLike[str], content: str, *, overwrite: bool = True) -> None:
    """Write a small UTF-8 text file atomically. See ``atomic_write``."""
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Write a UTF-8 text file line by line and atomically, and return the number of lines.

    Args:
        path: The file.
        lines: Lines that end in a newline. With a generator, the content need not fit into memory.
    """
    count = 0
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count


def write_json(path: str | os.PathLike[str], content: Any, *, overwrite: bool = True) -> None:
    """Write a small, indented JSON file atomically. A named tuple becomes an object. See ``atomic_write``."""
    plain = json.dumps(to_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, plain + "\n", overwrite=overwrite)


def _find_target(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return the file that a path refers to, with symbolic links resolved."""
    target = Path(os.path.realpath(path))
    if not target.exists():
        return target
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not target.is_file():
        raise UsageError(f"{os.fspath(path)} is a device, a pipe or a socket. Pass the path of a file.")
    if not overwrite:
        raise FileExistsError(f"{os.fspath(path)} already exists. Choose another file, or pass --overwrite.")
    return target


@contextmanager
def _create_temporary_file(target: Path, private_as: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Yield a new, locked file beside the target. Remove it and its new folders if the block fails."""
    created = [each for each in (target.parent, *target.parent.parents) if not each.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = os.fspath(target.parent)
    if folder not in _cleaned:
        _cleaned.add(folder)
        if count := remove_leftovers(folder):
            print(f"{folder}: removed {count} temporary files of a killed process", file=sys.stderr)
    # A file that replaces another one stays private until it is complete, because the other one may be private.
    mode = 0o600 if target.exists() else 0o666
    if private_as is not None:
        mode &= os.stat(private_as).st_mode | 0o600
    path, descriptor = target.parent / f"{_PREFIX}{secrets.token_hex(8)}", None
    try:  # A signal may arrive as soon as the file exists.
        descriptor = _create_locked(path, mode)
        yield path
    finally:
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)
        for each in created:
            with suppress(OSError):  # The folder is not empty.
                each.rmdir()


def _create_locked(path: Path, mode: int) -> int:
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        with suppress(OSError):  # Some network file systems have no locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # Another process may have removed the file before the lock.
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _keep_mode(temporary: Path, target: Path) -> None:
    """Copy the mode of the replaced file, and its owner if this process is allowed to."""
    if target.exists():
        status = target.stat()
        with suppress(OSError):
            os.chown(temporary, status.st_uid, status.st_gid)
        temporary.chmod(stat.S_IMODE(status.st_mode))


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # A rename would replace a file that another process just created.
    except FileExistsError:
        message = f"{target} was created by another process. Choose another file, or pass --overwrite."
        raise FileExistsError(message) from None
    except OSError:  # Some file systems have no hard links.
        if target.exists():
            raise FileExistsError(f"{target} already exists. Choose another file, or pass --overwrite.") from None
        temporary.replace(target)


@contextmanager
def _add_path_to_error(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the path of the file to the error of a full disk."""
    try:
        yield
    except OSError as error:
        is_temporary = error.filename is None or os.path.basename(os.fspath(error.filename)).startswith(_PREFIX)
        if not is_disk_full(error) or not is_temporary or isinstance(error, FileExistsError):
            raise
        reason = error.errno or errno.ENOSPC
        raise OSError(reason, os.strerror(reason), os.fspath(path)) from error


def _is_temporary(path: Path) -> bool:
    """Return whether a file has the name of a temporary file."""
    return re.fullmatch(rf"{re.escape(_PREFIX)}[0-9a-f]{{16}}", path.name) is not None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_plain(value: Any) -> Any:
    """Return a value as plain JSON types: named tuples become objects, tuples become lists."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: to_plain(each) for key, each in value.items()}
    return [to_plain(each) for each in value] if isinstance(value, list | tuple) else value
