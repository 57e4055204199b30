"""Parse command lines, call commands, and map errors to exit codes.

A command is a function that takes an instance of a frozen dataclass of flags. A flag is written ``--name=value`` or
``--name value``; a boolean flag may stand alone. A list is one value, several arguments, ``'[a, b]'``, or numbers or
fixed texts joined by commas. ``--config file.yaml`` reads flags from a YAML file, and the command line overrides
them. A field whose type is a dataclass is a group: its fields are flags as well, and ``--help`` lists them under the
field's name.

A section is a flag whose value is a mapping with flags of another command. It is merged into the section of the file
(``merge_settings``), and its flags can be given one by one: ``--train.gpus=1``.

Metadata of a field:
    bare: Value of the flag if it is given without a value.
    command: Name of the command whose flags this section holds.
    empty: True allows an empty text even if the default is not empty.
    flag: False excludes the field from the flags.
    least, most, above, below: Range of a number (``number_field``).
    model_path: The flag is the path of a model (``text.commands.model_paths``).
    positional: Name of positional arguments in ``--help``. The field takes one or more of them.
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
    get_default,
    get_flag_fields,
    get_flag_groups,
    get_flag_sections,
    get_flag_types,
    get_flag_values,
    is_required,
    list_given_flags,
    load_sections,
    number_field,
)
from text.commands.flag_help import format_help
from text.commands.flag_kinds import is_mapping
from text.commands.flag_parser import find_flags
from text.commands.flag_values import check_flag, check_flags, find_place, merge_settings, parse_flag, read_flags
from text.commands.model_paths import locate_models
from text.commands.privacy import keep_private
from text.commands.running import call_command, format_error, get_exit_code
from text.errors import DataError, UsageError

__all__ = [
    "MAX_SEED",
    "RECIPES",
    "check_partial_flags",
    "format_error",
    "get_exit_code",
    "get_flag_fields",
    "get_flag_sections",
    "get_flag_values",
    "list_given_flags",
    "name_flags",
    "number_field",
    "parse_and_call",
    "parse_flags",
    "pick_arguments",
    "run_command",
]

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the recipes that ``--config=NAME`` finds by name."""


def run_command(
    function: Callable[[Any], None], flags_class: type, argv: Sequence[str], *, program: str | None = None
) -> int:
    """Parse a command line, call the command, and return the exit code.

    A user error is printed as one line on stderr, and ``--debug`` shows its traceback. A bug in the library is raised.

    Args:
        function: Function of the command.
        flags_class: Dataclass of the command's flags.
        argv: Command line arguments.
        program: Program name at the start of messages. By default, the name of the script.
    """
    program = program or os.path.basename(sys.argv[0])
    return call_command(
        program, lambda: parse_and_call(function, flags_class, argv, program=program), debug="--debug" in argv
    )


def parse_and_call(
    function: Callable[[Any], None], flags_class: type, argv: Sequence[str], *, program: str | None = None
) -> None:
    """Parse a command line and call the command. See ``run_command`` for arguments and ``parse_flags`` for errors."""
    flags = locate_models(parse_flags(flags_class, argv, program=program))
    with keep_private(get_flag_values(flags)), name_flags(get_flag_fields(flags_class)):
        function(flags)


def parse_flags(flags_class: type, argv: Sequence[str], *, program: str | None = None) -> Any:
    """Parse a command line and return an instance of ``flags_class``. Its flags override those of ``--config``.

    Raises:
        UsageError: A flag is unknown, repeated, abbreviated or missing, or its value has the wrong type.
        SystemExit: ``--help`` or ``--print_config`` was given, and its output has been printed.
    """
    kinds = get_flag_types(flags_class)
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
        fields = get_flag_fields(flags_class)
        for name in values.keys() - texts.keys():
            check_value(fields[name], values[name], f"{find_place(path, name)}: {name}")
    values = _merge_command_line(flags_class, values, texts)
    _check_required(flags_class, values)
    with name_flags(get_flag_fields(flags_class)):
        flags = _build_flags(flags_class, values)
    if is_printing:
        _print_and_exit(dump_yaml(get_flag_values(flags)))
    return flags


def check_partial_flags(flags_class: type, values: Mapping[str, Any], place: str) -> None:
    """Check flags of a command that come from a file, such as a loop recipe. Required flags may be missing.

    Args:
        flags_class: Dataclass of the command's flags.
        values: Values by flag name.
        place: Position in the file, for error messages.

    Raises:
        UsageError: A flag is unknown, or its value has the wrong type, is out of range or is empty.
    """
    fields = get_flag_fields(flags_class)
    for name, value in check_flags(values, get_flag_types(flags_class), place).items():
        check_value(fields[name], value, f"{place}: {name}")


@contextmanager
def name_flags(flags: Iterable[str]) -> Iterator[None]:
    """Prefix flag names with ``--`` in the message of an error that the block raises.

    A name is prefixed if it is the subject at the start of the message, or if it contains an underscore.

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
    """Return the flags of some groups that a function has as parameters.

    Args:
        function: Function or class to call with the result.
        *groups: Instances of dataclasses.
    """
    parameters = inspect.signature(function).parameters
    return {name: value for group in groups for name, value in vars(group).items() if name in parameters}


def _merge_command_line(flags_class: type, values: Mapping[str, Any], texts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags of a file, overridden by the command line: whole flags first, then flags of sections.

    Raises:
        UsageError: A value has the wrong type, or null removes a setting that does not exist.
    """
    fields, kinds, changed = get_flag_fields(flags_class), get_flag_types(flags_class), dict(values)
    for name in sorted(texts, key=lambda name: "." in name):
        section, _, key = name.partition(".")
        if "positional" in fields[section].metadata:
            changed[name] = check_flag(name, texts[name], kinds[name])
        elif key or is_mapping(kinds[name]):
            changes, default = _parse_changes(flags_class, name, texts[name]), get_default(fields[section])
            old = changed.get(section, default)
            merged = default if changes is None else merge_settings(old, changes, f"--{section}")
            changed[section] = check_flag(section, merged, kinds[section])
        else:
            changed[name] = parse_flag(name, texts[name], kinds[name])
    return changed


def _parse_changes(flags_class: type, name: str, content: Any) -> dict[str, Any] | None:
    """Return the changes that ``--train='{gpus: 1}'`` or ``--train.gpus=1`` makes in its section.

    The result is None for ``--train=null``, which removes the whole section.
    """
    section, _, key = name.partition(".")
    if not key:
        return parse_flag(name, content, dict[str, Any] | None)
    value = parse_flag(name, content, load_sections(flags_class)[section][key] | None)
    return {key: list(value) if isinstance(value, tuple) else value}  # as in YAML


def _build_flags(flags_class: type, values: Mapping[str, Any]) -> Any:
    """Build an instance of a dataclass of flags and its groups.

    Raises:
        UsageError: A number is out of range, a text is empty, or flags contradict each other.
    """
    arguments = {name: _build_flags(group, values) for name, group in get_flag_groups(flags_class).items()}
    for field in dataclasses.fields(flags_class):
        if field.name in values and field.name not in arguments and field.metadata.get("flag", True):
            arguments[field.name] = values[field.name]
            check_value(field, values[field.name], f"--{field.name}")
    return flags_class(**arguments)


def _check_required(flags_class: type, values: Mapping[str, Any]) -> None:
    """Check that no required flag is missing.

    Raises:
        UsageError: Required flags are missing. The message names all of them.
    """
    fields = get_flag_fields(flags_class).values()
    missing = [field for field in fields if is_required(field) and field.name not in values]
    if missing:
        names = (
            f"{each.metadata['positional']} ({each.name})" if "positional" in each.metadata else f"--{each.name}"
            for each in missing
        )
        raise UsageError(f"required flags are missing: {', '.join(names)}")


def _print_and_exit(text: str) -> None:
    print(text.rstrip("\n"), flush=True)
    raise SystemExit(0)


def _find_config(name: str, kinds: Mapping[str, Any]) -> str:
    """Return the path of the ``--config`` file. dpr-text loop also accepts the name of a recipe in the package.

    Raises:
        UsageError: The name is neither a file nor a recipe of the command.
    """
    if not name:
        raise UsageError("--config is empty. Give a file, or leave the flag out.")
    if os.path.isfile(name) or not re.fullmatch(r"[\w-]+", name):
        return name
    recipes = {path.stem: str(path) for path in RECIPES.glob("*.yaml")}
    if name in recipes and "rounds" in kinds:  # Only dpr-text loop has rounds.
        return recipes[name]
    if name in recipes:
        raise UsageError(f"--config={name} is a recipe for dpr-text loop. Give a YAML file with flags of this command.")
    problem = "is a folder" if os.path.isdir(name) else "no such file or recipe"
    advice = f"Give a YAML file. dpr-text loop also takes the recipes {', '.join(sorted(recipes))}."
    raise UsageError(f"--config={name}: {problem}. {advice}")
