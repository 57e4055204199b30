"""Check the paths of a command before any work: inputs can be read, and outputs take the place of nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from text.errors import UsageError


def check_readable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be read. A pipe or a device is refused without opening it.

    Raises:
        UsageError: The file is missing, is a folder, a pipe or a device, or may not be read.
    """
    name = os.fspath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe or a device, which may have no end"
        raise UsageError(f"{name} is {kind}. Give a file.")
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{name}: {reason}. Give a file that can be read.") from None


def check_files(
    inputs: Iterable[str | os.PathLike[str] | None], outputs: Iterable[str | os.PathLike[str]], *, overwrite: bool
) -> None:
    """Check that a command can read its inputs and write its outputs.

    Args:
        inputs: Files and folders, or None.
        outputs: Files. None of them may be an input, or lie in one.
        overwrite: Earlier results may be replaced.

    Raises:
        UsageError, FileExistsError, OSError: As ``check_readable`` and ``check_writable``.
    """
    given = [path for path in inputs if path is not None]
    for path in given:
        if not os.path.isdir(path):
            check_readable(path)
    for path in outputs:
        check_writable(path, given, overwrite=overwrite)


def check_writable(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = (), *, overwrite: bool
) -> None:
    """Check that a result can be written and takes the place of no input, and of nothing else unless that is asked for.

    Nothing is created.

    Args:
        path: Path of the result.
        inputs: Files and folders that exist.
        overwrite: An earlier result may be replaced.

    Raises:
        UsageError: The path is one of the inputs or lies in one, under whatever name; is empty, too long, a folder, a
            device or a pipe; lies in a file; or its name promises a compressed file.
        FileExistsError: The path exists.
        OSError: Nothing can be written in its folder.
    """
    name, real = os.fspath(path), Path(os.path.realpath(path))
    if not name or os.path.isdir(path):
        raise UsageError(f"{name or 'the output'} is {'a folder' if name else 'empty'}. Give the name of a file.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{name} is a device, a pipe or a socket. Give the name of a file.")
    if os.path.islink(real):
        raise UsageError(f"{name} is a link that leads to itself. Give the name of a file.")
    if name.endswith((".gz", ".zst")):
        raise UsageError(f"{name} would not be compressed. Give a name that does not end in .gz or .zst.")
    check_output_folder(real.parent)
    exists = _exists(real)
    for each in inputs:
        _refuse_input(name, real, each)
    if exists and not overwrite:
        raise FileExistsError(f"{name} exists. Give a new file, or --overwrite.")


def check_output_folder(path: str | os.PathLike[str]) -> None:
    """Check that files can be written in a folder, or that the folder can be created. Nothing is created.

    Raises:
        UsageError: A part of the path is no folder.
        OSError: Nothing can be written there.
    """
    nearest = next(each for each in (Path(path), *Path(path).absolute().parents) if os.path.lexists(each))
    if not nearest.is_dir():
        raise UsageError(f"{nearest} is no folder. Give another output.")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:  # It names the temporary file.
        raise OSError(error.errno, f"{error.strerror}: nothing can be written there", str(nearest)) from None


def _exists(path: Path) -> bool:
    try:
        return bool(os.stat(path))
    except FileNotFoundError:
        return False
    except OSError as error:  # Such as a name that is too long.
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}. Give another output.") from None


def _refuse_input(name: str, output: Path, source: str | os.PathLike[str]) -> None:
    """Refuse an output that is an input, or lies in a folder that is one."""
    if os.path.isdir(source):
        if any(os.path.samefile(source, parent) for parent in output.parents if parent.exists()):
            raise UsageError(f"{name} lies in {os.fspath(source)}, which is an input. Give another output.")
    elif output.exists() and os.path.samefile(source, output):
        raise UsageError(f"{name} is an input too. Give another output.")
