"""Check values that were read from a file against a type, each fault with the path of its key.

A caller says what a file holds by a type: a named tuple or dataclass for an object with fixed keys, ``dict[str, int]``,
``list[str]``, ``Literal["dot", "cosine"]``, ``float | None``. Only a type with None allows null.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import types
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from text.errors import ArtifactError

T = TypeVar("T")
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    type(None): "null",
}


def check_type(
    value: Any, kind: type[T], place: str | os.PathLike[str], *, error: type[Exception] = ArtifactError
) -> T:
    """Return a value read from a file as the type that it must have. Objects become named tuples or dataclasses.

    Args:
        value: Made of dict, list, str, int, float, bool and None.
        kind: The type.
        place: Path of the file, for the error. It may be empty.
        error: Class of the error.

    Raises:
        ArtifactError: The value is not of this type; with the path of the key. Or ``error``.
    """
    try:
        return cast(T, _convert(value, kind, ""))
    except _MismatchError as fault:
        raise error(f"{os.fspath(place)}: {fault}" if place else str(fault)) from None


class _MismatchError(Exception):
    """A value is not of its type."""


def _convert(value: Any, kind: Any, key: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(kind), key)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if type(value) is not _form(kind) or (kind is float and not math.isfinite(value)):
        raise _MismatchError(f"{key or 'the content'} is {_describe(value)}. It must be {_name(kind)}.")
    if kind is str and any("\ud800" <= character <= "\udfff" for character in value):
        raise _MismatchError(f"{key or 'the content'} is not UTF-8. Rename it, or use a UTF-8 locale.")
    if origin is Literal:
        return _convert_literal(value, get_args(kind), key)
    if _is_record(kind):
        return _convert_record(value, kind, key)
    if origin is dict:
        return {name: _convert(each, get_args(kind)[1], _join(key, name)) for name, each in value.items()}
    if origin in (list, tuple):
        return origin(_convert(each, get_args(kind)[0], f"{key}[{n}]") for n, each in enumerate(value))
    return value


def _convert_literal(value: Any, values: tuple[Any, ...], key: str) -> Any:
    if value not in values:
        known = " or ".join(map(json.dumps, values))
        raise _MismatchError(f"{key or 'the content'} is {_describe(value)}. It must be {known}.")
    return value


def _convert_union(value: Any, kinds: tuple[Any, ...], key: str) -> Any:
    faults = []
    for kind in kinds:
        try:
            return _convert(value, kind, key)
        except _MismatchError as fault:
            faults.append((kind, fault))
    if inner := [fault for kind, fault in faults if type(value) is _form(kind)]:
        raise inner[0]  # The value has the right form, so this fault lies inside it.
    expected = " or ".join(map(_name, kinds))
    raise _MismatchError(f"{key or 'the content'} is {_describe(value)}. It must be {expected}.")


def _convert_record(value: dict[str, Any], kind: Any, key: str) -> Any:
    """Return an object as an instance of a named tuple or dataclass. Its keys are the fields."""
    hints, optional = _fields(kind)
    if missing := [name for name in hints if name not in value and name not in optional]:
        raise _MismatchError(f"{_join(key, missing[0])} is missing.")
    if unknown := [name for name in value if name not in hints]:
        raise _MismatchError(f"{_join(key, unknown[0])} is not known. Known are {', '.join(hints)}.")
    return kind(**{name: _convert(each, hints[name], _join(key, name)) for name, each in value.items()})


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the types of a record's fields, and the names of the fields with a default value."""
    if not dataclasses.is_dataclass(kind):
        return get_type_hints(kind), set(kind._field_defaults)
    required = (dataclasses.MISSING, dataclasses.MISSING)
    fields = dataclasses.fields(kind)
    return get_type_hints(kind), {each.name for each in fields if (each.default, each.default_factory) != required}


def _form(kind: Any) -> type:
    """Return the type that the JSON reader gives to values of a type."""
    origin = get_origin(kind)
    if origin is Literal:
        return type(get_args(kind)[0])
    return dict if _is_record(kind) else list if origin is tuple else origin or kind


def _is_record(kind: Any) -> bool:
    return hasattr(kind, "_fields") or dataclasses.is_dataclass(kind)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(json.dumps, get_args(kind)))
    return _NAMES[_form(kind)]


def _describe(value: Any) -> str:
    """Return a value as it was written. Half characters, which no terminal can show, are escaped."""
    content = json.dumps(value, default=str, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in content):
        content = json.dumps(value, default=str)
    return content if len(content) <= 60 else _NAMES.get(type(value), type(value).__name__)
