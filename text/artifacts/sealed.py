"""JSON files that hold the SHA-256 of their own other content, so that a changed value is noticed."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from text.artifacts.facts import hash_json
from text.artifacts.json_files import read_json
from text.artifacts.typed import check_type
from text.artifacts.writing import to_plain
from text.errors import ArtifactError

T = TypeVar("T")
_SEAL = "sha256"


def seal(content: Any) -> dict[str, Any]:
    """Return the content of a JSON object with the hash of this content as ``sha256``.

    Args:
        content: A dictionary or a named tuple. An earlier ``sha256`` is replaced.
    """
    plain = to_plain(content)
    plain.pop(_SEAL, None)
    return plain | {_SEAL: hash_json(plain)}


def read_sealed(path: str | os.PathLike[str], kind: type[T]) -> T:
    """Return the content of a file that was written by ``seal``, checked against a type without ``sha256``.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: As ``read_json``. Or the hash is missing, or is that of another content.
    """
    content = read_json(path, dict[str, Any])
    found = content.pop(_SEAL, None)
    typed = check_type(content, kind, path)
    if found is None:
        raise ArtifactError(
            f"{os.fspath(path)}: {_SEAL} is missing. An earlier version wrote the file, or it is damaged: "
            "restore it, or make it again."
        )
    if found != hash_json(content):
        raise ArtifactError(
            f"{os.fspath(path)}: {_SEAL} is not that of its content. It is damaged or was changed: "
            "restore it, or make it again."
        )
    return typed
