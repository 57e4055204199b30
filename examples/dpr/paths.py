"""Whether a command can read and write its files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

from examples.dpr.cli import UsageError


def check_readable(path: str) -> None:
    """Opens a file and closes it again.

    Raises:
        UsageError: It is not there, is a folder, or must not be read.
    """
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{path}: {reason}; expected a file that can be read") from None


def check_files(inputs: Iterable[str | None], outputs: Iterable[str | os.PathLike[str]], *, overwrite: bool) -> None:
    """Makes sure, before any work, that a command can read and write its files.

    Args:
        inputs: Files, or None.
        outputs: Of which none may be an input.
        overwrite: Earlier results may be replaced.

    Raises:
        UsageError: As ``check_readable`` and ``check_writable``.
        FileExistsError: As ``check_writable``.
    """
    given = [path for path in inputs if path is not None]
    for path in given:
        check_readable(path)
    for path in outputs:
        check_writable(path, given, overwrite=overwrite)


def check_writable(path: str | os.PathLike[str], inputs: Iterable[str], *, overwrite: bool) -> None:
    """Makes sure that a result takes the place of nothing that is read, and of nothing else unless that is asked for.

    Args:
        path: Of the result.
        inputs: Files that are there.
        overwrite: An earlier result may be replaced.

    Raises:
        UsageError: It is one of the inputs, under whatever name; a folder, or in a file; or would not be what its
            name says.
        FileExistsError: It is there.
        OSError: Nothing can be written in its folder.
    """
    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)} is a folder; expected the name of a file")
    if os.fspath(path).endswith((".gz", ".zst")):
        raise UsageError(f"{os.fspath(path)} would not be compressed; expected a name that does not say so")
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isfile(folder):
        raise UsageError(f"{folder} is a file; expected a folder")
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    if not os.path.exists(path):
        return
    if any(os.path.samefile(path, each) for each in inputs):
        raise UsageError(f"{os.fspath(path)} is read, too; expected an output of its own")
    if not overwrite:
        raise FileExistsError(f"{os.fspath(path)} exists; expected a new file, or --overwrite")
