"""Lines of a file that comes piece by piece: one after another, none longer than a row may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from text.datasets.formats.compressed_files import BYTE_ORDER_MARK
from text.datasets.formats.places import format_place
from text.errors import DataError

MAX_ROW_BYTES = 1 << 24
"""The longest row that is read; what is longer is no record of the DPR format."""


def read_lines(chunks: Iterable[bytes], path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their newlines, and the bytes at which they start. A byte order mark is passed over.

    Raises:
        DataError: A line is longer than 16 MiB.
    """
    offset, number = 0, 1
    for line in _split(chunks):
        if len(line) > MAX_ROW_BYTES:
            raise explain_long_row(path, number, offset)
        mark = len(BYTE_ORDER_MARK) if offset == 0 and line.startswith(BYTE_ORDER_MARK) else 0
        yield offset + mark, line[mark:]
        offset, number = offset + len(line), number + 1


def refuse_long_rows(chunks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Yield the chunks of a file, up to a row that is longer than a chunk and than 16 MiB.

    Raises:
        DataError: There is such a row.
    """
    number, start, place = 1, 0, 0  # of the row that is not complete, and of the chunk
    for chunk in chunks:
        first = chunk.find(b"\n") + 1
        if place + (first or len(chunk)) - start > MAX_ROW_BYTES:
            raise explain_long_row(path, number, start)
        if first:
            number, start = number + chunk.count(b"\n"), place + chunk.rfind(b"\n") + 1
        place += len(chunk)
        yield chunk


def explain_long_row(path: str, number: int, offset: int) -> DataError:
    """Return the error about a row that is too long, with its 1-based number and its first byte."""
    return DataError(f"{format_place(path, number, offset)} row: longer than 16 MiB. Write one record a line.")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their newlines; of one that is too long, only as much as shows it."""
    rest = bytearray()  # a line that lies in several chunks
    for chunk in chunks:
        start = 0
        while end := chunk.find(b"\n", start) + 1:
            rest += chunk[start:end]
            yield bytes(rest)
            rest.clear()
            start = end
        rest += chunk[start:]
        if len(rest) > MAX_ROW_BYTES:
            break
    if rest:
        yield bytes(rest)
