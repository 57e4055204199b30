"""Writing rows as JSON lines, with errors that give the place of the row that was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import orjson

from text.datasets.formats.values import FieldError, split_reason
from text.datasets.forms.records import Record
from text.errors import DataError


class Source(NamedTuple):
    """Rows of one file, or of one split of a folder with judgments."""

    rows: Iterable[Record]
    describe_place: Callable[[str], str]
    """Return the place of a field of the current row."""


def write_rows(
    sources: Iterable[Source],
    write: Callable[[bytes], Any],
    convert: Callable[[Record], Iterable[Record]] | None = None,
) -> int:
    """Write the rows of some sources, and return the number of lines.

    Args:
        sources: The rows.
        write: Function that writes a line.
        convert: Function that returns the records to write for a row. By default, the row itself.

    Raises:
        DataError: A row cannot be read or converted.
    """
    num_lines = 0
    for source in sources:
        try:
            for row in source.rows:
                for record in (row,) if convert is None else convert(row):
                    write(_dump(record))
                    num_lines += 1
        except FieldError as error:
            field = split_reason(str(error)).field
            raise DataError(f"{source.describe_place(field)} {error}.") from None
    return num_lines


def format_counts(counts: Counter[str]) -> str:
    """Return counts as the end of a printed line, or an empty text without counts.

    >>> format_counts(Counter({"rows read": 3, "blank lines": 0}))
    '; 3 rows read'
    """
    return "".join(f"; {count} {reason}" for reason, count in counts.items() if count)


def _dump(record: Record) -> bytes:
    """Return a record as a line of JSON.

    Raises:
        FieldError: A field has a value that JSON cannot hold, such as an image.
    """
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        for name, value in record.items():
            try:
                orjson.dumps(value)
            except TypeError:
                raise FieldError(f"{name}: {error}. Leave this column out") from None
        raise
