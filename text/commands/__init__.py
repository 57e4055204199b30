"""The ``dpr-text`` command. Each module holds one command: a dataclass of flags and a function that takes it.

This file imports nothing else of the library, so that ``dpr-text --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
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
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""][:-1] or ["--help"]
    if name in ("--help", "-h"):
        print(_help())
        return 0
    if name == "--version":
        from text import __version__

        print(f"dpr-text {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"dpr-text: error: {name} is not a command. Use one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    from text.commands.cli import run_command

    return run_command(*load_command(name), rest, program=f"dpr-text {name}")


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
