"""Split a command line into flags and their texts. ``flag_values`` then parses the texts."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from text.commands.flag_fields import get_flag_fields, get_flag_sections, get_flag_types, load_sections
from text.commands.flag_hints import hint_arguments, hint_dotted, hint_flag, hint_section
from text.commands.flag_kinds import format_list_example, is_list, is_switch
from text.commands.registry import load_command
from text.errors import UsageError


def find_flags(flags_class: type, argv: Sequence[str]) -> dict[str, Any]:
    """Return the text of each flag on a command line by name.

    The flag ``--train.gpus`` of a section has the name ``train.gpus``. A list flag has a list of texts. ``help``,
    ``print_config`` and ``debug`` are True if they are given.

    Raises:
        UsageError: A flag is unknown, repeated or abbreviated, or its value is missing.
    """
    sections = get_flag_sections(flags_class)
    named = {found[1] for each in argv if (found := re.match(r"--(\w+)\.", each)) and found[1] in sections}
    found, unknown = _build_parser(flags_class, tuple(sorted(named))).parse_known_intermixed_args(argv)
    texts = vars(found)
    if unknown and not texts.get("help"):
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}.{_suggest(unknown, texts, flags_class)}")
    return texts


def _suggest(unknown: Sequence[str], texts: dict[str, Any], flags_class: type) -> str:
    """Suggest a correction for unrecognized arguments."""
    kinds = get_flag_types(flags_class)
    if not unknown[0].startswith("-"):
        return hint_arguments(unknown, texts, kinds)
    name = unknown[0].partition("=")[0].lstrip("-")
    section, _, key = name.partition(".")
    if key and section in get_flag_sections(flags_class):
        near = hint_flag(key, load_sections(flags_class)[section]).replace("--", f"--{section}.")
        return near or f" Write one flag of --{section} as --{section}.NAME=VALUE."
    if key and section in kinds:
        return f" --{section} has no flags of its own. Give it as a whole."
    if key:
        return hint_dotted(section, key, kinds, list(get_flag_sections(flags_class)))
    return hint_section(name, load_sections(flags_class)) or hint_flag(name, kinds)


class _Parser(argparse.ArgumentParser):
    """Parser that finds the texts of flags. It does not know their types."""

    def error(self, message: str) -> Any:
        flag = re.match(r"argument (?:-h/)?(--[\w.]+): ", message)
        if flag and "expected" in message:
            raise UsageError(f"{flag[1]} has no value. Write {flag[1]}=VALUE.")
        if flag and "explicit argument" in message:
            raise UsageError(f"{flag[1]} takes no value. Write {flag[1]} alone.")
        raise UsageError(message)


class _StoreOnce(argparse.Action):
    """Action that stores the text of a flag and refuses a second one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if option is not None and hasattr(namespace, self.dest):
            more = f" Write a list as {self.metavar}." if self.metavar else ""
            raise UsageError(f"{option} is given twice. Give it once.{more}")
        setattr(namespace, self.dest, values)


@cache
def _build_parser(flags_class: type, sections: tuple[str, ...]) -> argparse.ArgumentParser:
    """Build the parser of a command. Its result contains only flags that are on the command line.

    Args:
        flags_class: Dataclass of the flags.
        sections: Names of sections whose flags can be given one by one.
    """
    parser = _Parser(argument_default=argparse.SUPPRESS, allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--config", action=_StoreOnce)
    parser.add_argument("--print_config", action="store_true")
    parser.add_argument("--debug", action="store_true")
    fields, kinds = get_flag_fields(flags_class), get_flag_types(flags_class)
    has_arguments = any("positional" in field.metadata for field in fields.values())
    for name, field in fields.items():
        _add_flag(parser, name, field, kinds[name], takes_several=not has_arguments)
    for section in sections:
        _, section_class = load_command(get_flag_sections(flags_class)[section])
        kinds = get_flag_types(section_class)
        for name, field in get_flag_fields(section_class).items():
            _add_flag(parser, f"{section}.{name}", field, kinds[name], takes_several=not has_arguments)
    return parser


def _add_flag(
    parser: argparse.ArgumentParser, name: str, field: dataclasses.Field, kind: Any, *, takes_several: bool
) -> None:
    if "positional" in field.metadata:
        parser.add_argument(name, nargs="*", action=_StoreOnce)
        return
    bare = field.metadata.get("bare", "true" if is_switch(kind) else None)
    several = "+" if is_list(kind) and takes_several else None
    parser.add_argument(
        f"--{name}",
        action=_StoreOnce,
        dest=name,
        nargs=several if bare is None else "?",
        const=bare,
        metavar=format_list_example(f"--{name}", kind) if is_list(kind) else None,
    )
