"""Check of values from JSON and YAML files against a type. An error names the path of the wrong key.

The type describes the content of the file: a named tuple or dataclass for an object with fixed keys, or
``dict[str, int]``, ``list[str]``, ``Literal["dot", "cosine"]`` or ``float | None``. Only a type with None allows null.
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
    str: "a string",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    type(None): "null",
}


def check_type(
    value: Any, kind: type[T], place: str | os.PathLike[str], *, error: type[Exception] = ArtifactError
) -> T:
    """Return a value from a file converted to a type. Objects become named tuples or dataclasses.

    Args:
        value: A value made of dict, list, str, int, float, bool and None.
        kind: The required type.
        place: Path of the file, for error messages. It may be empty.
        error: Exception class to raise.

    Raises:
        ArtifactError: The value has another type. The message names the key. The class is ``error`` if given.
    """
    try:
        return cast(T, _convert(value, kind, ""))
    except _MismatchError as fault:
        raise error(f"{os.fspath(place)}: {fault}" if place else str(fault)) from None


class _MismatchError(Exception):
    """Error that a value does not have the required type."""


def _convert(value: Any, kind: Any, key: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(kind), key)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if type(value) is not _get_json_type(kind) or (kind is float and not math.isfinite(value)):
        raise _MismatchError(f"{key or 'the content'} is {_format_value(value)}. It must be {_name_type(kind)}.")
    if kind is str and any("\ud800" <= character <= "\udfff" for character in value):
        raise _MismatchError(f"{key or 'the content'} is not valid UTF-8. Rename the file, or use a UTF-8 locale.")
    if origin is Literal:
        return _convert_literal(value, get_args(kind), key)
    if _is_record(kind):
        return _convert_record(value, kind, key)
    if origin is dict:
        return {name: _convert(each, get_args(kind)[1], _join_keys(key, name)) for name, each in value.items()}
    if origin in (list, tuple):
        return origin(_convert(each, get_args(kind)[0], f"{key}[{n}]") for n, each in enumerate(value))
    return value


def _convert_literal(value: Any, values: tuple[Any, ...], key: str) -> Any:
    if value not in values:
        known = " or ".join(map(json.dumps, values))
        raise _MismatchError(f"{key or 'the content'} is {_format_value(value)}. It must be {known}.")
    return value


def _convert_union(value: Any, kinds: tuple[Any, ...], key: str) -> Any:
    faults = []
    for kind in kinds:
        try:
            return _convert(value, kind, key)
        except _MismatchError as fault:
            faults.append((kind, fault))
    if inner := [fault for kind, fault in faults if type(value) is _get_json_type(kind)]:
        raise inner[0]  # The outer type is right, so the error is inside the value.
    expected = " or ".join(map(_name_type, kinds))
    raise _MismatchError(f"{key or 'the content'} is {_format_value(value)}. It must be {expected}.")


def _convert_record(value: dict[str, Any], kind: Any, key: str) -> Any:
    """Return a JSON object as a named tuple or dataclass. The keys of the object are the fields."""
    hints, optional = _get_fields(kind)
    if missing := [name for name in hints if name not in value and name not in optional]:
        raise _MismatchError(f"{_join_keys(key, missing[0])} is missing.")
    if unknown := [name for name in value if name not in hints]:
        raise _MismatchError(f"{_join_keys(key, unknown[0])} is not a valid key. Valid keys: {', '.join(hints)}.")
    return kind(**{name: _convert(each, hints[name], _join_keys(key, name)) for name, each in value.items()})


@functools.cache
def _get_fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the types of a record's fields, and the names of the fields with a default value."""
    if not dataclasses.is_dataclass(kind):
        return get_type_hints(kind), set(kind._field_defaults)
    required = (dataclasses.MISSING, dataclasses.MISSING)
    fields = dataclasses.fields(kind)
    return get_type_hints(kind), {each.name for each in fields if (each.default, each.default_factory) != required}


def _get_json_type(kind: Any) -> type:
    """Return the Python type that the JSON reader produces for a required type."""
    origin = get_origin(kind)
    if origin is Literal:
        return type(get_args(kind)[0])
    return dict if _is_record(kind) else list if origin is tuple else origin or kind


def _is_record(kind: Any) -> bool:
    return hasattr(kind, "_fields") or dataclasses.is_dataclass(kind)


def _join_keys(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _name_type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(json.dumps, get_args(kind)))
    return _NAMES[_get_json_type(kind)]


def _format_value(value: Any) -> str:
    """Return a value as JSON for an error message. Lone surrogates, which terminals cannot show, are escaped."""
    content = json.dumps(value, default=str, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in content):
        content = json.dumps(value, default=str)
    return content if len(content) <= 60 else _NAMES.get(type(value), type(value).__name__)
