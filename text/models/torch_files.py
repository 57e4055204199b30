"""The form of files of ``torch.save``, checked before PyTorch reads any of it.

PyTorch unpacks the records of such a file and obeys its pickle. A checked file holds tensors and plain values only, and
asks for little more memory than it has bytes.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from typing import IO

_MAX_PICKLE = 1 << 20
"""Bytes of the pickle that describes the tensors: 1,000 tensors need about 100,000. A file of more than 64 MiB may have
a pickle of 1/64 of its size."""
_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
    r"|torch (\w+Storage|Size|device|(u?int|b?float|complex)\d+)|(__builtin__|builtins) set"
)
"""Names that a pickle may have. Others could run code, or ask for memory that the file does not have."""


class TensorFileError(ValueError):
    """A file of tensors has a form that is refused."""


def check_torch_zip(file: IO[bytes], size: int) -> None:
    """Check the form of an archive that ``torch.save`` wrote. Nothing of it is loaded.

    Args:
        file: The archive.
        size: Bytes of the file.

    Raises:
        TensorFileError: A part is compressed, parts overlap, there are several archives or pickles in the file, or as
            ``check_pickle``.
        zipfile.BadZipFile: It is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise TensorFileError("its parts are compressed")
        if (total := sum(entry.file_size for entry in entries)) > size:
            raise TensorFileError(f"its parts have {total} bytes, the file {size}")
        # PyTorch finds records whatever their case, and takes a file in front of the archive for a part of it.
        names = {entry.filename.lower() for entry in entries}
        if len(names) < len(entries) or min((entry.header_offset for entry in entries), default=0) > 0:
            raise TensorFileError("it holds more than one archive")
        pickles = [entry for entry in entries if entry.filename.lower().endswith(".pkl")]
        if len(pickles) != 1:
            raise TensorFileError(f"it holds {len(pickles)} pickles instead of one")
        with archive.open(pickles[0]) as pickle:
            check_pickle(pickle, size)


def check_pickle(file: IO[bytes], size: int) -> None:
    """Check the length of a pickle and the names in it. Nothing is loaded.

    Args:
        file: The pickle begins at its position. Afterwards the position is the end of the pickle.
        size: Bytes of the file that the pickle is a part of.

    Raises:
        TensorFileError: The pickle is too long, or has names of code.
        ValueError: It is no pickle.
    """
    start, limit = file.tell(), max(_MAX_PICKLE, size >> 6)
    for operation, argument, place in pickletools.genops(file):
        if place is not None and place - start > limit:
            raise TensorFileError(f"what describes its tensors has more than {limit} bytes")
        if operation.name in ("INST", "STACK_GLOBAL") or (
            operation.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument))
        ):
            raise TensorFileError(f"it holds more than tensors and plain values ({argument})")
