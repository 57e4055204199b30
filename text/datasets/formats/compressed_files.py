"""Raw files: what form a file has, and its bytes without compression.

The form is read from the content, never taken from the name; a name that says otherwise is an
error. A compressed file that is cut or followed by something else is an error, too.
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
"""The second magic number of zstd is that of a frame to skip, with which pzstd and seekable files begin."""
_ENDINGS = {".gz": "gzip", ".zst": "zstd"}
_HEAD_BYTES = 4096
_READ_BYTES = 1 << 20
_PACKED_BYTES = {"gzip": 1 << 16, "zstd": 1 << 10}
"""Read at once: they can unpack to a thousand times as many, and to thirty thousand times."""
_MAX_RATIO = 256
"""Of the bytes of a file to those that they unpack to. JSON shrinks less than a hundredfold."""
_FREE_BYTES = 1 << 26
"""A file may unpack to so many bytes in any case."""


class Form(NamedTuple):
    """What a file turns out to be."""

    compression: str | None
    """gzip, zstd or None."""
    is_array: bool
    """One JSON array; otherwise JSONL."""


def form_of(path: str) -> Form:
    """Looks at the start of a file.

    Raises:
        DataError: It is not UTF-8, or its name says that it is compressed otherwise than it is.
        UsageError: It is a folder, a pipe, a device, a socket or a symbolic link that leads nowhere.
        OSError: It cannot be read.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        check_readable(path)  # Raises, and does not open it.
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    compression = next((name for name, magic in _MAGIC.items() if magic.match(head)), None)
    named = _ENDINGS.get(os.path.splitext(path)[1])
    if compression != named and head:
        found = f"compressed by {compression}" if compression else "not compressed"
        expected = f"{named}, as its name says" if named else "a name that says so (.gz, .zst)"
        raise DataError(f"{format_place(path, 1, 0)}: file is {found}; expected {expected}")
    if compression:
        head = next(_unpacked(path, compression, None), b"")[:_HEAD_BYTES]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" in head[:4] and any(head[:4])):
        raise DataError(f"{format_place(path, 1, 0)}: not UTF-8 (it looks like UTF-16 or UTF-32); expected UTF-8")
    return Form(compression, head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["))


def read_chunks(path: str, form: Form, progress: Progress | None = None) -> Iterator[bytes]:
    """The bytes of a file, unpacked, piece by piece, with a byte order mark if there is one.

    Args:
        path: The file.
        form: What it is.
        progress: Advanced by the bytes that were read.

    Raises:
        DataError: A compressed file is cut, damaged, followed by something else, or unpacks to more than 256 times its
            size.
        OSError: It cannot be read.
    """
    return _unpacked(path, form.compression, progress) if form.compression else _read(path, _READ_BYTES, progress)


def _read(path: str, size: int, progress: Progress | None) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(size):
            if progress is not None:
                progress.update(len(chunk))
            yield chunk


def _unpacked(path: str, compression: str, progress: Progress | None) -> Iterator[bytes]:
    """Both formats allow several compressed parts one after another."""
    unpacker, place, size = None, 0, 0
    zstd = zstandard.ZstdDecompressor()  # One for all frames: making it takes longer than to unpack a small frame.
    for chunk in _read(path, _PACKED_BYTES[compression], progress):
        rest = chunk
        while rest:
            unpacker = unpacker or (zlib.decompressobj(wbits=31) if compression == "gzip" else zstd.decompressobj())
            try:
                unpacked = unpacker.decompress(rest)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DataError(
                    f"{format_place(path, 1, place)}: {compression} data is damaged, or followed by something else, "
                    f"after this byte ({error}); expected all of it and nothing more"
                ) from None
            size += len(unpacked)
            if size > max(_FREE_BYTES, _MAX_RATIO * (place + len(chunk))):
                raise DataError(
                    f"{format_place(path, 1, place)}: unpacks to more than {_MAX_RATIO} times its size here, so it may "
                    f"fill the disk. If that is right, unpack it yourself and give the unpacked file."
                )
            if unpacked:
                yield unpacked
            rest = unpacker.unused_data if unpacker.eof else b""
            unpacker = None if unpacker.eof else unpacker
        place += len(chunk)
    if unpacker is not None:
        raise DataError(f"{format_place(path, 1, place)}: {compression} data is cut at this byte; expected all of it")
