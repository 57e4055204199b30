"""The size and the SHA-256 of files: a file that was made earlier is trusted by these, never by its name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from text.errors import ArtifactError


class FileFacts(NamedTuple):
    """What is known of a complete file."""

    bytes: int
    sha256: str
    """In hexadecimal."""


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. The file need not fit into memory."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold, in hexadecimal. The order of keys makes no difference."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe_file(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the path and the SHA-256 of a file, as a result names its inputs."""
    return {"path": os.fspath(path), "sha256": sha256(path)}


def read_facts(path: str | os.PathLike[str]) -> FileFacts:
    """Return the size and the SHA-256 of a file."""
    return FileFacts(os.path.getsize(path), sha256(path))


def list_facts(folder: str | os.PathLike[str], paths: Iterable[str | os.PathLike[str]]) -> dict[str, FileFacts]:
    """Return the facts of files in a folder, by their paths relative to it, in the order of these paths.

    Args:
        folder: The folder.
        paths: Files in it or in its subfolders.
    """
    relative = {Path(path).relative_to(folder).as_posix(): path for path in paths}
    return {name: read_facts(relative[name]) for name in sorted(relative)}


def check_facts(path: str | os.PathLike[str], facts: FileFacts, *, check_hash: bool = True) -> None:
    """Check that a file is the one that the facts were taken from.

    Args:
        path: The file.
        facts: Its size and SHA-256 when it was written.
        check_hash: Read the whole file. Otherwise only sizes are compared.

    Raises:
        ArtifactError: The file is missing, or its size or hash differs.
    """
    if not os.path.isfile(path):
        raise ArtifactError(f"{os.fspath(path)}: missing. Restore it, or make it again.")
    if (size := os.path.getsize(path)) != facts.bytes:
        raise ArtifactError(
            f"{os.fspath(path)}: {size} bytes instead of {facts.bytes}. It is damaged or was changed: "
            "restore it, or make it again."
        )
    if check_hash and (found := sha256(path)) != facts.sha256:
        raise ArtifactError(
            f"{os.fspath(path)}: SHA-256 is {found} instead of {facts.sha256}. It is damaged or was changed: "
            "restore it, or make it again."
        )


def check_listed(folder: str | os.PathLike[str], listed: Mapping[str, FileFacts], *, check_hashes: bool = True) -> None:
    """Check every file that a manifest lists.

    Args:
        folder: The manifest's folder.
        listed: Facts by path relative to the folder.
        check_hashes: As in ``check_facts``.

    Raises:
        ArtifactError: As ``check_facts``, or a path leads out of the folder.
    """
    for name, facts in listed.items():
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ArtifactError(f"{os.fspath(folder)}: its manifest lists {name}, which is not in this folder.")
        check_facts(Path(folder, name), facts, check_hash=check_hashes)
