"""Splitting of a stream of chunks into lines, with a limit on the length of a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from text.datasets.formats.compressed_files import BYTE_ORDER_MARK
from text.datasets.formats.places import format_place
from text.errors import DataError

MAX_ROW_BYTES = 1 << 24
"""Maximum length of a row. A longer line is not a record in the DPR format."""


def read_lines(chunks: Iterable[bytes], path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the byte offset of each line, and the line with its newline. A byte order mark is skipped.

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


def check_row_lengths(chunks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Yield the chunks of a file unchanged, and check that no row spans chunks and exceeds 16 MiB.

    Raises:
        DataError: A row is too long.
    """
    number, start, place = 1, 0, 0  # Number and start of the incomplete row, and start of the chunk.
    for chunk in chunks:
        first = chunk.find(b"\n") + 1
        if place + (first or len(chunk)) - start > MAX_ROW_BYTES:
            raise explain_long_row(path, number, start)
        if first:
            number, start = number + chunk.count(b"\n"), place + chunk.rfind(b"\n") + 1
        place += len(chunk)
        yield chunk


def explain_long_row(path: str, number: int, offset: int) -> DataError:
    """Return the error for a row that is too long, with its 1-based number and first byte."""
    return DataError(f"{format_place(path, number, offset)} row: longer than 16 MiB. Write one record per line.")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines with their newlines. Reading stops within a line that is too long."""
    rest = bytearray()  # The part of the current line that earlier chunks hold.
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
