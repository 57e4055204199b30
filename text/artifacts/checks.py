"""Check the paths of a command before it runs: inputs are readable, and outputs do not replace other files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from text.errors import UsageError


def check_readable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be read. Pipes and devices are refused without being opened.

    Raises:
        UsageError: The file is missing, unreadable, or a folder, pipe or device.
    """
    name = os.fspath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe or a device, which might never end"
        raise UsageError(f"{name} is {kind}. Pass a regular file.")
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{name}: {reason}. Pass a readable file.") from None


def check_files(
    inputs: Iterable[str | os.PathLike[str] | None], outputs: Iterable[str | os.PathLike[str]], *, overwrite: bool
) -> None:
    """Check that a command can read its inputs and write its outputs.

    Args:
        inputs: Files and folders. None is skipped.
        outputs: Output files. An output must not be an input or lie inside an input folder.
        overwrite: Allow outputs to replace existing files.

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
    """Check that an output file can be written and does not replace an input. Nothing is created.

    Args:
        path: Path of the output.
        inputs: Existing input files and folders.
        overwrite: Allow the output to replace an existing file.

    Raises:
        UsageError: The path is an input or lies inside an input folder, possibly through a link. It is empty, too
            long, or a folder, device or pipe. Its parent is a file. Or its name ends in .gz or .zst.
        FileExistsError: The path exists, and ``overwrite`` is false.
        OSError: The folder is not writable.
    """
    name, real = os.fspath(path), Path(os.path.realpath(path))
    if not name or os.path.isdir(path):
        raise UsageError(f"{name or 'the output'} is {'a folder' if name else 'empty'}. Pass a file name.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{name} is a device, a pipe or a socket. Pass a file name.")
    if os.path.islink(real):
        raise UsageError(f"{name} is a symbolic link to itself. Pass a file name.")
    if name.endswith((".gz", ".zst")):
        raise UsageError(f"{name} ends in .gz or .zst, but outputs are not compressed. Choose another file name.")
    check_output_folder(real.parent)
    exists = _exists(real)
    for each in inputs:
        _check_not_input(name, real, each)
    if exists and not overwrite:
        raise FileExistsError(f"{name} already exists. Choose another file, or pass --overwrite.")


def check_output_folder(path: str | os.PathLike[str]) -> None:
    """Check that a folder is writable or can be created. Nothing is created.

    Raises:
        UsageError: A part of the path is not a folder.
        OSError: The folder is not writable.
    """
    nearest = next(each for each in (Path(path), *Path(path).absolute().parents) if os.path.lexists(each))
    if not nearest.is_dir():
        raise UsageError(f"{nearest} is not a folder. Choose another output path.")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:  # The original error names the temporary file.
        raise OSError(error.errno, f"{error.strerror}: the folder is not writable", str(nearest)) from None


def _exists(path: Path) -> bool:
    try:
        return bool(os.stat(path))
    except FileNotFoundError:
        return False
    except OSError as error:  # For example, the name is too long.
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}. Choose another output path.") from None


def _check_not_input(name: str, output: Path, source: str | os.PathLike[str]) -> None:
    """Raise an error if an output is an input or lies inside an input folder."""
    if os.path.isdir(source):
        if any(os.path.samefile(source, parent) for parent in output.parents if parent.exists()):
            raise UsageError(f"{name} is inside {os.fspath(source)}, which is an input. Choose another output path.")
    elif output.exists() and os.path.samefile(source, output):
        raise UsageError(f"{name} is also an input. Choose another output path.")
