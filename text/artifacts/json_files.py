"""Strict reader of JSON files: it limits the size and checks the content against a type."""

from __future__ import annotations

import json
import os
from typing import Any, TypeVar

from text.artifacts.typed import check_type
from text.errors import ArtifactError

T = TypeVar("T")
_MAX_BYTES = 1 << 28


def read_json(path: str | os.PathLike[str], kind: type[T], *, error: type[Exception] = ArtifactError) -> T:
    """Return the content of a JSON file, checked against a type.

    Args:
        path: UTF-8 file.
        kind: Type of the content, see ``check_type``.
        error: Exception class to raise: ``ArtifactError`` for a file that this library wrote, ``UsageError`` for a
            configuration.

    Raises:
        FileNotFoundError: The file does not exist.
        ArtifactError: The file is a device or pipe, is not JSON, repeats a key, or has another type. The class is
            ``error`` if given.
    """
    return check_type(parse_json(read_bytes(path, error=error), path, error=error), kind, path, error=error)


def read_json_lines(path: str | os.PathLike[str], kind: type[T], *, error: type[Exception] = ArtifactError) -> list[T]:
    """Return the values in a JSONL file. Arguments and errors are as in ``read_json``; errors name the line."""
    found = []
    for number, line in enumerate(read_bytes(path, error=error).splitlines(), start=1):
        place = f"{os.fspath(path)}:{number}"
        found.append(check_type(parse_json(line, place, error=error), kind, place, error=error))
    return found


def parse_json(content: bytes, place: str | os.PathLike[str], *, error: type[Exception] = ArtifactError) -> Any:
    """Return the value of a strict JSON document: UTF-8, without NaN and repeated keys.

    Args:
        content: The document.
        place: File or line of the document, for error messages.
        error: As in ``read_json``.

    Raises:
        ArtifactError: The document is invalid. The class is ``error`` if given.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_refuse_repeated, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # This rejects an escaped lone surrogate.
        return value
    except (ValueError, RecursionError) as fault:
        reason = "nested too deeply" if isinstance(fault, RecursionError) else " ".join(str(fault).split())
        raise error(f"{os.fspath(place)}: not valid JSON: {reason}. The file is damaged or of another kind.") from None


def read_bytes(
    path: str | os.PathLike[str], *, max_bytes: int = _MAX_BYTES, error: type[Exception] = ArtifactError
) -> bytes:
    """Return the content of a regular file.

    Raises:
        FileNotFoundError: The file does not exist.
        ArtifactError: The path is a folder, device or pipe, or the file is larger than ``max_bytes``. The class is
            ``error`` if given.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise error(f"{os.fspath(path)} is a folder, a device or a pipe. Pass a regular file.")
    if (size := os.path.getsize(path)) > max_bytes:
        raise error(f"{os.fspath(path)} has {size} bytes; the limit is {max_bytes}. Check the path.")
    with open(path, "rb") as file:
        return file.read(max_bytes)


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)} is repeated")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
