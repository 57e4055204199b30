"""Read the values of flags from a command line and from YAML files: one meaning, checked against the flag's type.

A flag of text takes the text of a command line as it is. Any other value is YAML: ``010`` is ten, ``yes`` is a text,
and ``null`` is None, which only a type with None allows. A single value for a list is a list of one item. A command
line may give a list as ``[a, b]``, and a list of numbers as ``1,5``. Several arguments after the flag are a list too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from text.artifacts import check_readable, check_type, locate_key, parse_yaml, read_yaml
from text.commands.flag_hints import hint_flag, hint_section
from text.commands.flag_kinds import (
    allows_null,
    is_list,
    is_mapping,
    is_text,
    item_kind,
    list_example,
    without_null,
)
from text.errors import UsageError

_NULLS = ("null", "Null", "NULL", "~")


def read_flags(
    path: str, kinds: Mapping[str, Any], load_sections: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
) -> dict[str, Any]:
    """Return the flags in a YAML file.

    Args:
        path: The file.
        kinds: Type of each flag that the file may have.
        load_sections: Returns the types of the flags in each flag that is a section of another command's flags.

    Raises:
        UsageError: The file cannot be read, is no YAML, or has a wrong or unknown flag; with the line.
    """
    check_readable(path)
    found: Any = read_yaml(path, Any, error=UsageError)  # pyright: ignore[reportArgumentType]: any type
    if not isinstance(found, dict | None):
        raise UsageError(f"{find_place(path)}: no flags, but a value alone. Write each flag on a line, as name: value.")
    found = found or {}
    if unknown := [name for name in found if name not in kinds]:
        hint = hint_section(unknown[0], load_sections()) or hint_flag(unknown[0], kinds, dashes="")
        raise UsageError(f"{find_place(path, unknown[0])}: {unknown[0]} is not a flag.{hint}")
    values = {
        name: _check_flag(name, found[name], kinds[name], lambda *keys: find_place(path, *keys)) for name in found
    }
    if any(is_mapping(kinds[name]) for name in values):
        for section, section_kinds in load_sections().items():
            for name in values.get(section, {}):
                check_flags(
                    {name: values[section][name]}, section_kinds, f"{find_place(path, section, name)}: {section}"
                )
    return values


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
            raise UsageError(f"{place}: {name} is not a flag.{hint_flag(name, kinds, dashes='')}")
    return {name: _check_flag(name, value, kinds[name], lambda *_: place) for name, value in values.items()}


def parse_flag(name: str, content: str | list[str], kind: Any) -> Any:
    """Return the value of a flag on the command line.

    Args:
        name: The flag.
        content: Its text, or its texts if it takes a list.
        kind: Its type.

    Raises:
        UsageError: The value has another type.
    """
    return check_flag(name, _read_value(name, content, kind), kind)


def check_flag(name: str, value: Any, kind: Any) -> Any:
    """Return the value of a flag as its type.

    Raises:
        UsageError: The value has another type.
    """
    return _check_flag(f"--{name}", value, kind, lambda *_: "")


def merge_settings(settings: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return settings with changes merged in, as a JSON merge patch does (RFC 7396).

    Objects merge key by key, at any depth. Null removes a setting. Any other value, also a list, replaces the old one.

    Args:
        settings: What is there.
        changes: What is different.
        name: Where the settings stand, for the error.

    Raises:
        UsageError: Null stands for a setting that is not there.
    """
    merged = dict(settings)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            old = merged.get(key)
            merged[key] = merge_settings(old if isinstance(old, Mapping) else {}, value, f"{name}.{key}")
        elif value is not None:
            merged[key] = value
        elif key in merged:
            del merged[key]
        else:
            raise UsageError(f"{name}.{key} is null, which removes a setting, but {name} does not have it.")
    return merged


def _read_value(name: str, content: str | list[str], kind: Any) -> Any:
    if is_list(kind):
        return _read_items(name, [content] if isinstance(content, str) else content, kind)
    assert isinstance(content, str)
    if is_text(kind):
        return None if content in _NULLS else content
    return _parse_yaml(name, content) if content.strip() else content


def _read_items(name: str, contents: list[str], kind: Any) -> Any:
    """Return the value of a flag that takes a list."""
    item, first = item_kind(kind), contents[0]
    if first.startswith("[") and len(contents) > 1:
        raise UsageError(f"--{name}: a list in brackets is one argument. Write {list_example(f'--{name}', kind)}.")
    if contents in [[null] for null in _NULLS]:
        return None
    if first.startswith("["):
        return _parse_yaml(name, first)
    if is_text(item):
        return contents
    parts = [part for each in contents for part in each.split(",")] if item in (int, float) else contents
    return [_read_value(name, part, item) for part in parts]


def _parse_yaml(name: str, content: str) -> Any:
    try:
        return parse_yaml(os.fsencode(content), f"--{name}", error=UsageError)
    except UsageError as error:
        # A flag has no lines to count.
        raise UsageError(re.sub(r"^(--[\w.]+):\d+: ", r"\1: ", str(error.args[0]))) from None


def _check_flag(name: str, value: Any, kind: Any, find_place: Callable[..., str]) -> Any:
    """Return a value as its type. An error begins with the place of the flag, unless that is empty."""
    if value is None and allows_null(kind):
        return None
    if is_list(kind) and value is not None and not isinstance(value, list):
        value = [value]
    try:
        return check_type({name: value}, dict[str, without_null(kind)], "", error=UsageError)[name]
    except UsageError as error:
        items = re.match(rf"{re.escape(name)}((?:\[\d+\])*)", str(error))
        place = find_place(name, *map(int, re.findall(r"\d+", items[1] if items else "")))
        raise UsageError(f"{place}: {error}" if place else str(error)) from None


def find_place(path: str, *keys: str | int) -> str:
    """Return the place of a key or an item in a YAML file, for an error."""
    line = locate_key(path, keys)
    return path if line is None else f"{path}:{line}"
