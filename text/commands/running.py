"""Call a command, and turn its errors and signals into one line on stderr and an exit code."""

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
    NoImprovementError,
    NonFiniteLossError,
    SettingsWarning,
    UsageError,
    escape_controls,
    is_out_of_memory,
)

# The first matching class decides.
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, 2),
    (MissingPackageError, 2),
    (DataError, 3),
    (ArtifactError, 5),
    (NonFiniteLossError, 6),
    (NoImprovementError, 7),
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
    """Run a command and return the exit code.

    A user error is printed as one line on stderr. A bug in the library is raised.

    Args:
        program: Program name at the start of messages.
        work: Function that runs the command.
        debug: Raise every error, so that Python shows the traceback.
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


def get_exit_code(error: BaseException) -> int | None:
    """Return the exit code of an error, or None for a bug in the library."""
    if is_out_of_memory(error):
        return 4
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), None)


def format_error(error: BaseException) -> str:
    """Format an error as one line without control characters.

    Text that a data worker or a DataPipe adds to the message is removed.
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT"
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{_decode(error.filename)}: "
        return escape_controls(f"{place}{error.strerror.lower()}")
    # For our own errors, args[0] is the plain message. str(error) may have lines that a data worker added.
    is_own = type(error).__module__ == "text.errors"
    message = str(error.args[0] if is_own and error.args else error) or type(error).__name__
    if message.startswith("Caught "):
        from_worker = re.findall(r"^[\w.]+(?:Error|Exception|Run): (.*)$", message, flags=re.MULTILINE)
        message = from_worker[-1] if from_worker else message
    is_whole = is_own or (type(error).__module__ == "builtins" and not isinstance(error, RuntimeError))
    line = escape_controls(message if is_whole else message.strip().split("\n")[0])
    # PyTorch and oneDNN give no advice, and Python's MemoryError has no message at all.
    is_bare = isinstance(error, RuntimeError) or not error.args
    return f"out of memory: {line.rstrip('.')}. {_FREE_MEMORY}" if is_bare and is_out_of_memory(error) else line


def _decode(path: object) -> str:
    """Return the path of an OSError as text. It may be empty, bytes, or a file descriptor."""
    return (os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)) or "''"


def _report_error(program: str, error: BaseException, *, debug: bool) -> int:
    """Print an error and return the exit code, or raise the error."""
    code = get_exit_code(error)
    if debug or code is None:
        raise error
    print(f"{program}: error: {format_error(error)}", file=sys.stderr)
    return code


@contextmanager
def _print_warnings(program: str) -> Iterator[None]:
    """Print each SettingsWarning in the block as one line, without its position in the code."""
    show = warnings.showwarning

    def print_or_show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, SettingsWarning):
            print(f"{program}: warning: {escape_controls(str(message))}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.showwarning = print_or_show
        yield
