"""Parse flag values from command lines and YAML files by the same rules, and check their types.

A text flag takes its text from the command line unchanged. Any other value is parsed as YAML: ``010`` is ten, ``yes``
is a text, and ``null`` is None, which the flag's type must allow. A single value for a list flag becomes a list with
one item. On a command line, a list is ``[a, b]``, several arguments after the flag, or ``1,5`` for numbers and for
flags that take only certain texts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from text.artifacts import check_readable, check_type, locate_key, parse_yaml, read_yaml
from text.commands.flag_hints import hint_flag, hint_section
from text.commands.flag_kinds import (
    format_list_example,
    get_item_kind,
    is_list,
    is_mapping,
    is_nullable,
    is_text,
    list_choices,
    remove_null,
)
from text.errors import UsageError

_NULLS = ("null", "Null", "NULL", "~")


def read_flags(
    path: str, kinds: Mapping[str, Any], load_sections: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
) -> dict[str, Any]:
    """Read the flags in a YAML file.

    Args:
        path: Path of the file.
        kinds: Type of each allowed flag.
        load_sections: Function that returns the types of the flags in each section.

    Raises:
        UsageError: The file cannot be read, is not YAML, or has a wrong or unknown flag. The message names the line.
    """
    check_readable(path)
    found: Any = read_yaml(path, Any, error=UsageError)  # pyright: ignore[reportArgumentType]: any type
    if not isinstance(found, dict | None):
        raise UsageError(f"{find_place(path)}: the file has no flags. Write each flag on its own line, as name: value.")
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
    """Return flags with their values converted to the right types.

    Args:
        values: Values by flag name, as parsed from YAML.
        kinds: Type of each allowed flag.
        place: Source of the values, for error messages.

    Raises:
        UsageError: A flag is unknown, or its value has another type.
    """
    for name in values:
        if name not in kinds:
            raise UsageError(f"{place}: {name} is not a flag.{hint_flag(name, kinds, dashes='')}")
    return {name: _check_flag(name, value, kinds[name], lambda *_: place) for name, value in values.items()}


def parse_flag(name: str, content: str | list[str], kind: Any) -> Any:
    """Parse the value of a flag on the command line.

    Args:
        name: Name of the flag.
        content: Text of the flag, or texts if it takes a list.
        kind: Type of the flag.

    Raises:
        UsageError: The value has another type.
    """
    return check_flag(name, _read_value(name, content, kind), kind)


def check_flag(name: str, value: Any, kind: Any) -> Any:
    """Return the value of a flag, converted to its type.

    Raises:
        UsageError: The value has another type.
    """
    return _check_flag(f"--{name}", value, kind, lambda *_: "")


def merge_settings(settings: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Merge changes into settings like a JSON merge patch (RFC 7396), and return the result.

    Mappings are merged key by key at any depth. Null removes a setting. Any other value, including a list, replaces
    the old value.

    Args:
        settings: Old settings.
        changes: Settings to change.
        name: Name of the settings in error messages.

    Raises:
        UsageError: Null is given for a setting that does not exist.
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
            raise UsageError(f"{name}.{key} is null, which removes a setting, but {name} has no setting {key}.")
    return merged


def _read_value(name: str, content: str | list[str], kind: Any) -> Any:
    if is_list(kind):
        return _read_items(name, [content] if isinstance(content, str) else content, kind)
    assert isinstance(content, str)
    if is_text(kind):
        return None if content in _NULLS else content
    return _parse_yaml(name, content) if content.strip() else content


def _read_items(name: str, contents: list[str], kind: Any) -> Any:
    """Parse the value of a list flag."""
    item, first = get_item_kind(kind), contents[0]
    if first.startswith("[") and len(contents) > 1:
        example = format_list_example(f"--{name}", kind)
        raise UsageError(f"--{name}: a list in brackets must be one argument. Write {example}.")
    if contents in [[null] for null in _NULLS]:
        return None
    if first.startswith("["):
        return _parse_yaml(name, first)
    if is_text(item) and not list_choices(item):
        return contents
    is_split = item in (int, float) or list_choices(item)
    parts = [part for each in contents for part in each.split(",")] if is_split else contents
    return [_read_value(name, part, item) for part in parts]


def _parse_yaml(name: str, content: str) -> Any:
    try:
        return parse_yaml(os.fsencode(content), f"--{name}", error=UsageError)
    except UsageError as error:
        # A line number makes no sense for a flag.
        raise UsageError(re.sub(r"^(--[\w.]+):\d+: ", r"\1: ", str(error.args[0]))) from None


def _check_flag(name: str, value: Any, kind: Any, find_place: Callable[..., str]) -> Any:
    """Return a value, converted to its type. An error message begins with the place of the flag if there is one."""
    if value is None and is_nullable(kind):
        return None
    if is_list(kind) and value is not None and not isinstance(value, list):
        value = [value]
    try:
        return check_type({name: value}, dict[str, remove_null(kind)], "", error=UsageError)[name]
    except UsageError as error:
        items = re.match(rf"{re.escape(name)}((?:\[\d+\])*)", str(error))
        place = find_place(name, *map(int, re.findall(r"\d+", items[1] if items else "")))
        raise UsageError(f"{place}: {error}" if place else str(error)) from None


def find_place(path: str, *keys: str | int) -> str:
    """Return the path and line of a key or item in a YAML file, for error messages."""
    line = locate_key(path, keys)
    return path if line is None else f"{path}:{line}"
