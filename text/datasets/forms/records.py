"""Reading the records of JSON lines and JSON arrays as dictionaries, with their places for error messages.

orjson parses several times faster into dictionaries than simdjson, and a conversion needs every field. The rules for
repairs and repeated keys are those of ``text/datasets/formats``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import orjson

from text.datasets.formats.compressed_files import Form, read_chunks
from text.datasets.formats.json_array import read_elements
from text.datasets.formats.lines import read_lines
from text.datasets.formats.places import find_field, format_place
from text.datasets.formats.repair import mask_repairs, repair_row
from text.datasets.formats.strict_json import explain_invalid_json
from text.datasets.formats.values import FieldError, check_no_repeated_key, split_reason
from text.errors import DataError
from text.progress import Progress

Record = dict[str, Any]
"""A row of a file, by field. A row in the DPR format is a record, too."""


class Records(Protocol):
    """Records of one file, in order."""

    def __iter__(self) -> Iterator[Record]:
        """Yield the records."""
        ...

    def describe_place(self, field: str) -> str:
        """Return the place of a field of the record that was yielded last."""
        ...


class JsonLines:
    """Records of a JSONL file, plain or compressed.

    Args:
        path: The file.
        form: Form of the file, from ``detect_form``.
        counts: Number of repaired rows and blank lines, by kind. It is updated.
        progress: Progress bar to advance by the bytes read.
    """

    def __init__(self, path: str, form: Form, counts: Counter[str], progress: Progress | None = None) -> None:
        self._path, self._form, self._counts, self._progress = path, form, counts, progress
        self._number = self._offset = 0

    def __iter__(self) -> Iterator[Record]:
        """Yield the record of each line that is not blank.

        Raises:
            DataError: A line is not one JSON object, or a key occurs twice in it.
        """
        chunks = read_chunks(self._path, self._form, self._progress)
        for self._number, (self._offset, line) in enumerate(read_lines(chunks, self._path), start=1):  # noqa: B020
            if line.isspace():
                self._counts["blank lines"] += 1
                continue
            with explain_fields(self):
                try:
                    record = parse_record(line, self._counts)
                except ValueError as error:
                    raise _explain(error, line, self._path, self._number, self._offset, None) from None
            yield record

    def describe_place(self, field: str) -> str:
        """Return the place of the line that was read last."""
        return format_place(self._path, self._number, self._offset)


class JsonArray:
    """Records of a file with one JSON array of objects. Arguments are as for ``JsonLines``."""

    def __init__(self, path: str, form: Form, counts: Counter[str], progress: Progress | None = None) -> None:
        self._path, self._form, self._counts, self._progress = path, form, counts, progress
        self._content, self._line, self._byte = b"", 1, 0

    def __iter__(self) -> Iterator[Record]:
        """Yield the record of each element.

        Raises:
            DataError: The file is not one JSON array of objects, or a key occurs twice in an object.
        """
        chunks = read_chunks(self._path, self._form, self._progress)
        for number, element in enumerate(read_elements(chunks, self._path)):
            self._content, self._line, self._byte = element.content, element.line, element.byte
            with explain_fields(self):
                try:
                    record = parse_record(element.content, self._counts)
                except ValueError as error:
                    raise _explain(error, self._content, self._path, self._line, self._byte, number) from None
            yield record

    def describe_place(self, field: str) -> str:
        """Return the place of a field in the element that was read last."""
        byte = find_field(self._content, field)
        return format_place(self._path, self._line + self._content.count(b"\n", 0, byte), self._byte + byte)


@contextmanager
def explain_fields(records: Records) -> Iterator[None]:
    """Turn the FieldError of a block into a DataError with the place of the current record.

    Raises:
        DataError: The block raised a FieldError.
    """
    try:
        yield
    except FieldError as error:
        raise DataError(f"{records.describe_place(split_reason(str(error)).field)} {error}.") from None


def parse_record(line: bytes, counts: Counter[str]) -> Record:
    """Parse one JSON object, and repair it if needed.

    Args:
        line: Bytes of the object.
        counts: Number of repaired rows by kind of repair. It is updated.

    Raises:
        FieldError: A key occurs twice in one object.
        ValueError: The line is not one JSON object, even after repair.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        line, kinds = repair_row(line)
        if not kinds:
            raise
        record = orjson.loads(line)
        counts.update(kinds)
    if type(record) is not dict:
        raise ValueError("not an object")
    if not _has_keys(line, _count_keys(record)):
        _check_repeated_keys(line)
    return record


def _has_keys(line: bytes, num_keys: int) -> bool:
    """Return whether a line certainly has this number of keys, counted by the marks after them.

    The counts are ordered by speed: colons, colons after quotes, and colons after quotes that are not escaped.
    """
    if len(line) - len(line.replace(b":", b"")) == num_keys:  # This is faster than bytes.count.
        return True
    text = np.frombuffer(line, np.uint8)
    num_marks = int(np.count_nonzero((text[:-1] == ord('"')) & (text[1:] == ord(":"))))
    return num_marks == num_keys or num_marks - line.count(b'\\":') == num_keys


def _count_keys(record: Record) -> int:
    """Return the number of keys of a record and of the objects in its lists. Deeper objects are not counted."""
    count = len(record)
    for value in record.values():
        if type(value) is list and value and type(value[0]) is dict:
            try:
                count += sum(map(len, value))
            except TypeError:  # A list of unlike values. The exact check follows, because the count is too low.
                return -1
    return count


def _check_repeated_keys(line: bytes) -> None:
    """Check that no key occurs twice in an object of a line, including inner objects.

    The number of keys differs from that of quotes before colons if a key is repeated, if a record has deeper objects,
    or if a string begins with a colon. Only then is this slow check necessary.
    """

    def check(pairs: list[tuple[str, Any]]) -> None:
        check_no_repeated_key([key for key, _ in pairs])

    try:
        json.loads(line, object_pairs_hook=check)
    except RecursionError:
        raise FieldError("row: nested too deeply. Write a flat object") from None


def _explain(
    error: ValueError, line: bytes, path: str, number: int, offset: int, element: int | None
) -> ValueError | DataError:
    if isinstance(error, FieldError):
        return error
    is_cut = element is None and not line.endswith(b"\n")
    return explain_invalid_json(mask_repairs(line), path, number, offset, may_be_cut=is_cut, element=element)
