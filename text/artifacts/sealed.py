"""JSON files that contain the SHA-256 of their own content, so that a changed value is detected."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from text.artifacts.facts import FileFacts, check_facts, hash_json
from text.artifacts.json_files import read_json
from text.artifacts.typed import check_type
from text.artifacts.writing import to_plain
from text.errors import ArtifactError

T = TypeVar("T")
_SEAL = "sha256"


def seal(content: Any) -> dict[str, Any]:
    """Return a JSON object with its SHA-256 added under the key ``sha256``.

    Args:
        content: A dictionary or named tuple. An existing ``sha256`` is replaced.
    """
    plain = to_plain(content)
    plain.pop(_SEAL, None)
    return plain | {_SEAL: hash_json(plain)}


def write_sealed(path: Path, content: Any) -> None:
    """Write a sealed file. The path may be temporary: ``write_together`` makes the file appear as a whole."""
    path.write_text(json.dumps(seal(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sealed(path: str | os.PathLike[str], kind: type[T]) -> T:
    """Return the content of a sealed file, without ``sha256`` and checked against a type.

    Raises:
        FileNotFoundError: The file does not exist.
        ArtifactError: The file is invalid (``read_json``), or its hash is missing or does not match.
    """
    content = read_json(path, dict[str, Any])
    found = content.pop(_SEAL, None)
    typed = check_type(content, kind, path)
    if found is None:
        raise ArtifactError(
            f"{os.fspath(path)}: {_SEAL} is missing. The file is damaged, or an earlier version wrote it: "
            "restore it, or create it again."
        )
    if found != hash_json(content):
        raise ArtifactError(
            f"{os.fspath(path)}: {_SEAL} does not match the content. The file is damaged or was changed: "
            "restore it, or create it again."
        )
    return typed


def read_sealed_beside(
    path: Path, kind: type[T], file: str | os.PathLike[str], get_facts: Callable[[T], FileFacts], advice: str
) -> T | None:
    """Return the content of a sealed file beside another file, or None if it does not exist.

    Args:
        path: The sealed file.
        kind: Type of its content.
        file: The file that it describes.
        get_facts: Function from the content to the size and hash of ``file``.
        advice: What the user can do without the sealed file. The error adds "remove PATH".

    Raises:
        ArtifactError: The sealed file is damaged, or ``file`` has changed since.
    """
    if not path.is_file():
        return None
    try:
        content = read_sealed(path, kind)
        check_facts(file, get_facts(content))
    except ArtifactError as fault:
        raise ArtifactError(f"{fault} {advice}, remove {path}.") from None
    return content
