"""Turn a command line into a call of a command, and an error into an exit code.

A command is a frozen dataclass of flags and a function that takes an instance of it. Flags are written
``--name=value`` or ``--name value``. A boolean flag may stand alone. A list is written as one value, as several
arguments after the flag, as ``'[a, b]'``, or with commas if it has numbers. ``--config file.yaml`` reads flags from a
YAML file, which the command line changes. A field whose type is a dataclass is a group: its fields are flags too, and
``--help`` lists them under its name.

A flag of names and values is merged into the file's (``merge_settings``). If it holds flags of another command, each of
them can be given alone: ``--train.gpus=1``.

Metadata of a field:
    bare: The value of a flag that stands alone.
    command: The command whose flags this flag holds, by name.
    empty: True lets a flag without an empty default take an empty text.
    flag: False keeps a field from being a flag.
    least, most, above, below: The range of a number (``number``).
    model_path: The flag is the path of a model (``text.commands.model_paths``).
    positional: The name that ``--help`` gives to arguments without a flag. The field takes one or more of them.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text.artifacts import dump_yaml
from text.commands.flag_fields import (
    MAX_SEED,
    check_value,
    default_value,
    flag_fields,
    flag_groups,
    flag_sections,
    flag_types,
    flag_values,
    is_required,
    load_sections,
    number,
)
from text.commands.flag_help import format_help
from text.commands.flag_kinds import is_mapping
from text.commands.flag_parser import find_flags
from text.commands.flag_values import check_flag, check_flags, find_place, merge_settings, parse_flag, read_flags
from text.commands.model_paths import locate_models
from text.commands.privacy import keep_private
from text.commands.running import call_command, exit_code, one_line
from text.errors import DataError, UsageError

__all__ = [
    "MAX_SEED",
    "RECIPES",
    "check_flags_of",
    "exit_code",
    "flag_fields",
    "flag_sections",
    "flag_values",
    "name_flags",
    "number",
    "one_line",
    "parse_and_call",
    "parse_flags",
    "pick_arguments",
    "run_command",
]

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the YAML files that ``--config=NAME`` finds by name."""


def run_command(
    function: Callable[[Any], None], flags_class: type, argv: Sequence[str], *, program: str | None = None
) -> int:
    """Parse a command line, call the command, and return the exit code.

    An error of the input is one line on stderr; ``--debug`` shows its traceback. An error of this library is raised.

    Args:
        function: The command.
        flags_class: Dataclass of its flags.
        argv: Arguments of the command line.
        program: Name that messages begin with. By default the name of the script.
    """
    program = program or os.path.basename(sys.argv[0])
    return call_command(
        program, lambda: parse_and_call(function, flags_class, argv, program=program), debug="--debug" in argv
    )


def parse_and_call(
    function: Callable[[Any], None], flags_class: type, argv: Sequence[str], *, program: str | None = None
) -> None:
    """Parse a command line and call the command. Arguments are those of ``run_command``, errors of ``parse_flags``."""
    flags = locate_models(parse_flags(flags_class, argv, program=program))
    with keep_private(flag_values(flags)), name_flags(flag_fields(flags_class)):
        function(flags)


def parse_flags(flags_class: type, argv: Sequence[str], *, program: str | None = None) -> Any:
    """Return the command line as an instance of ``flags_class``. It goes before the file of ``--config``.

    Raises:
        UsageError: A flag is unknown, repeated, abbreviated or missing, or its value has the wrong type.
        SystemExit: ``--help`` or ``--print_config`` was asked for and printed.
    """
    kinds = flag_types(flags_class)
    texts = find_flags(flags_class, argv)
    if texts.pop("help", False):
        _print_and_exit(format_help(flags_class, program))
    texts.pop("debug", None)
    is_printing = texts.pop("print_config", False)
    config = texts.pop("config", None)
    values = {}
    if config is not None:
        path = _find_config(config, kinds)
        values = read_flags(path, kinds, lambda: load_sections(flags_class))
        fields = flag_fields(flags_class)
        for name in values.keys() - texts.keys():
            check_value(fields[name], values[name], f"{find_place(path, name)}: {name}")
    values = _change_values(flags_class, values, texts)
    _check_required(flags_class, values)
    with name_flags(flag_fields(flags_class)):
        flags = _build_flags(flags_class, values)
    if is_printing:
        _print_and_exit(dump_yaml(flag_values(flags)))
    return flags


def check_flags_of(flags_class: type, values: Mapping[str, Any], place: str) -> None:
    """Check some flags of a command that stand in a file, such as a recipe of a loop.

    Args:
        flags_class: Dataclass of the command's flags.
        values: Flags by name. None of them is required.
        place: Where they stand, for the error.

    Raises:
        UsageError: A flag is unknown, or its value has the wrong type, is out of range or is empty.
    """
    fields = flag_fields(flags_class)
    for name, value in check_flags(values, flag_types(flags_class), place).items():
        check_value(fields[name], value, f"{place}: {name}")


@contextmanager
def name_flags(flags: Iterable[str]) -> Iterator[None]:
    """Write ``--`` before the flags that an error of the block names, as the command line does.

    A name counts if it stands at the start of the message as its subject, or if no word of English looks like it.

    Args:
        flags: Names of the flags.
    """
    names = "|".join(sorted(flags, key=len, reverse=True))
    start = re.compile(rf"^({names})(?= (?:is|are|has|needs|must)\b)")
    inside = re.compile(rf"(?<![\w./'\"\-])((?=\w*_)(?:{names}))(?![\w/'\"\[]|\.\w)")
    try:
        yield
    except ValueError as error:
        if error.args and (isinstance(error, UsageError | DataError) or type(error) is ValueError):
            error.args = (inside.sub(r"--\1", start.sub(r"--\1", str(error.args[0]))), *error.args[1:])
        raise


def pick_arguments(function: Callable[..., Any], *groups: Any) -> dict[str, Any]:
    """Return the flags that a function takes as arguments of the same name."""
    parameters = inspect.signature(function).parameters
    return {name: value for group in groups for name, value in vars(group).items() if name in parameters}


def _change_values(flags_class: type, values: Mapping[str, Any], texts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a file of flags, changed by the command line: flags first, then flags of sections.

    Raises:
        UsageError: A value has the wrong type, or removes a setting that is not there.
    """
    fields, kinds, changed = flag_fields(flags_class), flag_types(flags_class), dict(values)
    for name in sorted(texts, key=lambda name: "." in name):
        section, _, key = name.partition(".")
        if "positional" in fields[section].metadata:
            changed[name] = check_flag(name, texts[name], kinds[name])
        elif key or is_mapping(kinds[name]):
            changes, default = _parse_changes(flags_class, name, texts[name]), default_value(fields[section])
            old = changed.get(section, default)
            merged = default if changes is None else merge_settings(old, changes, f"--{section}")
            changed[section] = check_flag(section, merged, kinds[section])
        else:
            changed[name] = parse_flag(name, texts[name], kinds[name])
    return changed


def _parse_changes(flags_class: type, name: str, content: Any) -> dict[str, Any] | None:
    """Return what a flag such as ``--train='{gpus: 1}'`` or ``--train.gpus=1`` changes in its section.

    None stands for ``--train=null``, which removes the whole section.
    """
    section, _, key = name.partition(".")
    if not key:
        return parse_flag(name, content, dict[str, Any] | None)
    value = parse_flag(name, content, load_sections(flags_class)[section][key] | None)
    return {key: list(value) if isinstance(value, tuple) else value}  # as YAML gives it


def _build_flags(flags_class: type, values: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass of flags, with its groups.

    Raises:
        UsageError: A number is out of range, a text is empty, or the flags do not go together.
    """
    arguments = {name: _build_flags(group, values) for name, group in flag_groups(flags_class).items()}
    for field in dataclasses.fields(flags_class):
        if field.name in values and field.name not in arguments and field.metadata.get("flag", True):
            arguments[field.name] = values[field.name]
            check_value(field, values[field.name], f"--{field.name}")
    return flags_class(**arguments)


def _check_required(flags_class: type, values: Mapping[str, Any]) -> None:
    """Check that no required flag is missing.

    Raises:
        UsageError: Flags are missing; with all their names.
    """
    fields = flag_fields(flags_class).values()
    missing = [field for field in fields if is_required(field) and field.name not in values]
    if missing:
        names = (
            f"{each.metadata['positional']} ({each.name})" if "positional" in each.metadata else f"--{each.name}"
            for each in missing
        )
        raise UsageError(f"{', '.join(names)}: required, but missing.")


def _print_and_exit(text: str) -> None:
    print(text.rstrip("\n"), flush=True)
    raise SystemExit(0)


def _find_config(name: str, kinds: Mapping[str, Any]) -> str:
    """Return the path of the file of ``--config``. A loop may name a recipe that comes with the package.

    Raises:
        UsageError: The name is neither a file nor a recipe of the command.
    """
    if not name:
        raise UsageError("--config is empty. Give a file, or leave the flag out.")
    if os.path.isfile(name) or not re.fullmatch(r"[\w-]+", name):
        return name
    recipes = {path.stem: str(path) for path in RECIPES.glob("*.yaml")}
    if name in recipes and "rounds" in kinds:  # Only a loop has rounds.
        return recipes[name]
    if name in recipes:
        raise UsageError(f"--config={name} is a recipe of dpr-text loop. Give a file with flags of this command.")
    asked = f"a file with flags. dpr-text loop also takes the recipes {', '.join(sorted(recipes))}"
    found = "is a folder" if os.path.isdir(name) else "no such file or recipe"
    raise UsageError(f"--config={name}: {found}. Give {asked}.")
