"""Sidecar files: indexes, conversions and tokens that are built from a data file once and kept.

A sidecar is in the folder ``.dpr-text`` beside its data, or in the user's cache folder if that folder is not writable.
The file name contains a key of the data, so a sidecar of an older data file is never used. A note beside the sidecar
stores its name, size and SHA-256. A sidecar that does not match its note is rebuilt, which loses nothing.

A sidecar is written atomically and gets the modification time of the data. Two processes may therefore build it at the
same time: the copies are interchangeable, even for a process that has one of them open. Users who cannot read the data
cannot read the sidecar.
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
"""Maximum bytes of the data file's name to include in a sidecar's name. File names have at most 255 bytes."""
_KEY = "[0-9a-f]" * 16


class _Note(NamedTuple):
    """File name, size and hash of a complete sidecar."""

    name: str
    """File name of the sidecar. It contains the key of the data."""
    facts: FileFacts


def compute_data_key(path: str | os.PathLike[str]) -> str:
    """Return a key of 16 hexadecimal digits: a hash of the file's size, modification time, first and last 64 KiB."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns} ".encode(), digest_size=8)
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(0, status.st_size - _HASHED_BYTES))
        digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()


def load_or_make_sidecar(
    path: str | os.PathLike[str],
    kind: str,
    make: Callable[[Path], object],
    load: Callable[[Path], T] = lambda path: path,
) -> T:
    """Load one kind of sidecar of a data file. Build it first if there is no valid one.

    Args:
        path: Path of the data file.
        kind: Last part of the sidecar's name. It identifies the content and all settings that the content depends on.
        make: Function that writes the sidecar to a given path.
        load: Function that loads the sidecar from a given path. It raises ArtifactError if the sidecar does not fit the
            data. By default it returns the path.

    Raises:
        DataError: The data file changed while the sidecar was built.
        PermissionError: Neither folder is writable.
        OSError: The data file cannot be read, or the disk is full.
    """
    key = compute_data_key(path)
    targets = [folder / f"{_build_prefix(path)}{key}.{kind}" for folder in _list_folders(path)]
    for target in targets:
        if os.path.lexists(target) or os.path.lexists(_get_note_path(target)):
            try:
                return _load(target, path, load)
            except (ArtifactError, OSError) as error:
                line = f"{os.fspath(path)}: rebuilding the cached data of this file, because it cannot be used: {error}"
                print(escape_controls(line), file=sys.stderr)
    target = next(filter(_prepare_place, targets), None)
    if target is None:
        raise PermissionError(
            f"{os.fspath(path)}: neither its folder nor the cache folder is writable. Set XDG_CACHE_HOME to a "
            "writable folder."
        )
    _make(path, key, target, make)
    _remove_outdated(target, path, kind)
    return load(target)


def _list_folders(path: str | os.PathLike[str]) -> list[Path]:
    real = Path(path).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    cache_folder = cache / "dpr-text" / hashlib.sha256(os.fsencode(real.parent)).hexdigest()[:16]
    # The path is relative if the user has no home folder.
    return [real.parent / _FOLDER, *([cache_folder] if cache.is_absolute() else [])]


def _build_prefix(path: str | os.PathLike[str]) -> str:
    """Return the UTF-8 prefix that the names of all sidecars of this data file share. It is unique to the file."""
    name = os.fsencode(Path(path).resolve().name)
    return f"{name[:_NAME_BYTES].decode('utf-8', 'ignore')}.{hashlib.blake2b(name, digest_size=8).hexdigest()}."


def _get_note_path(target: Path) -> Path:
    return Path(f"{target}{_NOTE}")


def _load(target: Path, path: str | os.PathLike[str], load: Callable[[Path], T]) -> T:
    """Check a sidecar against its note, and load it.

    Raises:
        ArtifactError: The sidecar does not match its note, or does not fit the data.
        OSError: The sidecar or its note is missing or cannot be read.
    """
    note = read_json(_get_note_path(target), _Note)
    if note.name != target.name:
        raise ArtifactError(f"{_get_note_path(target)}: does not describe {target.name}.")
    check_facts(target, note.facts)
    with suppress(OSError):  # Another user may own the sidecar, or the disk may be read-only.
        for each in (target, _get_note_path(target)):
            _restrict(each, path)
    return load(target)


def _prepare_place(target: Path) -> bool:
    """Create the folder of a sidecar, and return whether it is writable. A cache folder is private to its user."""
    folder, places = target.parent, (target, _get_note_path(target))
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
        if each.is_symlink():  # Writing through the link would replace the file that it points to.
            each.unlink()
    return True


def _is_writable(folder: Path) -> bool:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _make(path: str | os.PathLike[str], key: str, target: Path, make: Callable[[Path], object]) -> None:
    changed = os.stat(path).st_mtime_ns
    for earlier in _find_earlier(path, target.parent, "*"):
        with suppress(OSError):  # Another user may own the file, or another process may have removed it.
            _restrict(earlier, path)  # A replaced file keeps its mode.
    with write_together([target, _get_note_path(target)], private_as=path) as (temporary, note):
        try:
            make(temporary)
        except OSError as error:
            if is_disk_full(error):
                raise _explain_full_disk(error, temporary, target) from None
            raise
        if compute_data_key(path) != key:
            raise DataError(f"{os.fspath(path)}: the file changed while it was being read. Start again.")
        os.utime(temporary, ns=(changed, changed))
        content = {"name": target.name, "facts": read_facts(temporary)._asdict()}
        note.write_text(json.dumps(content), encoding="utf-8")
        for each in (temporary, note):
            _restrict(each, path)


def _restrict(path: Path, data: str | os.PathLike[str]) -> None:
    """Remove read permissions from a file for users who cannot read the data."""
    status, data_status = os.stat(path), os.stat(data)
    allowed = data_status.st_mode | 0o600
    if status.st_gid != data_status.st_gid:  # Members of the file's group have only "other" rights on the data.
        allowed &= ~0o070 | (data_status.st_mode & 0o007) << 3
    if status.st_mode & 0o777 & ~allowed:
        os.chmod(path, status.st_mode & allowed & 0o777)


def _explain_full_disk(error: OSError, temporary: Path, target: Path) -> OSError:
    """Return the error for a full disk, with the numbers of written and free bytes."""
    free, written = shutil.disk_usage(target.parent).free, temporary.stat().st_size
    reason = os.strerror(error.errno or errno.ENOSPC)
    return OSError(error.errno or errno.ENOSPC, f"{reason}: {written} bytes were written, {free} are free", str(target))


def _find_earlier(path: str | os.PathLike[str], folder: Path, kind: str) -> list[Path]:
    """Return the sidecars of all versions of a data file, including those that older releases named without a hash."""
    starts = (_build_prefix(path), f"{Path(path).resolve().name}.")
    return [each for start in starts for each in folder.glob(f"{glob.escape(start)}{_KEY}.{kind}")]


def _remove_outdated(target: Path, path: str | os.PathLike[str], kind: str) -> None:
    """Remove sidecars of earlier versions of the data file, and their own sidecars. Open files stay readable."""
    for each in _find_earlier(path, target.parent, glob.escape(kind)):
        if each != target:
            for outdated in (each, _get_note_path(each), *_find_earlier(each, target.parent / _FOLDER, "*")):
                with suppress(OSError):  # The path may be a folder, or another process may have removed it.
                    outdated.unlink()
