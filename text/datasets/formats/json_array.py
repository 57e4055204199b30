r"""Streaming reader for the objects of a JSON array, at the speed of a byte search.

The objects of a file usually look alike. The bytes between two of them, the joint, such as
``]\n    },\n    {\n        "question"``, probably also end the next object. The reader searches for the joint and
parses the bytes before it. Success proves the guess, because no proper prefix of a JSON object is an object itself.
Otherwise a slower scan that tracks strings finds the end. The caller interprets the objects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import simdjson

from text.datasets.formats.compressed_files import BYTE_ORDER_MARK
from text.datasets.formats.places import format_place
from text.datasets.formats.repair import mask_repairs, parse_row_object
from text.datasets.formats.strict_json import alternate_parsers, explain_invalid_json, is_incomplete_json, parse_object
from text.errors import DataError

MAX_ELEMENT_BYTES = 1 << 24
"""Maximum length of an element and the white space before it. The converted element is a row of up to 16 MiB."""

_BLANKS = re.compile(rb"[ \t\r\n]*")
_BRACE_OR_QUOTE = re.compile(rb'[{}"]')
_IN_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_SCAN_BYTES = 1 << 16  # Limits the memory of _IN_STRING, which stores a backtracking state per escape.
_JOINT_END = re.compile(rb'[\]}"]?[ \t\r\n]*\}\Z')
_JOINT_START = re.compile(rb'[ \t\r\n]*,[ \t\r\n]*\{[ \t\r\n]*(?:"[^"\\]*")?')
_JOINT_BYTES = 1 << 10
_HEAD_BYTES = 1 << 20
_SHORT_BYTES = 1 << 11


class Element(NamedTuple):
    """One object of an array, with its location."""

    byte: int
    """Byte offset in the file."""
    line: int
    """Line in the file, from 1."""
    content: bytes
    num_newlines: int
    """Number of newlines in ``content``."""
    record: simdjson.Object
    """Parsed object. It is valid until the next element is read."""


def read_elements(chunks: Iterable[bytes], path: str) -> Iterator[Element]:
    """Yield the elements of a JSON array of objects, in order.

    Memory holds one element of at most 16 MiB, the bytes read ahead of it, and one chunk.

    Args:
        chunks: Bytes of the array in UTF-8, with or without a byte order mark.
        path: Path of the file, for error messages.

    Raises:
        DataError: The file is not one complete array of objects. The message starts with line, byte and element:
            ``path:7 (byte 93) [2]``.
    """
    array = _Array(chunks, path)
    parsers = alternate_parsers()
    array.begin()
    while array.has_next():
        yield array.take(next(parsers))


class _Array:
    """Bytes of an array that are read but not yet consumed."""

    def __init__(self, chunks: Iterable[bytes], path: str) -> None:
        self.place = 0
        """Byte offset in the file at which ``_data`` starts."""
        self._line = 1  # Line in the file at which _data starts.
        self._data = bytearray()
        self._chunks = iter(chunks)
        self._path = path
        self._number = 0  # Index of the next element.
        self._size = 0  # Bytes of the previous element.
        self._end = 0  # Byte offset in the file at which the previous element ends.
        self._joint = b""  # Bytes that probably end an element and start the next one.
        self._joint_end = 0  # Number of these bytes that belong to the element.

    def begin(self) -> None:
        """Consume the opening bracket of the array."""
        if self._starts_with(BYTE_ORDER_MARK):
            self._consume(len(BYTE_ORDER_MARK))
        if self._peek_byte() != b"[":
            found = "an object" if self._data.startswith(b"{") else "not a JSON array"
            raise DataError(f"{self._format_place()}: file is {found}; expected a JSON array of objects")
        self._consume(1)

    def has_next(self) -> bool:
        """Advance to the next element and return True, or to the end of the file and return False."""
        byte = self._peek_byte()
        if byte == b"]":
            self._consume(1)
            if self._peek_byte():
                raise DataError(f"{self._format_place()}: extra data after the array. Remove it.")
            return False
        if self._number:
            if byte != b",":
                raise self._build_error(_CUT if not byte else 'no "," or "]" after the previous element')
            self._consume(1)
            byte = self._peek_byte()
        if byte != b"{":
            raise self._build_error(self._describe_wrong_start(byte))
        return True

    def take(self, parser: simdjson.Parser) -> Element:
        """Consume and return the next element."""
        content, record = self._parse_to_joint(parser) or self._parse_by_scan(parser)
        line, start = self._line, self.place
        self._size = len(content)
        if start + self._size - self._end >= MAX_ELEMENT_BYTES:
            raise self._build_error(_TOO_LONG)
        self._number += 1
        self._consume(self._size)
        self._end = self.place
        return Element(start, line, content, self._line - line, record)

    def _parse_to_joint(self, parser: simdjson.Parser) -> tuple[bytes, simdjson.Object] | None:
        """Return the bytes and the object of the next element if the joint ends it, else None."""
        end = self._find_joint()
        element = bytes(memoryview(self._data)[:end])
        try:
            return element, parse_object(element, parser)
        except ValueError:
            return None

    def _find_joint(self) -> int:
        """Return the probable end of the element, or 0 if the joint is not found."""
        # The limit is proportional to the previous element, so that all searches together take linear time.
        limit = min(8 * self._size + _JOINT_BYTES, MAX_ELEMENT_BYTES) if self._joint else 0
        start = 0
        while start < limit:
            found = self._data.find(self._joint, start, limit)
            if found >= 0:
                return found + self._joint_end
            start = max(0, len(self._data) - len(self._joint) + 1)
            if len(self._data) >= limit or not self._read():
                break
        return 0

    def _parse_by_scan(self, parser: simdjson.Parser) -> tuple[bytes, simdjson.Object]:
        """Return the bytes and the object of the next element. Its end is found by counting braces."""
        scan = _BraceScanner()
        while not (end := scan.find_end(self._data)):
            if len(self._data) > MAX_ELEMENT_BYTES or not self._read():
                raise self._explain_endless()
        if end > MAX_ELEMENT_BYTES:
            raise self._explain_endless()
        element = bytes(memoryview(self._data)[:end])
        try:
            record = parse_row_object(element, parser, Counter())
        except ValueError:
            raise self._explain(element) from None
        self._learn_joint(end)
        return element, record

    def _learn_joint(self, end: int) -> None:
        """Store the joint between this element and the next one, if the start of the next one is already read."""
        before = _JOINT_END.search(self._data[max(0, end - _JOINT_BYTES) : end])
        after = _JOINT_START.match(self._data, end, end + _JOINT_BYTES)
        if before and after:
            self._joint, self._joint_end = before.group() + after.group(), len(before.group())

    def _explain_endless(self) -> DataError:
        """Return the error for an element without an end: truncated, too long, or invalid (such as a lone quote)."""
        # The first bytes suffice to tell invalid JSON from a long element, unless the error occurs after them.
        is_long = len(self._data) > MAX_ELEMENT_BYTES
        text = bytes(memoryview(self._data)[: _HEAD_BYTES if is_long else len(self._data)])
        if is_long and is_incomplete_json(mask_repairs(text)):
            return self._build_error(_TOO_LONG)
        return self._explain(text, may_be_cut=True)

    def _explain(self, text: bytes, *, may_be_cut: bool = False) -> DataError:
        line, byte = self._line, self.place
        return explain_invalid_json(
            mask_repairs(text), self._path, line, byte, may_be_cut=may_be_cut, element=self._number
        )

    def _describe_wrong_start(self, byte: bytes) -> str:
        """Return the problem with an element that does not start with a brace."""
        if not byte:
            return _CUT
        if byte == b"]":
            return 'comma before "]". Remove the comma.'
        if self._starts_with(BYTE_ORDER_MARK):
            return "byte order mark inside the file. Remove it; it may only be at byte 0."
        for start, kind in _KINDS.items():
            if self._starts_with(start):
                return f"element is {kind}; expected an object"
        return f"invalid JSON (unexpected {str(byte)[1:]}); expected an object"

    def _peek_byte(self) -> bytes:
        """Consume white space and return the byte after it, or no byte at the end of the file."""
        while True:
            # Usually there is no white space, and this comparison is faster than the regular expression.
            if self._data[:1].isspace():
                if self.place - self._end > MAX_ELEMENT_BYTES:
                    raise self._build_error("more than 16 MiB of white space. Remove it.")
                self._consume(_BLANKS.match(self._data).end())  # pyright: ignore[reportOptionalMemberAccess]
            if self._data or not self._read():
                return bytes(self._data[:1])

    def _starts_with(self, start: bytes) -> bool:
        while len(self._data) < len(start) and self._read():
            pass
        return self._data.startswith(start)

    def _read(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._data += chunk
        return True

    def _consume(self, count: int) -> None:
        self._line += self._count_newlines(count)
        del self._data[:count]  # This copies no bytes: a bytearray keeps an offset to its start.
        self.place += count

    def _count_newlines(self, size: int) -> int:
        """Return the number of newlines in the next bytes. For long elements, NumPy is several times faster."""
        if size < _SHORT_BYTES:
            return self._data.count(b"\n", 0, size)
        view = np.frombuffer(self._data, dtype=np.uint8, count=size)
        count = int(np.count_nonzero(view == ord("\n")))
        del view  # A bytearray cannot shrink while an array views it.
        return count

    def _format_place(self) -> str:
        return format_place(self._path, self._line, self.place)

    def _build_error(self, problem: str) -> DataError:
        return DataError(f"{self._format_place()} [{self._number}]: {problem}")


_TOO_LONG = "element and the white space before it are longer than 16 MiB. Make each element one record."
_CUT = 'file is truncated inside the array: the closing "]" is missing. Restore the file.'
_KINDS = {
    b'"': "a string",
    b"[": "an array",
    b"null": "null",
    b"true": "a boolean",
    b"false": "a boolean",
    b"-": "a number",
} | {b"%d" % digit: "a number" for digit in range(10)}


class _BraceScanner:
    """Search for the brace that closes the object at the start of some bytes. The search continues on added bytes."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False

    def find_end(self, data: bytearray) -> int:
        """Return the end of the object, or 0 if the bytes do not contain it."""
        while self._at < len(data):
            if self._in_string:
                if not self._skip_string(data):
                    return 0
            elif found := _BRACE_OR_QUOTE.search(data, self._at):
                self._at = found.end()
                mark = found.group()
                self._in_string = mark == b'"'
                self._depth += (mark == b"{") - (mark == b"}")
                if self._depth == 0:
                    return self._at
            else:
                self._at = len(data)
        return 0

    def _skip_string(self, data: bytearray) -> bool:
        """Advance inside a string or past its end. Return False if the data ends inside an escape."""
        start = self._at
        self._at = _IN_STRING.match(data, start, start + _SCAN_BYTES).end()  # pyright: ignore[reportOptionalMemberAccess]
        if data[self._at : self._at + 1] == b'"':
            self._at += 1
            self._in_string = False
        return self._at > start
