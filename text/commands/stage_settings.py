"""Values of all flags of a command, for commands that run other commands as stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from text.commands.cli import get_flag_values, parse_flags
from text.commands.registry import load_command


def resolve_settings(name: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return the value of every flag of a command."""
    _, flags_class = load_command(name)
    return get_flag_values(parse_flags(flags_class, arguments))
