"""Files that are made from a data file once and kept: indexes, conversions, tokens.

A sidecar lies in the folder ``.dpr-text`` beside its data, or in the user's cache folder where that cannot be written.
Its name holds a key of the data, so that what was made from an older file is never taken for it. Beside it lies a note
with its name, size and SHA-256. A sidecar that contradicts its note is made anew: nothing is lost by that.

A sidecar appears whole or not at all, and has the data's time of change: two processes may make it at once, and who
has the sidecar of one open finds the other one to be the same file. Who cannot read the data cannot read the sidecar.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from text.artifacts import FileFacts, check_facts, is_disk_full, read_facts, read_json, write_together
from text.errors import ArtifactError, DataError, escape_controls

T = TypeVar("T")
_FOLDER = ".dpr-text"
_NOTE = ".facts.json"
_HASHED_BYTES = 1 << 16
_NAME_BYTES = 100
"""Bytes of the data's name in that of a sidecar. A file name has 255 bytes at most."""
_KEY = "[0-9a-f]" * 16


class _Note(NamedTuple):
    """What is known of a complete sidecar."""

    name: str
    """Its own name: a sidecar of other data has another one."""
    facts: FileFacts


def data_key(path: str | os.PathLike[str]) -> str:
    """Return 16 hexadecimal digits that identify a file: a hash of its size, time of change, head and tail."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns} ".encode(), digest_size=8)
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(0, status.st_size - _HASHED_BYTES))
        digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()


def sidecar(
    path: str | os.PathLike[str],
    kind: str,
    make: Callable[[Path], object],
    load: Callable[[Path], T] = lambda path: path,
) -> T:
    """Return the content of one kind of sidecar of a data file. The sidecar is made if no valid one is there.

    Args:
        path: The data file.
        kind: Last part of the name; says what it is and whatever else it depends on.
        make: Writes the sidecar to the path that it is given.
        load: Returns the content of the sidecar. By default this is its path. An ArtifactError says that the sidecar
            does not fit the data.

    Raises:
        DataError: The data changes while the sidecar is made.
        PermissionError: No folder can be written.
        OSError: The data cannot be read, or the disk is full.
    """
    key = data_key(path)
    targets = [folder / f"{_prefix(path)}{key}.{kind}" for folder in _folders(path)]
    for target in targets:
        if os.path.lexists(target) or os.path.lexists(_note_path(target)):
            try:
                return _load(target, path, load)
            except (ArtifactError, OSError) as error:
                line = f"{os.fspath(path)}: what was kept for it is made anew, because it cannot be used: {error}"
                print(escape_controls(line), file=sys.stderr)
    target = next(filter(_prepare_place, targets), None)
    if target is None:
        raise PermissionError(
            f"{os.fspath(path)}: neither its folder nor the cache folder can be written. Set XDG_CACHE_HOME to a "
            "folder that can."
        )
    _make(path, key, target, make)
    _remove_outdated(target, path, kind)
    return load(target)


def _folders(path: str | os.PathLike[str]) -> list[Path]:
    real = Path(path).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    of_parent = cache / "dpr-text" / hashlib.sha256(os.fsencode(real.parent)).hexdigest()[:16]
    return [real.parent / _FOLDER, *([of_parent] if cache.is_absolute() else [])]  # a user may have no home


def _prefix(path: str | os.PathLike[str]) -> str:
    """Return the beginning of the names of all sidecars of a data file, and of no other file. It is UTF-8."""
    name = os.fsencode(Path(path).resolve().name)
    return f"{name[:_NAME_BYTES].decode('utf-8', 'ignore')}.{hashlib.blake2b(name, digest_size=8).hexdigest()}."


def _note_path(target: Path) -> Path:
    return Path(f"{target}{_NOTE}")


def _load(target: Path, path: str | os.PathLike[str], load: Callable[[Path], T]) -> T:
    """Return the content of a sidecar that its note describes.

    Raises:
        ArtifactError: They contradict each other, or do not fit the data.
        OSError: One of them is missing or cannot be read.
    """
    note = read_json(_note_path(target), _Note)
    if note.name != target.name:
        raise ArtifactError(f"{_note_path(target)}: describes another file.")
    check_facts(target, note.facts)
    with suppress(OSError):  # It belongs to another user, or lies on a disk that cannot be written.
        for each in (target, _note_path(target)):
            _restrict(each, path)
    return load(target)


def _prepare_place(target: Path) -> bool:
    """Return whether a sidecar can be written at a place. A folder in the cache is for its user alone."""
    folder, places = target.parent, (target, _note_path(target))
    if not _is_writable(folder) or any(each.exists() and not each.is_file() for each in places):
        return False
    try:
        for each in (folder,) if folder.name == _FOLDER else (folder.parent, folder):
            each.mkdir(parents=True, exist_ok=True)
            if folder.name != _FOLDER:
                each.chmod(0o700)
    except PermissionError:
        return False
    for each in places:
        if each.is_symlink():  # The file that it names would be replaced.
            each.unlink()
    return True


def _is_writable(folder: Path) -> bool:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _make(path: str | os.PathLike[str], key: str, target: Path, make: Callable[[Path], object]) -> None:
    changed = os.stat(path).st_mtime_ns
    for earlier in _earlier(path, target.parent, "*"):
        with suppress(OSError):  # As above, or another process has removed it.
            _restrict(earlier, path)  # A file that is replaced keeps its mode.
    with write_together([target, _note_path(target)], private_as=path) as (temporary, note):
        try:
            make(temporary)
        except OSError as error:
            if is_disk_full(error):
                raise _describe_full(error, temporary, target) from None
            raise
        if data_key(path) != key:
            raise DataError(f"{os.fspath(path)}: the file has changed while it was read. Start again.")
        os.utime(temporary, ns=(changed, changed))
        content = {"name": target.name, "facts": read_facts(temporary)._asdict()}
        note.write_text(json.dumps(content), encoding="utf-8")
        for each in (temporary, note):
            _restrict(each, path)


def _restrict(path: Path, data: str | os.PathLike[str]) -> None:
    """Let nobody read a file who cannot read the data."""
    status, of_data = os.stat(path), os.stat(data)
    allowed = of_data.st_mode | 0o600
    if status.st_gid != of_data.st_gid:  # To the data, this group is any other.
        allowed &= ~0o070 | (of_data.st_mode & 0o007) << 3
    if status.st_mode & 0o777 & ~allowed:
        os.chmod(path, status.st_mode & allowed & 0o777)


def _describe_full(error: OSError, temporary: Path, target: Path) -> OSError:
    """Return the error of a sidecar that found no room, with numbers of bytes."""
    free, written = shutil.disk_usage(target.parent).free, temporary.stat().st_size
    reason = os.strerror(error.errno or errno.ENOSPC)
    return OSError(error.errno or errno.ENOSPC, f"{reason}: {written} bytes were written, {free} are free", str(target))


def _earlier(path: str | os.PathLike[str], folder: Path, kind: str) -> list[Path]:
    """Return what was made from any state of a data file, also by versions that put no hash into the name."""
    starts = (_prefix(path), f"{Path(path).resolve().name}.")
    return [each for start in starts for each in folder.glob(f"{glob.escape(start)}{_KEY}.{kind}")]


def _remove_outdated(target: Path, path: str | os.PathLike[str], kind: str) -> None:
    """Remove what was made from earlier states of the file, and of that in turn; who has it open keeps it."""
    for each in _earlier(path, target.parent, glob.escape(kind)):
        if each != target:
            for of_it in (each, _note_path(each), *_earlier(each, target.parent / _FOLDER, "*")):
                with suppress(OSError):  # A folder, or another process has removed it.
                    of_it.unlink()
