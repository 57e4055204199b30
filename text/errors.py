"""Errors that a run can end with, one class for each exit code.

Every message is one line that says what is wrong, where, and what to do. ``text/commands/cli.py`` turns each kind into
its exit code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that a terminal would obey: control characters, line separators and marks of the reading direction."""

_NO_MEMORY = re.compile(
    r"allocate memory|not enough memory|could not create a (primitive|memory)|out of memory|bad_alloc|start new thread",
    re.IGNORECASE,
)
"""Words of a RuntimeError."""


def escape_controls(text: str) -> str:
    """Return a text from data as one line, with escapes for the characters that a terminal would obey.

    >>> escape_controls("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is full. PyTorch, oneDNN and FAISS have no class for it on a CPU.

    >>> is_out_of_memory(RuntimeError("could not create a primitive"))
    True
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )


class _OneLineError(ValueError):
    """An error whose message may hold paths, ids and texts from data: it is shown as one line without control codes."""

    def __str__(self) -> str:
        return escape_controls(super().__str__())


class UsageError(_OneLineError):
    """Invalid value for a command-line flag. Exit code 2."""


class UnsupportedModelError(UsageError):
    """A healthy model or tokenizer that this library cannot load. Exit code 2."""

    @classmethod
    def at(cls, place: str | os.PathLike[str], reason: str) -> UnsupportedModelError:
        """Return the error for a file or folder, with a sentence about what is supported instead."""
        return cls(f"{os.fspath(place)}: {reason} docs/reference/supported.md lists what loads.")


class DataError(_OneLineError):
    """Invalid content of an input file. Exit code 3."""


class ArtifactError(_OneLineError):
    """A saved model, tokenizer, checkpoint or result that is damaged or belongs to something else. Exit code 5."""


class NonFiniteLossError(ArithmeticError):
    """A loss, or a series of gradients, that is NaN or infinite. The weights were not updated. Exit code 6."""


class MissingPackageError(ModuleNotFoundError):
    """A package of an extra of this library is not installed. Exit code 2."""


@contextmanager
def explain_missing(extra: str) -> Iterator[None]:
    """Turn a failed import into an error that names the extra to install.

    Args:
        extra: Name of an extra in pyproject.toml.

    Raises:
        MissingPackageError: The package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        message = f'{package} is not installed. Install it: pip install "dpr-text[{extra}]"'
        raise MissingPackageError(message, name=error.name) from None


class SettingsWarning(UserWarning):
    """A setting that decides results and that a file does not state. Commands print it as one line."""


class InterruptedRun(BaseException):
    """A signal that ended the run after its state was saved. Exit code 143."""
