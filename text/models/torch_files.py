"""Checks of files that ``torch.save`` wrote, made before PyTorch reads a file.

PyTorch decompresses the records of a file and executes its pickle. A file that passes the checks contains only tensors
and plain values. Loading it needs little more memory than its size.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from typing import IO

_MAX_PICKLE = 1 << 20
"""Maximum bytes of the pickle that describes the tensors. 1,000 tensors need about 100,000. In a file of more than
64 MiB, the limit is 1/64 of its size."""
_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
    r"|torch (\w+Storage|Size|device|(u?int|b?float|complex)\d+)|(__builtin__|builtins) set"
)
"""Names that a pickle may import. Other names could run code, or allocate more memory than the file has bytes."""


class TensorFileError(ValueError):
    """A file of tensors with an unsafe or damaged structure."""


def check_torch_zip(file: IO[bytes], size: int) -> None:
    """Check the structure of an archive that ``torch.save`` wrote, without loading it.

    Args:
        file: The archive.
        size: Size of the file in bytes.

    Raises:
        TensorFileError: An entry is compressed, entries overlap, the file has several archives or pickles, or the
            pickle fails ``check_pickle``.
        zipfile.BadZipFile: The file is not an archive.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise TensorFileError("its entries are compressed")
        if (total := sum(entry.file_size for entry in entries)) > size:
            raise TensorFileError(f"its entries have {total} bytes, but the file has {size}")
        # PyTorch ignores the case of names, and treats bytes before the archive as part of it.
        names = {entry.filename.lower() for entry in entries}
        if len(names) < len(entries) or min((entry.header_offset for entry in entries), default=0) > 0:
            raise TensorFileError("it contains more than one archive")
        pickles = [entry for entry in entries if entry.filename.lower().endswith(".pkl")]
        if len(pickles) != 1:
            raise TensorFileError(f"it contains {len(pickles)} pickles instead of one")
        with archive.open(pickles[0]) as pickle:
            check_pickle(pickle, size)


def check_pickle(file: IO[bytes], size: int) -> None:
    """Check the length of a pickle and the names that it imports, without loading it.

    Args:
        file: File whose position is the start of the pickle. Afterwards the position is the end of the pickle.
        size: Size in bytes of the whole file.

    Raises:
        TensorFileError: The pickle is too long, or imports a name that is not allowed.
        ValueError: The content is not a pickle.
    """
    start, limit = file.tell(), max(_MAX_PICKLE, size >> 6)
    for operation, argument, place in pickletools.genops(file):
        if place is not None and place - start > limit:
            raise TensorFileError(f"its pickle has more than {limit} bytes")
        if operation.name in ("INST", "STACK_GLOBAL") or (
            operation.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument))
        ):
            raise TensorFileError(f"it contains other objects than tensors and plain values ({argument})")
