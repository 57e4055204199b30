"""From a command line to a call of a driver, and from an error to an exit code.

A driver is a frozen dataclass of flags and a function that takes one. Its flags are spelled
``--name=value`` or ``--name value``; those that are true or false may stand alone. Every flag can
stand in a YAML file, too: ``--config file.yaml``. A field with the metadata ``positional``, which is how the help calls
one of its values, takes those arguments that are no flags, one or more.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from text.errors import ArtifactError, DataError, InterruptedRun, NonFiniteLossError


class UsageError(ValueError):
    """A flag has a value that cannot be meant. Exit code 2."""


# The first kind that fits decides.
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
    (torch.cuda.OutOfMemoryError, 4),
    (ValueError, 2),
)


def run(main: Callable[[Any], None], config_class: type, argv: Sequence[str] | None = None) -> int:
    """Parses the command line, calls the driver, returns the exit code.

    An error is one line on stderr, a traceback only with ``--debug``. What is no fault of the
    input but one of ours is raised.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        main(parse(config_class, [argument for argument in argv if argument != "--debug"]))
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: stopped by SIGINT", file=sys.stderr)
        return 143
    except Exception as error:
        code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), None)
        if debug or code is None:
            raise
        print(f"{os.path.basename(sys.argv[0])}: error: {one_line(error)}", file=sys.stderr)
        return code
    return 0


def parse(config_class: type, argv: Sequence[str]) -> Any:
    """The command line as an instance of ``config_class``.

    Raises:
        UsageError: A flag is unknown, repeated, abbreviated, or its value is of the wrong type.
        SystemExit: ``--help`` or ``--print_config`` was asked for, and given.
    """
    flags = {field.name: field for field in dataclasses.fields(config_class)}
    # The help of each flag is the docstring under its field.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(description=config_class.__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of these flags.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    positional = [name for name, field in flags.items() if "positional" in field.metadata]
    for name in positional:
        parser.add_argument(
            name, nargs="+", metavar=flags[name].metadata["positional"], help=_docstring(config_class, name)
        )
    parser.add_class_arguments(config_class, as_group=False, skip={*positional})
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):
        if argument.split("=")[0] == "--config":
            _refuse_repeated_keys(argument.partition("=")[2] or following)
    try:
        values = parser.parse_args(_spell_out(argv, flags)).as_dict()
    except ArgumentError as error:
        raise UsageError(_with_hint(" ".join(str(error).split()), flags)) from None
    return config_class(**{name: values[name] for name in flags})


def check_at_least(config: Any, least: int, *names: str) -> None:
    """Refuses flags whose numbers are too small; those without a value pass.

    Raises:
        UsageError: A number is below ``least``, or not finite.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UsageError(f"--{name} is {value}; expected {least} or more")


def one_line(error: BaseException) -> str:
    """The message of an error, without what a data worker, or a DataPipe, puts around it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    message = str(error).strip() or type(error).__name__
    from_worker = re.findall(r"^[\w.]+(?:Error|Exception): (.*)$", message, flags=re.MULTILINE)
    return from_worker[-1] if from_worker else message.split("\n")[0]


def shown(text: str) -> str:
    """Text from data for a terminal, with escapes for the control characters that it would obey."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


@contextmanager
def signals_as_errors(then: str = "the same command goes on where this one ended") -> Iterator[None]:
    """SIGTERM and SIGINT raise ``InterruptedRun``, so that what is open is closed."""
    before = {number: signal.signal(number, partial(_stop, then)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(then: str, number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise InterruptedRun(f"stopped by {signal.Signals(number).name}; {then}")


def _spell_out(argv: Sequence[str], flags: dict[str, dataclasses.Field]) -> list[str]:
    """Gives flags that stand alone the value that they imply; refuses a flag given twice.

    A flag's ``bare`` metadata is that value; for a boolean it is "true".
    """
    spelled, seen = [], set()
    for argument, following in zip(argv, [*argv[1:], "--"], strict=False):
        name = argument.split("=")[0]
        if name.startswith("--") and name in seen:
            raise UsageError(f"{name} is given twice; expected it once")
        seen.add(name)
        field = flags.get(argument.removeprefix("--")) if argument.startswith("--") else None
        bare = field and field.metadata.get("bare", "true" if isinstance(field.default, bool) else None)
        stands_alone = bare and following.startswith("--")
        spelled.append(f"{argument}={bare}" if stands_alone else argument)
    return spelled


def _docstring(config_class: type, name: str) -> str | None:
    """What stands under a field."""
    documented = {parameter.arg_name: parameter.description for parameter in parse_from_object(config_class).params}
    return documented.get(name)


def _refuse_repeated_keys(path: str) -> None:
    """Of a YAML file, which otherwise keeps the last; what is no such file is told elsewhere.

    Raises:
        UsageError: A key stands twice in one mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            nodes = [yaml.compose(file, yaml.SafeLoader)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
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
                    raise UsageError(f"{path}:{line}: {key.value} is given twice; expected it once")


def _with_hint(message: str, flags: dict[str, dataclasses.Field]) -> str:
    unknown = re.search(r"unrecognized arguments: --([^\s=]+)|Option '([^']+)' is not accepted", message)
    if unknown:
        near = difflib.get_close_matches(unknown.group(1) or unknown.group(2), [*flags, "config", "debug"], n=1)
        return f"{message}; did you mean --{near[0]}?" if near else message
    wrong = re.search(r'Parser key "(\w+)"', message)
    if wrong and wrong.group(1) in flags and "list[" in str(flags[wrong.group(1)].type):
        return f"{message}; expected a list, such as --{wrong.group(1)}='[a, b]'"
    return message
