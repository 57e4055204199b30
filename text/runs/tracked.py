"""Files and folders that the stages of a loop read, identified by their content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from text.artifacts import FileFacts, check_facts, hash_json, list_facts
from text.errors import ArtifactError

Stamps = Mapping[str, tuple[int, int, int]]
"""Inode, size and modification time of files, by name. If none of them changes, the content counts as unchanged."""


class TrackedFile(NamedTuple):
    """A file or folder with a key that identifies its content."""

    path: Path
    key: str
    """Hash of the content. Before a stage has produced the file: the name of the stage's folder and of the file."""
    files: Mapping[str, FileFacts] | None = None
    """Facts of the files in a folder, by name, or of the file itself under an empty name. None before a stage has
    produced the file."""
    stamps: Stamps | None = None
    """Stamps of the same files when their facts were computed."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TrackedFile:
        """Return an existing file or folder. Its content is read only once in a process, unless it changes."""
        path = Path(path)
        names = [each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()]
        stamps = _read_stamps(path, sorted(names) if path.is_dir() else [""])
        return cls(path, *_read_content(path, tuple(stamps.items())))

    @classmethod
    def from_facts(cls, path: Path, files: Mapping[str, FileFacts]) -> TrackedFile:
        """Return a file or folder whose facts are already known and checked."""
        return cls(path, _hash_facts(files), files, _read_stamps(path, files))

    def __str__(self) -> str:
        return str(self.path)

    def get_part(self, name: str) -> TrackedFile:
        """Return a file or folder inside this folder.

        Raises:
            ArtifactError: This folder does not contain it.
        """
        if self.files is None:
            return TrackedFile(self.path / name, f"{self.key}/{name}")
        inner = {each.removeprefix(name).lstrip("/"): facts for each, facts in self.files.items() if _is_in(each, name)}
        if not inner:
            raise ArtifactError(f"{self.path / name}: missing. Restore it, or remove {self.path} to create it again.")
        return TrackedFile.from_facts(self.path / name, inner)

    def check_unchanged(self) -> None:
        """Check that the content has not changed since the loop read it.

        Raises:
            ArtifactError: A file was changed or removed.
        """
        before = self.stamps or {}
        now = _read_stamps(self.path, before)
        for name, facts in (self.files or {}).items():
            if name not in now or now[name] != before[name]:
                try:
                    check_facts(self.path / name, facts)
                except ArtifactError as error:
                    message = f"{error} The file changed while the loop ran. Run the same command again."
                    raise ArtifactError(message) from None


@cache
def _read_content(path: Path, stamps: tuple[tuple[str, Any], ...]) -> tuple[str, Mapping[str, FileFacts], Stamps]:
    facts = list_facts(path, [path / name for name, _ in stamps])
    files = {name: facts[name or "."] for name, _ in stamps}
    return _hash_facts(files), files, dict(stamps)


def _read_stamps(path: Path, names: Iterable[str]) -> Stamps:
    """Return the stamps of the files that exist, by name."""
    found = {}
    for name in names:
        if os.path.isfile(path / name):
            status = os.stat(path / name)
            found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _hash_facts(files: Mapping[str, FileFacts]) -> str:
    return files[""].sha256 if set(files) == {""} else hash_json([[name, files[name].sha256] for name in sorted(files)])


def _is_in(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")
