"""Names of the ``dpr-text`` commands. A command is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

COMMANDS = {
    "select": "Select the first usable rows of a raw DPR file.",
    "check": "Check a data set before a long training run.",
    "convert": "Convert data of other tools to rows in the DPR format, and back.",
    "train": "Train a bi-encoder for retrieval, or a cross-encoder for reranking.",
    "encode": "Encode a collection of passages to embeddings on disk.",
    "update": "Add, replace and remove passages of a collection.",
    "search": "Search encoded passages, search with BM25, or fuse both.",
    "evaluate": "Score a run against qrels, positives or answers.",
    "score": "Write the scores of a teacher into training rows.",
    "mine": "Mine hard negatives for the next training run.",
    "windows": "Cut long passages into overlapping windows.",
    "loop": "Train, encode, search, evaluate and mine in several rounds.",
    "report": "Write an HTML report about one or several training runs.",
    "serve": "Serve a search page and a JSON interface.",
}
"""Description of each command by name. ``text.commands.NAME`` holds the function NAME and the class NameFlags."""


def load_command(name: str) -> tuple[Callable[[Any], None], type]:
    """Import a command and return its function and its flags class."""
    module = import_module(f"text.commands.{name}")
    return getattr(module, name), getattr(module, f"{name.capitalize()}Flags")
