"""Files that are made from a data file once and kept: indexes, conversions, tokens.

A sidecar lies in the folder ``.dpr-text`` beside its data, or in the user's cache folder where that
cannot be written. Its name holds a key of the data, so that what was made from an older file is
never taken for it. It appears whole or not at all, and has the data's time of change: two processes may make it at
once, and who has that of one open finds that of the other to be the same file.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from text.artifacts import atomic_write, remove_leftovers

_FOLDER = ".dpr-text"
_HASHED_BYTES = 1 << 16
_ABANDONED_SECONDS = 24 * 3600
"""A temporary file that is older was left by a process that was killed."""


def data_key(path: str | os.PathLike[str]) -> str:
    """Return 16 hexadecimal digits that identify a file: a hash of its size, time of change, head and tail."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns} ".encode(), digest_size=8)
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(0, status.st_size - _HASHED_BYTES))
        digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()


def sidecar(path: str | os.PathLike[str], kind: str, make: Callable[[Path], None]) -> Path:
    """The sidecar of one kind of a data file; made if it is not there.

    Args:
        path: The data file.
        kind: Last part of the name; says what it is and whatever else it depends on.
        make: Writes the sidecar to the path that it is given.

    Raises:
        OSError: The data cannot be read, no folder can be written, or the disk is full.
    """
    found = find_sidecar(path, kind)
    if found is not None:
        return found
    folder = next((folder for folder in _folders(path) if _is_writable(folder)), None)
    if folder is None:
        raise PermissionError(
            f"{os.fspath(path)}: neither its folder nor the cache folder can be written; "
            "expected one that can: set XDG_CACHE_HOME"
        )
    target = folder / _name(path, data_key(path), kind)
    changed = os.stat(path).st_mtime_ns
    with atomic_write(target) as temporary:
        make(temporary)
        os.utime(temporary, ns=(changed, changed))
    _remove_outdated(target, path, kind)
    remove_leftovers(folder, untouched_seconds=_ABANDONED_SECONDS)
    return target


def find_sidecar(path: str | os.PathLike[str], kind: str) -> Path | None:
    """The sidecar of one kind of a data file, where it was made before."""
    name = _name(path, data_key(path), kind)
    # os.path, to which a folder that must not be looked into has no files.
    return next((folder / name for folder in _folders(path) if os.path.isfile(folder / name)), None)


def _folders(path: str | os.PathLike[str]) -> list[Path]:
    real = Path(path).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    of_parent = cache / "dpr-text" / hashlib.sha256(os.fsencode(real.parent)).hexdigest()[:16]
    return [real.parent / _FOLDER, *([of_parent] if cache.is_absolute() else [])]  # a user may have no home


def _name(path: str | os.PathLike[str], key: str, kind: str) -> str:
    # A file name has 255 bytes at most.
    return f"{os.fsdecode(os.fsencode(Path(path).resolve().name)[:120])}.{key}.{kind}"


def _is_writable(folder: Path) -> bool:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _remove_outdated(target: Path, path: str | os.PathLike[str], kind: str) -> None:
    """Removes what was made from earlier states of the file, and of that in turn; who has it open keeps it."""
    prefix, suffix = _name(path, "", "")[:-1], f".{kind}"
    for name in glob.glob(f"{glob.escape(prefix)}{'[0-9a-f]' * 16}{glob.escape(suffix)}", root_dir=target.parent):
        if name != target.name:
            (target.parent / name).unlink(missing_ok=True)
            for of_it in (target.parent / _FOLDER).glob(f"{glob.escape(name)}.*"):
                of_it.unlink(missing_ok=True)
