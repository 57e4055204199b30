"""Keep other runs out of a folder that a run writes to."""

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
    """Keep other runs out of a folder, and remove the temporary files of runs that were killed.

    The folder is created if it is missing, and removed again if it is empty at the end. The lock belongs to the
    process: it is gone when the process ends, so a file that a killed run left is no obstacle.

    Raises:
        UsageError: A part of the path is no folder.
        BlockingIOError: Another run uses the folder.
        OSError: The folder cannot be written.
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
                    print(f"{folder}: removed {count} temporary files of a run that was killed")
                yield
            finally:
                (path / LOCK).unlink(missing_ok=True)
    finally:
        for each in created:
            with suppress(OSError):  # It is not empty.
                each.rmdir()


def _open_lock(path: Path) -> TextIO:
    """Return a lock file that this process holds."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UsageError(f"{path} is a device or a pipe. Remove it.")
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers would inherit the lock of flock
        except OSError as error:
            with file:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                owner = file.read().strip() or "another run"
            message = f"{path.parent}: in use by {owner}. Take another --output_dir, or end that run."
            raise BlockingIOError(message) from None
        with suppress(FileNotFoundError):  # A run that has ended meanwhile has removed the file.
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return file
        file.close()


def _list_folders(folder: Path) -> list[Path]:
    """Return a run's folder and the folders in it that belong to the run."""
    return [folder, *(Path(root) for name in FOLDERS for root, _, _ in os.walk(folder / name))]
