"""The elements of one JSON array that comes piece by piece, at the speed of searching bytes.

The elements of a file are alike: what stood between two of them (``]\\n    },\\n    {\\n        "question"``) most
likely ends the next one, too. It is searched for, and the parse of what lies before it is the proof: no
proper beginning of a JSON object is an object itself. Where this fails, a scan that knows what a
string is finds the end. What an element means is left to the caller.
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
from text.datasets.formats.strict_json import explain, is_beginning, parse_object, two_parsers
from text.errors import DataError

MAX_ELEMENT_BYTES = 1 << 24
"""The longest element that is read, with the white space before it. It is a row of 16 MiB when it is converted."""

_BLANKS = re.compile(rb"[ \t\r\n]*")
_BRACE_OR_QUOTE = re.compile(rb'[{}"]')
_IN_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_SCAN_BYTES = 1 << 16  # _IN_STRING remembers every escape of what it matches: no more than this at once
_JOINT_END = re.compile(rb'[\]}"]?[ \t\r\n]*\}\Z')
_JOINT_START = re.compile(rb'[ \t\r\n]*,[ \t\r\n]*\{[ \t\r\n]*(?:"[^"\\]*")?')
_JOINT_BYTES = 1 << 10
_HEAD_BYTES = 1 << 20
_SHORT_BYTES = 1 << 11


class Element(NamedTuple):
    """An element of an array."""

    byte: int
    """Where it starts in the file."""
    line: int
    """Likewise, counted from 1."""
    content: bytes
    num_newlines: int
    """Newlines among its bytes."""
    record: simdjson.Object
    """What it means; valid until the next element is asked for."""


def elements(chunks: Iterable[bytes], path: str) -> Iterator[Element]:
    """The elements of a JSON array of objects, in order.

    In memory are one element, of 16 MiB at most, what is read ahead of it, and one chunk.

    Args:
        chunks: The bytes of the array, in UTF-8, with or without a byte order mark.
        path: For messages.

    Raises:
        DataError: It is not one whole array of objects; with line, byte and element: ``path:7 (byte 93) [2]``.
    """
    array = _Array(chunks, path)
    parsers = two_parsers()
    array.begin()
    while array.has_next():
        yield array.take(next(parsers))


class _Array:
    """What was read of an array and not given out yet."""

    def __init__(self, chunks: Iterable[bytes], path: str) -> None:
        self.place = 0
        """Where ``_data`` starts."""
        self._line = 1  # likewise
        self._data = bytearray()
        self._chunks = iter(chunks)
        self._path = path
        self._number = 0  # of elements given out, so of the next one, too
        self._size = 0  # of the element before
        self._end = 0  # likewise, its end in the file
        self._joint = b""  # what most likely ends an element, with the beginning of the next one
        self._joint_end = 0  # how much of it is the element's

    def begin(self) -> None:
        """Goes into the array."""
        if self._starts_with(BYTE_ORDER_MARK):
            self._pass(len(BYTE_ORDER_MARK))
        if self._next_byte() != b"[":
            found = "an object" if self._data.startswith(b"{") else "no JSON array"
            raise DataError(f"{self._where()}: file is {found}; expected a JSON array of objects")
        self._pass(1)

    def has_next(self) -> bool:
        """Goes to the next element, or to the end of the file."""
        byte = self._next_byte()
        if byte == b"]":
            self._pass(1)
            if self._next_byte():
                raise DataError(f"{self._where()}: extra data after the array; expected the end of the file")
            return False
        if self._number:
            if byte != b",":
                raise self._refuse(_CUT if not byte else 'no comma after the element before; expected "," or "]"')
            self._pass(1)
            byte = self._next_byte()
        if byte != b"{":
            raise self._refuse(self._no_object(byte))
        return True

    def take(self, parser: simdjson.Parser) -> Element:
        """The element that starts here; goes behind it."""
        content, record = self._predicted(parser) or self._scanned(parser)
        line, start = self._line, self.place
        self._size = len(content)
        if start + self._size - self._end >= MAX_ELEMENT_BYTES:
            raise self._refuse(_TOO_LONG)
        self._number += 1
        self._pass(self._size)
        self._end = self.place
        return Element(start, line, content, self._line - line, record)

    def _predicted(self, parser: simdjson.Parser) -> tuple[bytes, simdjson.Object] | None:
        """The element, if it ends as expected."""
        end = self._find_joint()
        element = bytes(memoryview(self._data)[:end])
        try:
            return element, parse_object(element, parser)
        except ValueError:
            return None

    def _find_joint(self) -> int:
        """Where the element ends, as it seems; 0 if the joint is not there."""
        # Not farther than some times the element before, so that all searches together take linear time.
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

    def _scanned(self, parser: simdjson.Parser) -> tuple[bytes, simdjson.Object]:
        """The element, whatever it ends with."""
        scan = _Scan()
        while not (end := scan.end(self._data)):
            if len(self._data) > MAX_ELEMENT_BYTES or not self._read():
                raise self._explain_endless()
        if end > MAX_ELEMENT_BYTES:
            raise self._explain_endless()
        element = bytes(memoryview(self._data)[:end])
        try:
            record = parse_row_object(element, parser, Counter())
        except ValueError:
            raise self._explain(element) from None
        self._learn(end)
        return element, record

    def _learn(self, end: int) -> None:
        """Remembers how this element ends; nothing if it is the last one, or the next was not read yet."""
        before = _JOINT_END.search(self._data[max(0, end - _JOINT_BYTES) : end])
        after = _JOINT_START.match(self._data, end, end + _JOINT_BYTES)
        if before and after:
            self._joint, self._joint_end = before.group() + after.group(), len(before.group())

    def _explain_endless(self) -> DataError:
        """An element without an end is cut, too long, or has an error that hides its end, such as a lone quote."""
        # An error near the start, as in any record that is not huge, is told from mere length by the head alone.
        is_long = len(self._data) > MAX_ELEMENT_BYTES
        text = bytes(memoryview(self._data)[: _HEAD_BYTES if is_long else len(self._data)])
        if is_long and is_beginning(mask_repairs(text)):
            return self._refuse(_TOO_LONG)
        return self._explain(text, may_be_cut=True)

    def _explain(self, text: bytes, *, may_be_cut: bool = False) -> DataError:
        line, byte = self._line, self.place
        return explain(mask_repairs(text), self._path, line, byte, may_be_cut=may_be_cut, element=self._number)

    def _no_object(self, byte: bytes) -> str:
        """What stands in the place of an element."""
        if not byte:
            return _CUT
        if byte == b"]":
            return 'comma before "]"; expected an object after the comma'
        if self._starts_with(BYTE_ORDER_MARK):
            return "byte order mark inside the file; expected one at byte 0 only"
        for start, kind in _KINDS.items():
            if self._starts_with(start):
                return f"element is {kind}; expected an object"
        return f"invalid JSON (unexpected {str(byte)[1:]}); expected an object"

    def _next_byte(self) -> bytes:
        """Passes over white space; nothing at the end of the file."""
        while True:
            # Most often there is none, and a comparison is quicker than a search.
            if self._data[:1].isspace():
                if self.place - self._end > MAX_ELEMENT_BYTES:
                    raise self._refuse("more than 16 MiB of white space. Remove it")
                self._pass(_BLANKS.match(self._data).end())  # pyright: ignore[reportOptionalMemberAccess]
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

    def _pass(self, count: int) -> None:
        self._line += self._count_newlines(count)
        del self._data[:count]  # moves no bytes: a bytearray remembers where it starts
        self.place += count

    def _count_newlines(self, size: int) -> int:
        """In the next bytes; numpy counts a long element several times as fast as Python."""
        if size < _SHORT_BYTES:
            return self._data.count(b"\n", 0, size)
        view = np.frombuffer(self._data, dtype=np.uint8, count=size)
        count = int(np.count_nonzero(view == ord("\n")))
        del view  # a bytearray that is looked into cannot be cut
        return count

    def _where(self) -> str:
        return format_place(self._path, self._line, self.place)

    def _refuse(self, problem: str) -> DataError:
        return DataError(f"{self._where()} [{self._number}]: {problem}")


_TOO_LONG = "element is longer than 16 MiB, with the white space before it; expected a record in the DPR format"
_CUT = 'file ends inside the array; expected the rest of it, and "]"'
_KINDS = {
    b'"': "a string",
    b"[": "an array",
    b"null": "null",
    b"true": "a boolean",
    b"false": "a boolean",
    b"-": "a number",
} | {b"%d" % digit: "a number" for digit in range(10)}


class _Scan:
    """Looks for the brace that closes the object with which some bytes start; more bytes may be added in between."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False

    def end(self, data: bytearray) -> int:
        """Where the object ends; 0 if that is not among the bytes."""
        while self._at < len(data):
            if self._in_string:
                if not self._pass_string(data):
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

    def _pass_string(self, data: bytearray) -> bool:
        """Goes forward in a string, or behind it; False if not a byte: the data ends within an escape."""
        start = self._at
        self._at = _IN_STRING.match(data, start, start + _SCAN_BYTES).end()  # pyright: ignore[reportOptionalMemberAccess]
        if data[self._at : self._at + 1] == b'"':
            self._at += 1
            self._in_string = False
        return self._at > start
