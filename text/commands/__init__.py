"""The ``dpr-text`` command line. Each command is a module with a dataclass of flags and a function that takes it.

This file imports as little as possible, so that ``dpr-text --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from text.commands.registry import COMMANDS, load_command

__all__ = ["COMMANDS", "load_command", "main"]

_VERSION = ("--version", "-V", "version")
_HELP = ("--help", "-h", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dpr-text`` and return the exit code."""
    try:
        return _call(argv)
    except KeyboardInterrupt:  # The signal handlers are not set yet, or already removed.
        print("dpr-text: error: stopped by SIGINT", file=sys.stderr)
        return 143


def _call(argv: Sequence[str] | None) -> int:
    from text.commands.running import call_command

    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""][:-1] or ["--help"]
    if name in _HELP and rest:  # dpr-text help train
        name, rest = rest[0], ["--help"]
    program = f"dpr-text {name}" if name in COMMANDS else "dpr-text"
    return call_command(program, partial(_run, name, rest, program), debug="--debug" in rest)


def _run(name: str, rest: Sequence[str], program: str) -> None:
    if name in _HELP:
        print(_format_help())
    elif name in _VERSION:
        from text import __version__

        print(f"dpr-text {__version__}")
    elif name in COMMANDS:
        # Import here, so that a signal during the import is handled like one during the command.
        from text.commands.cli import parse_and_call
        from text.commands.extras import name_all_missing

        with name_all_missing(name, rest):
            function, flags_class = load_command(name)
            parse_and_call(function, flags_class, rest, program=program)
    else:
        from text.commands.flag_hints import hint_command
        from text.errors import UsageError

        raise UsageError(f"{name} is not a command.{hint_command(name, rest)}")


def _format_help() -> str:
    lines = (f"  {name:<10}{sentence}" for name, sentence in COMMANDS.items())
    return "\n".join(
        [
            "usage: dpr-text COMMAND [--flag=value ...]",
            "",
            "Dense passage retrieval: train two encoders, encode a collection and search it.",
            "",
            "commands:",
            *lines,
            "",
            "dpr-text COMMAND --help shows the flags of a command and examples.",
            "dpr-text --version prints the version.",
        ]
    )
