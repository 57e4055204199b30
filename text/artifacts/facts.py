"""Sizes and SHA-256 hashes of files. They identify a file that was written earlier; its name is never trusted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from text.errors import ArtifactError


class FileFacts(NamedTuple):
    """Size and hash of a complete file."""

    bytes: int
    sha256: str
    """Hexadecimal digest."""


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file, which is read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Return the hexadecimal SHA-256 of a JSON value. The order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe_file(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the path and SHA-256 of an input file, for the record in a result."""
    return {"path": os.fspath(path), "sha256": hash_file(path)}


def read_facts(path: str | os.PathLike[str]) -> FileFacts:
    """Return the size and SHA-256 of a file."""
    return FileFacts(os.path.getsize(path), hash_file(path))


def list_facts(folder: str | os.PathLike[str], paths: Iterable[str | os.PathLike[str]]) -> dict[str, FileFacts]:
    """Return the facts of files in a folder, sorted by path relative to the folder.

    Args:
        folder: The folder.
        paths: Files in the folder or its subfolders.
    """
    relative = {Path(path).relative_to(folder).as_posix(): path for path in paths}
    return {name: read_facts(relative[name]) for name in sorted(relative)}


def check_facts(path: str | os.PathLike[str], facts: FileFacts, *, check_hash: bool = True) -> None:
    """Check that a file still has its recorded size and hash.

    Args:
        path: The file.
        facts: Size and SHA-256 recorded when the file was written.
        check_hash: Read the whole file and compare hashes. If false, compare only sizes.

    Raises:
        ArtifactError: The file is missing, or its size or hash differs.
    """
    if not os.path.isfile(path):
        raise ArtifactError(f"{os.fspath(path)}: missing. Restore it, or create it again.")
    if (size := os.path.getsize(path)) != facts.bytes:
        raise ArtifactError(
            f"{os.fspath(path)}: {size} bytes instead of {facts.bytes}. The file is damaged or was changed: "
            "restore it, or create it again."
        )
    if check_hash and (found := hash_file(path)) != facts.sha256:
        raise ArtifactError(
            f"{os.fspath(path)}: SHA-256 is {found} instead of {facts.sha256}. The file is damaged or was changed: "
            "restore it, or create it again."
        )


def check_listed(folder: str | os.PathLike[str], listed: Mapping[str, FileFacts], *, check_hashes: bool = True) -> None:
    """Check every file that a manifest lists.

    Args:
        folder: The manifest's folder.
        listed: Facts of each file, by path relative to the folder.
        check_hashes: As in ``check_facts``.

    Raises:
        ArtifactError: As ``check_facts``, or a path leads out of the folder.
    """
    for name, facts in listed.items():
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ArtifactError(f"{os.fspath(folder)}: the manifest lists {name}, which is outside this folder.")
        check_facts(Path(folder, name), facts, check_hash=check_hashes)
