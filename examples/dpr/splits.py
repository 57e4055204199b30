"""Where the files of a data set are, and whether a command may read and write its files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

from examples.dpr.cli import UsageError

STAGES = ("train", "valid", "test")


def find_split(folder: str, stage: str) -> str:
    """The file of one split, in any of the forms that it may have; as JSONL, where there is none."""
    names = [f"{stage}{form}{packed}" for form in (".jsonl", ".json") for packed in ("", ".gz", ".zst")]
    paths = [os.path.join(folder, name) for name in names]
    return next((path for path in paths if os.path.exists(path)), paths[0])


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


def check_writable(path: str | os.PathLike[str], inputs: Iterable[str | None], *, overwrite: bool) -> None:
    """Makes sure that a result takes the place of nothing that is read, and of nothing else unless that is asked for.

    Args:
        path: Of the result.
        inputs: Files that are there, but for None.
        overwrite: An earlier result may be replaced.

    Raises:
        UsageError: It is one of the inputs, under whatever name; or a folder; or would have to be compressed.
        FileExistsError: It is there.
        OSError: Nothing can be written in its folder.
    """
    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)} is a folder; expected the name of a file")
    if os.fspath(path).endswith((".gz", ".zst")):
        raise UsageError(f"{os.fspath(path)} would not be compressed; expected a name that does not say so")
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    if not os.path.exists(path):
        return
    if any(each is not None and os.path.samefile(path, each) for each in inputs):
        raise UsageError(f"{os.fspath(path)} is read, too; expected an output of its own")
    if not overwrite:
        raise FileExistsError(f"{os.fspath(path)} exists; expected a new file, or --overwrite")
