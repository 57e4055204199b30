"""Errors of the library and the commands. Each class has an exit code.

Every message is one line that states the problem, its place and a remedy. ``text/commands/running.py`` maps the classes
to exit codes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that control a terminal: control characters, line separators and marks of the reading direction."""

_NO_MEMORY = re.compile(
    r"allocate memory|not enough memory|could not create a (primitive|memory)|out of memory|bad_alloc|start new thread",
    re.IGNORECASE,
)
"""Words in the message of a RuntimeError that mean that memory is exhausted."""


def escape_controls(text: str) -> str:
    r"""Return a text from data as one line, with the characters that control a terminal escaped.

    >>> escape_controls("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory is exhausted.

    PyTorch, oneDNN and FAISS raise a plain RuntimeError for this on a CPU.

    >>> is_out_of_memory(RuntimeError("could not create a primitive"))
    True
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )


class _OneLineError(ValueError):
    """Base class of errors whose messages contain texts from data. They print as one line without control codes."""

    def __str__(self) -> str:
        return escape_controls(super().__str__())


class UsageError(_OneLineError):
    """Invalid value for a command-line flag. Exit code 2."""


class UnsupportedModelError(UsageError):
    """A valid model or tokenizer that this library does not support. Exit code 2."""

    @classmethod
    def at(cls, place: str | os.PathLike[str], reason: str) -> UnsupportedModelError:
        """Return the error for a file or folder, with a reference to the list of supported models."""
        return cls(f"{os.fspath(place)}: {reason} docs/reference/supported.md lists the supported models.")


class DataError(_OneLineError):
    """Invalid content of an input file. Exit code 3."""


class ArtifactError(_OneLineError):
    """A damaged or mismatched model, tokenizer, checkpoint or result. Exit code 5."""


class NonFiniteLossError(ArithmeticError):
    """A loss or gradients that are NaN or infinite. The weights were not updated. Exit code 6."""


class NoImprovementError(_OneLineError):
    """Training that changed nothing or made the model worse. Only ``--require_improvement`` raises it. Exit code 7."""


class MissingPackageError(ModuleNotFoundError):
    """A missing package that an extra of this library installs. Exit code 2."""


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
    """A warning about a setting that affects results. Commands print it as one line."""


class InterruptedRun(BaseException):
    """A signal that ended the run. The message names the saved checkpoint, if any. Exit code 143."""
