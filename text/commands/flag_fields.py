"""Fields of a dataclass of flags: names, types, groups and values. ``text.commands.cli`` describes such dataclasses."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from functools import cache
from typing import Any, get_type_hints

from text.commands.registry import load_command
from text.errors import UsageError

MAX_WHOLE = (1 << 31) - 1
"""Default maximum of an integer. Larger integers overflow in libraries written in C or Rust."""
MAX_SEED = (1 << 32) - 1
"""Maximum seed of NumPy."""


def number_field(
    default: float | None,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Return a field for a finite number in a range. Use it for flags that the library does not check itself."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most, "above": above, "below": below})


def get_flag_fields(flags_class: type) -> dict[str, dataclasses.Field]:
    """Return the flag fields of a dataclass and its groups by name."""
    found: dict[str, dataclasses.Field] = {}
    for field in dataclasses.fields(flags_class):
        group = get_flag_groups(flags_class).get(field.name)
        if group is not None:
            found |= get_flag_fields(group)
        elif field.metadata.get("flag", True):
            found[field.name] = field
    return found


def get_flag_values(flags: Any) -> dict[str, Any]:
    """Return the value of every flag by name. Groups are flattened."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if field.name in get_flag_groups(type(flags)):
            found |= get_flag_values(value)
        elif field.metadata.get("flag", True):
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


@cache
def get_flag_types(flags_class: type) -> dict[str, Any]:
    """Return the type of every flag by name. Groups are flattened."""
    found: dict[str, Any] = {}
    for group in get_flag_groups(flags_class).values():
        found |= get_flag_types(group)
    hints = get_type_hints(flags_class)
    return found | {name: hints[name] for name in get_flag_fields(flags_class) if name not in found}


def get_flag_sections(flags_class: type) -> dict[str, str]:
    """Return the sections of a dataclass, and for each the command whose flags it holds."""
    fields = get_flag_fields(flags_class).values()
    return {field.name: field.metadata["command"] for field in fields if "command" in field.metadata}


def load_sections(flags_class: type) -> dict[str, dict[str, Any]]:
    """Import the commands of the sections, and return the types of the flags in each section."""
    return {name: get_flag_types(load_command(command)[1]) for name, command in get_flag_sections(flags_class).items()}


def is_required(field: dataclasses.Field) -> bool:
    """Return whether a flag has no default value."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def get_default(field: dataclasses.Field) -> Any:
    """Return the default value of a flag."""
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore


def list_given_flags(flags: Any, names: Iterable[str]) -> list[str]:
    """Return the names of the flags whose value differs from the default."""
    fields = get_flag_fields(type(flags))
    return [name for name in names if getattr(flags, name) != get_default(fields[name])]


def check_value(field: dataclasses.Field, value: Any, name: str) -> None:
    """Check that numbers are in range and texts are not empty, in a value or in each item of a list.

    Args:
        field: Field of the flag.
        value: Value of the flag.
        name: Name of the flag in error messages, such as ``--batch_size``.

    Raises:
        UsageError: A number is out of range, or a text is empty, for example from an unset shell variable.
    """
    for item in value if isinstance(value, list | tuple) else [value]:
        if item == "" and field.default != "" and not field.metadata.get("empty", False):
            more = "" if is_required(field) else ", or leave the flag out"
            raise UsageError(f"{name} is empty. Give a value{more}.")
        if isinstance(item, int | float):
            _check_range(field, item, name)


def _check_range(field: dataclasses.Field, value: float, name: str) -> None:
    holds = {"least": operator.ge, "most": operator.le, "above": operator.gt, "below": operator.lt}
    limits = {word: limit for word in holds if (limit := field.metadata.get(word)) is not None}
    if isinstance(value, int) and value > MAX_WHOLE:
        limits.setdefault("most", MAX_WHOLE)
    if not all(holds[word](value, limit) for word, limit in limits.items()):
        words = {"least": "at least", "most": "at most", "above": "above", "below": "below"}
        allowed = " and ".join(f"{words[word]} {limit}" for word, limit in limits.items())
        raise UsageError(f"{name} is {value}. The value must be {allowed}.")


@cache
def get_flag_groups(flags_class: type) -> dict[str, type]:
    """Return the groups of flags in a dataclass: the dataclass of each group by field name."""
    hints = get_type_hints(flags_class)
    return {field.name: kind for field in dataclasses.fields(flags_class) if _is_group(kind := hints[field.name])}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
