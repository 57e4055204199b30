"""The ``dpr-text`` command. Each module holds one command: a dataclass of flags and a function that takes it.

This file imports only what answers ``dpr-text --help`` at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

COMMANDS = {
    "select": "Select the first usable rows of a raw DPR file.",
    "check": "Check a data set before a long training run.",
    "train": "Train a question encoder and a passage encoder.",
    "encode": "Encode a collection of passages to embeddings on disk.",
    "update": "Add, replace and remove passages of a collection.",
    "search": "Search encoded passages, or a collection by BM25.",
    "evaluate": "Score a run by qrels, positives or answers.",
    "mine": "Mine hard negatives for the next training run.",
    "windows": "Cut long passages into overlapping windows.",
    "loop": "Train, encode, search, evaluate and mine, round after round.",
    "report": "Write a page on one or several training runs.",
    "serve": "Serve a search page and a JSON interface.",
}
"""One sentence on each command, by name. ``text.commands.NAME`` holds the function NAME and the class NameFlags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dpr-text`` and return the exit code."""
    try:
        return _call(argv)
    except KeyboardInterrupt:  # Before the handlers of signals are set, or after they are removed.
        print("dpr-text: error: stopped by SIGINT", file=sys.stderr)
        return 143


def _call(argv: Sequence[str] | None) -> int:
    from text.commands.running import call_command

    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""][:-1] or ["--help"]
    program = f"dpr-text {name}" if name in COMMANDS else "dpr-text"
    return call_command(program, partial(_run, name, rest, program), debug="--debug" in rest)


def _run(name: str, rest: Sequence[str], program: str) -> None:
    if name in ("--help", "-h"):
        print(_help())
    elif name == "--version":
        from text import __version__

        print(f"dpr-text {__version__}")
    elif name in COMMANDS:
        # The imports are part of the command: a signal may come in between.
        from text.commands.cli import parse_and_call

        function, flags_class = load_command(name)
        parse_and_call(function, flags_class, rest, program=program)
    else:
        from text.errors import UsageError

        raise UsageError(f"{name} is not a command. Use one of {', '.join(COMMANDS)}.")


def load_command(name: str) -> tuple[Callable[[Any], None], type]:
    """Import a command and return its function and the class of its flags."""
    module = import_module(f"text.commands.{name}")
    return getattr(module, name), getattr(module, f"{name.capitalize()}Flags")


def _help() -> str:
    lines = (f"  {name:<10}{sentence}" for name, sentence in COMMANDS.items())
    return "\n".join(
        [
            "usage: dpr-text COMMAND [--flag=value ...]",
            "",
            "Dense passage retrieval: train two encoders, encode a collection, search it.",
            "",
            "commands:",
            *lines,
            "",
            "dpr-text COMMAND --help lists the flags of a command.",
        ]
    )
