"""Call a command: its errors and signals become one line on stderr and an exit code."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from text.commands.signals import raise_on_signals
from text.commands.streams import guard_streams
from text.errors import (
    ArtifactError,
    DataError,
    InterruptedRun,
    MissingPackageError,
    NonFiniteLossError,
    SettingsWarning,
    UsageError,
    escape_controls,
    is_out_of_memory,
)

# The first class that fits decides.
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, 2),
    (MissingPackageError, 2),
    (DataError, 3),
    (ArtifactError, 5),
    (NonFiniteLossError, 6),
    (InterruptedRun, 143),
    (KeyboardInterrupt, 143),
    (FileExistsError, 2),
    (FileNotFoundError, 2),
    (IsADirectoryError, 2),
    (NotADirectoryError, 2),
    (OSError, 4),
    (MemoryError, 4),
    (ValueError, 2),
)


_FREE_MEMORY = "Free memory, or use shorter texts, smaller blocks, a smaller model or another --device."


def call_command(program: str, work: Callable[[], object], *, debug: bool = False) -> int:
    """Do the work of a command and return the exit code.

    An error of the input is one line on stderr. An error of this library is raised.

    Args:
        program: Name that messages begin with.
        work: The command.
        debug: Raise every error, so that Python shows its traceback.
    """
    with guard_streams(), _print_warnings(program), raise_on_signals(program, call_command.__code__):
        try:
            try:
                work()
                sys.stdout.flush()
                return 0
            except Exception as error:
                return _report_error(program, error, debug=debug)
        except (InterruptedRun, KeyboardInterrupt) as error:
            return _report_error(program, error, debug=debug)


def exit_code(error: BaseException) -> int | None:
    """Return the exit code of an error; None for an error of this library."""
    if is_out_of_memory(error):
        return 4
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), None)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line without control characters.

    What a data worker or a DataPipe adds to the message is left out.
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT"
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{_decode(error.filename)}: "
        return escape_controls(f"{place}{error.strerror.lower()}")
    # An error of this library shows its lines as one. Those that a data worker adds stand in its argument.
    is_own = type(error).__module__ == "text.errors"
    message = str(error.args[0] if is_own and error.args else error) or type(error).__name__
    if message.startswith("Caught "):
        from_worker = re.findall(r"^[\w.]+(?:Error|Exception|Run): (.*)$", message, flags=re.MULTILINE)
        message = from_worker[-1] if from_worker else message
    is_whole = is_own or (type(error).__module__ == "builtins" and not isinstance(error, RuntimeError))
    line = escape_controls(message if is_whole else message.strip().split("\n")[0])
    # PyTorch and oneDNN do not say what to do, and Python says nothing.
    is_bare = isinstance(error, RuntimeError) or not error.args
    return f"out of memory: {line.rstrip('.')}. {_FREE_MEMORY}" if is_bare and is_out_of_memory(error) else line


def _decode(path: object) -> str:
    """Return the path of an OSError, which may be empty, or bytes, or the number of an open file."""
    return (os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)) or "''"


def _report_error(program: str, error: BaseException, *, debug: bool) -> int:
    """Print an error and return its exit code, or raise it."""
    code = exit_code(error)
    if debug or code is None:
        raise error
    print(f"{program}: error: {one_line(error)}", file=sys.stderr)
    return code


@contextmanager
def _print_warnings(program: str) -> Iterator[None]:
    """Print a SettingsWarning as one line, without the place in the code that it came from."""
    show = warnings.showwarning

    def print_or_show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, SettingsWarning):
            print(f"{program}: warning: {escape_controls(str(message))}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.showwarning = print_or_show
        yield
