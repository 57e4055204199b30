"""The extras that each command needs. An error about a missing package names all missing packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from text.errors import MissingPackageError

_PACKAGES = {
    "train": ("pytorch_lightning", "jinja2"),
    "report": ("matplotlib", "jinja2"),
    "bm25": ("bm25s", "Stemmer"),
    "faiss": ("faiss",),
    "serve": ("fastapi", "uvicorn", "jinja2"),
}
"""Import names of the packages in each extra."""


@contextmanager
def name_all_missing(command: str, argv: Sequence[str]) -> Iterator[None]:
    """Extend an error about one missing package so that it names all missing packages of a command.

    Args:
        command: Name of the command.
        argv: Arguments of the command.

    Raises:
        MissingPackageError: The block raised it. The message names all extras to install.
    """
    try:
        yield
    except MissingPackageError as error:
        missing = {extra: _find_missing(extra) for extra in _list_extras(command, argv)}
        packages = list(dict.fromkeys(package for each in missing.values() for package in each))
        if len(packages) < 2 or str(error.name).partition(".")[0] not in packages:
            raise
        extras = ",".join(extra for extra, each in missing.items() if each)
        message = f'{", ".join(packages)} are not installed. Install them: pip install "dpr-text[{extras}]"'
        raise MissingPackageError(message, name=error.name) from None


def _list_extras(command: str, argv: Sequence[str]) -> list[str]:
    """Return the extras that a command with these arguments needs. The list is empty if it needs at most one."""
    if command == "loop":
        return ["train", "report", *["bm25"] * ("--bm25=false" not in argv)]
    if command == "serve":
        has_index = any(each.startswith("--index") for each in argv)
        return ["serve", *["bm25"] * ("--bm25" in argv or "--bm25=true" in argv), *["faiss"] * has_index]
    return []


def _find_missing(extra: str) -> list[str]:
    return [package for package in _PACKAGES[extra] if find_spec(package) is None]
