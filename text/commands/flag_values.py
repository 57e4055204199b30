"""Read the values of flags from a command line and from YAML files: one meaning, checked against the flag's type.

A flag of text takes the text of a command line as it is. Any other value is YAML: ``010`` is ten, ``yes`` is a text,
and nothing or ``null`` is None, which only a type with None allows.
"""

from __future__ import annotations

import difflib
import os
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from text.artifacts import check_readable, check_type, parse_yaml, read_yaml
from text.errors import UsageError

COMMAND_LINE = "command line"
_NULLS = ("null", "Null", "NULL", "~")


def read_flags(path: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags in a YAML file.

    Args:
        path: The file.
        kinds: Type of each flag that the file may have.

    Raises:
        UsageError: The file cannot be read, is no YAML, or has a wrong or unknown flag.
    """
    check_readable(path)
    found = read_yaml(path, dict[str, Any] | None, error=UsageError) or {}  # type: ignore[arg-type]
    return check_flags(found, kinds, path)


def check_flags(values: Mapping[str, Any], kinds: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return flags with values of their types.

    Args:
        values: Flags by name, as YAML gives them.
        kinds: Type of each flag that may be there.
        place: Where they come from, for the error.

    Raises:
        UsageError: A flag is unknown, or its value has another type.
    """
    for name in values:
        if name not in kinds:
            raise UsageError(f"{place}: {name} is not a flag.{hint_flag(name, kinds)}")
    return {name: _check_flag(name, value, kinds[name], place) for name, value in values.items()}


def parse_flag(name: str, content: str | list[str], kind: Any) -> Any:
    """Return the value of a flag on the command line.

    Args:
        name: The flag.
        content: Its text. A list holds arguments without a flag.
        kind: Its type.

    Raises:
        UsageError: The value has another type.
    """
    return _check_flag(f"--{name}", _read_value(name, content, kind), kind, COMMAND_LINE)


def hint_flag(name: str, kinds: Mapping[str, Any]) -> str:
    """Return a question about the flag with the most similar name, or nothing."""
    near = difflib.get_close_matches(name, [*kinds, "config", "debug", "print_config", "help"], n=1)
    return f" Did you mean --{near[0]}?" if near and near[0] != name else ""


def hint_list(names: Iterable[str], kinds: Mapping[str, Any]) -> str:
    """Return how to write the first of these flags that takes a list, or nothing."""
    return next((f" Write a list as --{name}='[a, b]'." for name in names if _is_list(kinds.get(name))), "")


def list_choices(kind: Any) -> list[Any]:
    """Return the values of a ``Literal``, alone or in a union."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for each in _alternatives(kind) if each is not kind for choice in list_choices(each)]


def _read_value(name: str, content: str | list[str], kind: Any) -> Any:
    if isinstance(content, list):
        return content
    is_text = all(each in (str, type(None)) or list_choices(each) for each in _alternatives(kind))
    if is_text:
        return None if content in _NULLS else content
    try:
        return parse_yaml(os.fsencode(content), f"--{name}", error=UsageError)
    except UsageError as error:
        # A flag has no lines to count.
        raise UsageError(re.sub(r"^(--\w+):\d+: ", r"\1: ", str(error.args[0]))) from None


def _check_flag(name: str, value: Any, kind: Any, place: str) -> Any:
    try:
        return check_type({name: value}, dict[str, kind], place, error=UsageError)[name]
    except UsageError as error:
        example = f"{name}='[a, b]'" if place == COMMAND_LINE else f"{name}: [a, b]"
        hint = f" Write a list as {example}." if _is_list(kind) and isinstance(value, str | int | float) else ""
        raise UsageError(f"{error}{hint}") from None


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_list(kind: Any) -> bool:
    return any(get_origin(each) in (list, tuple) for each in _alternatives(kind))
