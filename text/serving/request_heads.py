"""Strict check of a request head (request line and header fields) before the HTTP parser reads it.

Requests have no body, so a head is a whole request. The check is stricter than most parsers: a proxy and the server
must agree on where a request ends (request smuggling, RFC 9112, section 11.2).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

MAX_FIELDS = 100
"""Maximum number of header fields."""
MAX_PARAMETERS = 100
"""Maximum number of query parameters."""
HEAD_END = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_REQUEST_LINE = re.compile(_TOKEN + rb"{1,32} (?P<target>/[!-~]*) HTTP/1\.[01]")
_FIELD = re.compile(rb"(?P<name>" + _TOKEN + rb"+):(?P<value>[\t -~\x80-\xff]*)")


class Fault(NamedTuple):
    """Reason to refuse a request, with its HTTP status."""

    status: int
    message: str


def find_fault(received: bytes, max_bytes: int) -> Fault | None:
    """Return the first fault of a complete or partial request head, or None.

    Args:
        received: Bytes received so far. A complete head ends with an empty line.
        max_bytes: Maximum length of a head, in bytes.
    """
    if len(received) > max_bytes:
        is_target = b"\r\n" not in received[:max_bytes]
        return Fault(414 if is_target else 431, f"The request head is longer than {max_bytes} bytes.")
    if (received and not re.match(_TOKEN, received)) or received.count(b"\n") != received.count(b"\r\n"):
        return Fault(400, "Not an HTTP request.")
    if received.count(b"\n") > 2 + MAX_FIELDS:  # the request line and the empty line
        return Fault(431, f"The request has more than {MAX_FIELDS} header fields.")
    return _find_head_fault(received) if received.endswith(HEAD_END) else None


def _find_head_fault(head: bytes) -> Fault | None:
    request_line, *lines = head.removesuffix(HEAD_END).split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(request_line)
    if request is None:
        return Fault(400, "The request line must be METHOD /PATH HTTP/1.1.")
    if request["target"].count(b"&") >= MAX_PARAMETERS:
        return Fault(400, f"The request has more than {MAX_PARAMETERS} parameters.")
    fields = [_FIELD.fullmatch(line) for line in lines]
    if None in fields:
        return Fault(400, f"Header field {1 + fields.index(None)} must be NAME: VALUE.")
    return _find_field_fault(
        [(each["name"].lower(), each["value"].strip(b" \t")) for each in fields if each is not None]
    )


def _find_field_fault(fields: list[tuple[bytes, bytes]]) -> Fault | None:
    counts, values = Counter(name for name, _ in fields), dict(fields)
    if counts[b"host"] != 1:
        return Fault(400, f"The request has {counts[b'host']} Host header fields. Send one.")
    if counts[b"content-length"] + counts[b"transfer-encoding"] > 1:
        return Fault(400, "The request gives the length of its body twice.")
    length = values.get(b"content-length", b"0")
    if not re.fullmatch(rb"[0-9]{1,19}", length):
        return Fault(400, "Content-Length is not a number.")
    if int(length) > 0 or b"transfer-encoding" in values:
        return Fault(413, "The request has a body. Send it without one.")
    return None
