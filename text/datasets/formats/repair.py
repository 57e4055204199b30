"""Repair of JSON rows with values that RFC 8259 does not allow but whose meaning is clear.

NaN and infinite numbers, which pandas and Python write, are read as missing values. A lone surrogate is read as
U+FFFD, as UTF-8 decoders do. An integer that does not fit into 64 bits is read as a float. Any other invalid JSON
remains an error.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter

from simdjson import Object, Parser

from text.datasets.formats.strict_json import INTEGERS, parse_object

_TOKEN = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"|(?<!-)\bNaN\b|-?\bInfinity\b|-?\b(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\b', re.DOTALL
)
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_SURROGATES = "rows with lone surrogates, read as U+FFFD"
_NOT_FINITE = "rows with NaN or infinite numbers, read as missing"
_LARGE = "rows with integers beyond 64 bits, read as floats"


def parse_row_object(line: bytes | memoryview, parser: Parser, counts: Counter[str]) -> Object:
    """Parse one JSON object, and repair it if needed.

    Args:
        line: Bytes of the object.
        parser: Parser that owns the memory of the returned object.
        counts: Number of repaired rows per kind of repair. It is updated.

    Raises:
        ValueError: The line is not one JSON object, even after repair.
    """
    try:
        return parse_object(line, parser)
    except ValueError:
        repaired, kinds = repair_row(bytes(line))
        if not kinds:
            raise
        record = parse_object(repaired, parser)
        counts.update(kinds)
        return record


def mask_repairs(line: bytes) -> bytes:
    """Return the line with its repairable values masked, so that orjson can read it. All bytes keep their offsets."""
    return repair_row(line, in_place=True)[0]


def repair_row(line: bytes, *, in_place: bool = False) -> tuple[bytes, set[str]]:
    """Return the repaired line and the kinds of repairs made.

    Args:
        line: Bytes of the object.
        in_place: Mask the values that need a repair, so that all bytes keep their offsets.
    """
    kinds: set[str] = set()

    def replace(token: re.Match[bytes]) -> bytes:
        text = token.group()
        if text[:1] == b'"':
            return _ESCAPE.sub(replace_surrogate, text) if b"\\u" in text else text
        number = float(text)
        if text.lstrip(b"-").isdigit() and (len(text) > 20 or int(text) not in INTEGERS):
            kinds.add(_LARGE)
            if math.isfinite(number) and in_place:
                return text
            # An integer never becomes infinite, because infinite numbers are read as missing.
            number = min(max(number, -sys.float_info.max), sys.float_info.max)
            return b"0".ljust(len(text)) if in_place else json.dumps(number).encode()
        if not math.isfinite(number):
            kinds.add(_NOT_FINITE)
            return b"0".ljust(len(text)) if in_place else b"null"
        return text

    def replace_surrogate(escape: re.Match[bytes]) -> bytes:
        if escape[1] is None:
            return escape.group()
        kinds.add(_SURROGATES)
        return b"\\ufffd"

    return _TOKEN.sub(replace, line), kinds
