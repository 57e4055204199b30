"""Read JSON files that this library or a user wrote: strict, of a sane size, and checked against a type."""

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
        kind: What it holds (``check_type``).
        error: Class of the error: ``ArtifactError`` for a file that this library wrote, ``UsageError`` for a
            configuration.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is a device or a pipe, not JSON, or not of this type, or a key stands twice in it. Or
            ``error``.
    """
    return check_type(parse_json(read_bytes(path, error=error), path, error=error), kind, path, error=error)


def read_json_lines(path: str | os.PathLike[str], kind: type[T], *, error: type[Exception] = ArtifactError) -> list[T]:
    """Return the lines of a JSONL file. Arguments and errors are those of ``read_json``, with the line."""
    found = []
    for number, line in enumerate(read_bytes(path, error=error).splitlines(), start=1):
        place = f"{os.fspath(path)}:{number}"
        found.append(check_type(parse_json(line, place, error=error), kind, place, error=error))
    return found


def parse_json(content: bytes, place: str | os.PathLike[str], *, error: type[Exception] = ArtifactError) -> Any:
    """Return the value of strict JSON: UTF-8, no NaN, no key twice.

    Args:
        content: The document.
        place: Where it comes from, for the error.
        error: As in ``read_json``.

    Raises:
        ArtifactError: It is not valid. Or ``error``.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_refuse_repeated, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # An escaped half of a surrogate pair is no text.
        return value
    except (ValueError, RecursionError) as fault:
        reason = "nested too deeply" if isinstance(fault, RecursionError) else " ".join(str(fault).split())
        raise error(f"{os.fspath(place)}: not valid JSON: {reason}. It is damaged, or another kind of file.") from None


def read_bytes(
    path: str | os.PathLike[str], *, max_bytes: int = _MAX_BYTES, error: type[Exception] = ArtifactError
) -> bytes:
    """Return the content of a regular file.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is a folder, a device or a pipe, or larger than ``max_bytes``. Or ``error``.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise error(f"{os.fspath(path)} is a folder, a device or a pipe. Give a file.")
    if (size := os.path.getsize(path)) > max_bytes:
        raise error(f"{os.fspath(path)} has {size} bytes, more than {max_bytes}. It is another kind of file.")
    with open(path, "rb") as file:
        return file.read(max_bytes)


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)} stands twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
