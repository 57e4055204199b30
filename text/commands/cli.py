"""Turn a command line into a call of a command, and an error into an exit code.

A command is a frozen dataclass of flags and a function that takes an instance of it. Flags are written
``--name=value`` or ``--name value``. A boolean flag may stand alone. ``--config file.yaml`` reads flags from a YAML
file. A field whose type is a dataclass is a group: its fields are flags too, and ``--help`` lists them under its name.

Metadata of a field:
    bare: The value of a flag that stands alone.
    flag: False keeps a field from being a flag.
    least, above, below: The range of a number (``number``).
    positional: The name that ``--help`` gives to arguments without a flag. The field takes one or more of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import operator
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from text.errors import ArtifactError, DataError, InterruptedRun, NonFiniteLossError, SettingsWarning, UsageError

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the YAML files that ``--config=NAME`` finds by name."""

# The first class that fits decides.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (DataError, 3),
    (ArtifactError, 5),
    (NonFiniteLossError, 6),
    (InterruptedRun, 143),
    (FileExistsError, 2),
    (FileNotFoundError, 2),
    (IsADirectoryError, 2),
    (NotADirectoryError, 2),
    (OSError, 4),
    (MemoryError, 4),
    (ValueError, 2),
)


def number(
    default: float | None, *, least: float | None = None, above: float | None = None, below: float | None = None
) -> Any:
    """Return a field for a finite number in a range. Use it where the library does not check the number itself."""
    return dataclasses.field(default=default, metadata={"least": least, "above": above, "below": below})


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
    debug = "--debug" in argv
    try:
        with _print_settings_warnings(program):
            function(parse_flags(flags_class, [each for each in argv if each != "--debug"], program=program))
    except KeyboardInterrupt:
        print(f"{program}: stopped by SIGINT", file=sys.stderr)
        return 143
    except Exception as error:
        code = exit_code(error)
        if debug or code is None:
            raise
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return code
    return 0


def exit_code(error: BaseException) -> int | None:
    """Return the exit code of an error; None for an error of this library."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return 4
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), None)


def parse_flags(flags_class: type, argv: Sequence[str], *, program: str | None = None) -> Any:
    """Return the command line as an instance of ``flags_class``.

    Raises:
        UsageError: A flag is unknown, repeated, abbreviated or missing, or its value has the wrong type.
        SystemExit: ``--help`` or ``--print_config`` was asked for and printed.
    """
    fields = flag_fields(flags_class)
    argv = _find_recipes(argv)
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):
        if argument.split("=")[0] == "--config":
            _refuse_repeated_keys(argument.partition("=")[2] or following)
    parser = _build_parser(flags_class, program)
    try:
        values = parser.parse_args(_spell_out(argv, fields)).as_dict()
    except ArgumentError as error:
        raise UsageError(_with_hint(" ".join(str(error).split()), fields)) from None
    return _build_flags(flags_class, values)


def flag_fields(flags_class: type) -> dict[str, dataclasses.Field]:
    """Return the fields of a dataclass and its groups that are flags, by name."""
    found: dict[str, dataclasses.Field] = {}
    for field in dataclasses.fields(flags_class):
        group = _groups(flags_class).get(field.name)
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
        if field.name in _groups(type(flags)):
            found |= flag_values(value)
        elif field.metadata.get("flag", True):
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def pick_arguments(function: Callable[..., Any], *groups: Any) -> dict[str, Any]:
    """Return the flags that a function takes as arguments of the same name."""
    parameters = inspect.signature(function).parameters
    return {name: value for group in groups for name, value in vars(group).items() if name in parameters}


def one_line(error: BaseException) -> str:
    """Return the message of an error, without what a data worker or a DataPipe adds to it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    message = str(error).strip() or type(error).__name__
    from_worker = re.findall(r"^[\w.]+(?:Error|Exception): (.*)$", message, flags=re.MULTILINE)
    return from_worker[-1] if from_worker else message.split("\n")[0]


def escape_controls(text: str) -> str:
    """Return a text from data with escapes for the control characters that a terminal would obey."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


@contextmanager
def raise_on_signals(message: str = "run the same command again to continue") -> Iterator[None]:
    """Raise ``InterruptedRun`` on SIGTERM and SIGINT, so that open files are closed."""
    before = {number: signal.signal(number, partial(_interrupt, message)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def translate_missing(extra: str) -> Iterator[None]:
    """Turn a failed import into a UsageError that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed. Install it: pip install 'dpr-text[{extra}]'") from None


@contextmanager
def _print_settings_warnings(program: str) -> Iterator[None]:
    """Print a SettingsWarning as one line, without the place in the code that it came from."""
    show = warnings.showwarning

    def print_or_show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, SettingsWarning):
            print(f"{program}: warning: {message}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.showwarning = print_or_show
        yield


def _interrupt(message: str, number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise InterruptedRun(f"stopped by {signal.Signals(number).name}; {message}")


@cache
def _groups(flags_class: type) -> dict[str, type]:
    """Return the dataclasses that are groups of flags, by the name of their field."""
    hints = get_type_hints(flags_class)
    return {field.name: kind for field in dataclasses.fields(flags_class) if _is_group(kind := hints[field.name])}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _build_flags(flags_class: type, values: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass of flags, with its groups."""
    arguments = {name: _build_flags(group, values) for name, group in _groups(flags_class).items()}
    for field in dataclasses.fields(flags_class):
        if field.metadata.get("flag", True) and field.name not in arguments:
            arguments[field.name] = values[field.name]
            _check_range(field, values[field.name])
    return flags_class(**arguments)


def _check_range(field: dataclasses.Field, value: Any) -> None:
    """Check a number against the range of its field. A flag without a value passes.

    Raises:
        UsageError: The number is out of range or not finite.
    """
    limits = {name: limit for name in ("least", "above", "below") if (limit := field.metadata.get(name)) is not None}
    if value is None or not limits:
        return
    holds = {"least": operator.ge, "above": operator.gt, "below": operator.lt}
    if not (math.isfinite(value) and all(holds[name](value, limit) for name, limit in limits.items())):
        words = {"least": "at least", "above": "above", "below": "below"}
        asked = " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())
        raise UsageError(f"--{field.name} is {value}. Give a finite number, {asked}.")


@cache
def _build_parser(flags_class: type, program: str | None) -> ArgumentParser:
    # The help of a flag is the docstring below its field.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    fields = dataclasses.fields(flags_class)
    positional = {field.name: field.metadata["positional"] for field in fields if "positional" in field.metadata}
    usage = " ".join(
        ["%(prog)s", *(f"{metavar} [{metavar} ...]" for metavar in positional.values()), "[--flag=value ...]"]
    )
    parser = ArgumentParser(
        prog=program, usage=usage, description=flags_class.__doc__, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these flags.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    for name, metavar in positional.items():
        parser.add_argument(name, nargs="+", metavar=metavar, help=_docstring(flags_class, name))
    groups = _groups(flags_class)
    for name, group in groups.items():
        parser.add_argument_group(name).add_class_arguments(group, as_group=False, skip=_not_flags(group))
    parser.add_class_arguments(flags_class, as_group=False, skip={*groups, *_not_flags(flags_class)})
    return parser


def _not_flags(flags_class: type) -> set[str | int]:
    """Return the names of the fields that the parser does not build from the dataclass."""
    fields = dataclasses.fields(flags_class)
    return {each.name for each in fields if "positional" in each.metadata or not each.metadata.get("flag", True)}


def _docstring(flags_class: type, name: str) -> str | None:
    documented = {parameter.arg_name: parameter.description for parameter in parse_from_object(flags_class).params}
    return documented.get(name)


def _find_recipes(argv: Sequence[str]) -> list[str]:
    """Replace the name of a recipe after ``--config`` by its path."""
    found = list(argv)
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name == "--config":
            place, value = (place, value) if equals else (place + 1, "".join(argv[place + 1 : place + 2]))
            path = RECIPES / f"{value}.yaml"
            if re.fullmatch(r"[\w-]+", value) and not os.path.isfile(value) and path.is_file():
                found[place] = f"--config={path}" if equals else str(path)
    return found


def _spell_out(argv: Sequence[str], fields: Mapping[str, dataclasses.Field]) -> list[str]:
    """Give a flag that stands alone the value that it implies, and refuse a flag that is given twice."""
    spelled, seen = [], set()
    for argument, following in zip(argv, [*argv[1:], "--"], strict=False):
        name = argument.split("=")[0]
        if name.startswith("--") and name in seen:
            raise UsageError(f"{name} is given twice. Give it once.")
        seen.add(name)
        field = fields.get(argument.removeprefix("--")) if argument.startswith("--") else None
        bare = field and field.metadata.get("bare", "true" if isinstance(field.default, bool) else None)
        stands_alone = bare and following.startswith("--")
        spelled.append(f"{argument}={bare}" if stands_alone else argument)
    return spelled


def _refuse_repeated_keys(path: str) -> None:
    """Refuse a YAML file in which a mapping has a key twice. The YAML library would keep the last one.

    Raises:
        UsageError: A key is given twice; with path and line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            nodes = [yaml.compose(file, yaml.SafeLoader)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # the parser reports it
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            nodes.extend(value for _, value in node.value)
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for before, key in enumerate(keys):
                if any(key.value == other.value for other in keys[:before]):
                    line = key.start_mark.line + 1
                    raise UsageError(f"{path}:{line}: {key.value} is given twice. Give it once.")


def _with_hint(message: str, fields: Mapping[str, dataclasses.Field]) -> str:
    unknown = re.search(r"unrecognized arguments: --([^\s=]+)|Option '([^']+)' is not accepted", message)
    if unknown:
        near = difflib.get_close_matches(unknown.group(1) or unknown.group(2), [*fields, "config", "debug"], n=1)
        return f"{message}; did you mean --{near[0]}?" if near else message
    wrong = re.search(r'Parser key "(\w+)"', message)
    if wrong and wrong.group(1) in fields and "list[" in str(fields[wrong.group(1)].type):
        return f"{message}; expected a list, such as --{wrong.group(1)}='[a, b]'"
    return message
