"""The fields of a dataclass of flags: names, types, groups and values. ``cli`` says what a dataclass of flags is."""

from __future__ import annotations

import dataclasses
import operator
from functools import cache
from typing import Any, get_type_hints

from text.commands.registry import load_command
from text.errors import UsageError

MAX_WHOLE = (1 << 31) - 1
"""Maximum of a whole number without a maximum of its own. Larger ones overflow in libraries written in C or Rust."""
MAX_SEED = (1 << 32) - 1
"""Maximum seed of NumPy."""


def number(
    default: float | None,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Return a field for a finite number in a range. Use it where the library does not check the number itself."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most, "above": above, "below": below})


def flag_fields(flags_class: type) -> dict[str, dataclasses.Field]:
    """Return the fields of a dataclass and its groups that are flags, by name."""
    found: dict[str, dataclasses.Field] = {}
    for field in dataclasses.fields(flags_class):
        group = flag_groups(flags_class).get(field.name)
        if group is not None:
            found |= flag_fields(group)
        elif field.metadata.get("flag", True):
            found[field.name] = field
    return found


def flag_values(flags: Any) -> dict[str, Any]:
    """Return the value of every flag by name, without groups."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if field.name in flag_groups(type(flags)):
            found |= flag_values(value)
        elif field.metadata.get("flag", True):
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


@cache
def flag_types(flags_class: type) -> dict[str, Any]:
    """Return the type of every flag by name, without groups."""
    found: dict[str, Any] = {}
    for group in flag_groups(flags_class).values():
        found |= flag_types(group)
    hints = get_type_hints(flags_class)
    return found | {name: hints[name] for name in flag_fields(flags_class) if name not in found}


def flag_sections(flags_class: type) -> dict[str, str]:
    """Return the flags that hold flags of another command, with the name of the command."""
    fields = flag_fields(flags_class).values()
    return {field.name: field.metadata["command"] for field in fields if "command" in field.metadata}


def load_sections(flags_class: type) -> dict[str, dict[str, Any]]:
    """Return the types of the flags in each section. The commands are imported."""
    return {name: flag_types(load_command(command)[1]) for name, command in flag_sections(flags_class).items()}


def is_required(field: dataclasses.Field) -> bool:
    """Return whether a flag has no default value."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def default_value(field: dataclasses.Field) -> Any:
    """Return the value of a flag that is not given."""
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore


def check_value(field: dataclasses.Field, value: Any, name: str) -> None:
    """Check the value of a flag, or each item of a list: numbers against their range, and that no text is empty.

    Args:
        field: The field of the flag.
        value: Its value.
        name: What an error calls the flag, such as ``--batch_size``.

    Raises:
        UsageError: A number is out of range, or a text is empty, such as by a shell variable that is not set.
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
        asked = " and ".join(f"{words[word]} {limit}" for word, limit in limits.items())
        raise UsageError(f"{name} is {value}. Give a number, {asked}.")


@cache
def flag_groups(flags_class: type) -> dict[str, type]:
    """Return the dataclasses that are groups of flags, by the name of their field."""
    hints = get_type_hints(flags_class)
    return {field.name: kind for field in dataclasses.fields(flags_class) if _is_group(kind := hints[field.name])}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
