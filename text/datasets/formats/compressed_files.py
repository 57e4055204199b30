"""Detection and decompression of gzip and zstd files.

The form of a file is detected from its content. A file name that contradicts the content is an error. So is a
compressed file that is truncated or has extra data at the end.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import zstandard

from text.artifacts import check_readable
from text.datasets.formats.places import format_place
from text.errors import DataError
from text.progress import Progress

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_MAGIC = {"gzip": re.compile(rb"\x1f\x8b"), "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")}
"""Magic numbers. zstd has two: the second marks a skippable frame, with which pzstd and seekable files start."""
_ENDINGS = {".gz": "gzip", ".zst": "zstd"}
COMPRESSIONS = ("", *_ENDINGS)
"""Endings that compression adds to a name. Files that differ only in these are copies, and the first one is read."""
_HEAD_BYTES = 4096
_READ_BYTES = 1 << 20
_PACKED_BYTES = {"gzip": 1 << 16, "zstd": 1 << 10}
"""Compressed bytes to read at once. They can decompress to 1,000 times (gzip) or 30,000 times (zstd) this size."""
_MAX_RATIO = 256
"""Largest accepted ratio of decompressed to compressed bytes. JSON compresses less than a hundredfold."""
_FREE_BYTES = 1 << 26
"""Decompressed bytes below which the ratio is not checked."""


class Form(NamedTuple):
    """Compression and JSON layout of a file."""

    compression: str | None
    """gzip, zstd or None."""
    is_array: bool
    """True for one JSON array, False for JSONL."""


def detect_form(path: str) -> Form:
    """Detect compression and JSON layout from the start of a file.

    Raises:
        DataError: The file is not UTF-8, or the ending of its name contradicts its compression.
        UsageError: The path is a folder, pipe, device, socket or broken symbolic link.
        OSError: The file cannot be read.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        check_readable(path)  # This raises. It does not open the path, because opening a pipe would block.
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    compression = next((name for name, magic in _MAGIC.items() if magic.match(head)), None)
    ending = os.path.splitext(path)[1]
    named = _ENDINGS.get(ending)
    if compression != named and head:
        found = f"compressed by {compression}" if compression else "not compressed"
        name = f"ends in {ending}" if named else "does not end in .gz or .zst"
        raise DataError(f"{format_place(path, 1, 0)}: file is {found}, but its name {name}. Rename the file.")
    if compression:
        head = next(_decompress(path, compression, None), b"")[:_HEAD_BYTES]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" in head[:4] and any(head[:4])):
        raise DataError(f"{format_place(path, 1, 0)}: not UTF-8 (it looks like UTF-16 or UTF-32). Convert it to UTF-8.")
    return Form(compression, head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["))


def read_chunks(path: str, form: Form, progress: Progress | None = None) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks. A byte order mark is kept.

    Args:
        path: Path of the file.
        form: Form of the file, from ``detect_form``.
        progress: Progress bar to advance by the bytes read from the file, before decompression.

    Raises:
        DataError: A compressed file is truncated, damaged, has extra data at the end, or decompresses to more than 256
            times its size.
        OSError: The file cannot be read.
    """
    if form.compression:
        return _decompress(path, form.compression, progress)
    return _read_blocks(path, _READ_BYTES, progress)


def _read_blocks(path: str, size: int, progress: Progress | None) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(size):
            if progress is not None:
                progress.update(len(chunk))
            yield chunk


def _decompress(path: str, compression: str, progress: Progress | None) -> Iterator[bytes]:
    """Yield the decompressed bytes. Both formats allow several compressed frames in one file."""
    decompressor, place, size = None, 0, 0
    # All frames share this object, because creating it takes longer than decompressing a small frame.
    zstd = zstandard.ZstdDecompressor()
    for chunk in _read_blocks(path, _PACKED_BYTES[compression], progress):
        rest = chunk
        while rest:
            decompressor = decompressor or (
                zlib.decompressobj(wbits=31) if compression == "gzip" else zstd.decompressobj()
            )
            try:
                unpacked = decompressor.decompress(rest)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DataError(
                    f"{format_place(path, 1, place)}: {compression} data is damaged, or the file has extra data, after "
                    f"this byte ({error}). Compress the file again, or download it again."
                ) from None
            size += len(unpacked)
            if size > max(_FREE_BYTES, _MAX_RATIO * (place + len(chunk))):
                raise DataError(
                    f"{format_place(path, 1, place)}: decompresses to more than {_MAX_RATIO} times its size, so it may "
                    f"fill the disk. If the file is right, decompress it yourself and pass the decompressed file."
                )
            if unpacked:
                yield unpacked
            rest = decompressor.unused_data if decompressor.eof else b""
            decompressor = None if decompressor.eof else decompressor
        place += len(chunk)
    if decompressor is not None:
        raise DataError(
            f"{format_place(path, 1, place)}: {compression} data ends too early at this byte. Download the file again."
        )
