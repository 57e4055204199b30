"""The lock of a run's folder. It prevents two runs from writing to one folder."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from text.artifacts import check_output_folder, remove_leftovers
from text.errors import UsageError
from text.runs.contents import FOLDERS

LOCK = ".dpr-text.lock"


@contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a folder against other runs, and remove the temporary files of killed runs.

    A missing folder is created, and removed at the end if it is empty. The lock ends with the process, so the lock file
    of a killed run does not block the folder.

    Raises:
        UsageError: A part of the path is not a folder.
        BlockingIOError: Another run uses the folder.
        OSError: The folder is not writable.
    """
    check_output_folder(folder)
    path = Path(folder)
    created = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        with _open_lock(path / LOCK) as file:
            try:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n")
                file.flush()
                if count := sum(remove_leftovers(each) for each in _list_folders(path)):
                    print(f"{folder}: removed {count} temporary files of a killed run")
                yield
            finally:
                (path / LOCK).unlink(missing_ok=True)
    finally:
        for each in created:
            with suppress(OSError):  # The folder is not empty.
                each.rmdir()


def _open_lock(path: Path) -> TextIO:
    """Return the open lock file after this process has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UsageError(f"{path} must be a regular file, but it is a device or a pipe. Remove it.")
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Data workers would inherit a lock of flock.
        except OSError as error:
            with file:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                owner = file.read().strip() or "another run"
            message = f"{path.parent}: in use by {owner}. Choose another --output_dir, or stop that run."
            raise BlockingIOError(message) from None
        with suppress(FileNotFoundError):  # A run that just ended has removed the file.
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return file
        file.close()


def _list_folders(folder: Path) -> list[Path]:
    """Return a run's folder and its known subfolders."""
    return [folder, *(Path(root) for name in FOLDERS for root, _, _ in os.walk(folder / name))]
