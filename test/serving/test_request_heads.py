"""Tests of the check of request heads, by hand."""

from __future__ import annotations

import pytest

from text.serving.request_heads import MAX_FIELDS, MAX_PARAMETERS, find_fault

GOOD = b"GET /search?q=oak&k=3 HTTP/1.1\r\nHost: localhost:8000\r\nX-Empty:\r\nX-Name: caf\xe9 au lait \r\n\r\n"


def get_fault_status(head: bytes, max_bytes: int = 4096) -> int | None:
    fault = find_fault(head, max_bytes)
    return fault and fault.status


def make_head(*fields: bytes, request_line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([request_line, b"Host: localhost", *fields, b"", b""])


def test_a_valid_head_and_its_prefixes_have_no_fault() -> None:
    assert [get_fault_status(GOOD[:length]) for length in range(len(GOOD) + 1)] == [None] * (len(GOOD) + 1)


@pytest.mark.parametrize(
    "received",
    [
        b"\x16\x03\x01\x02\x00",  # TLS
        b"\r\n",
        b" GET",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nHost: localhost\n",
    ],
)
def test_other_protocols_are_refused_at_their_first_bytes(received: bytes) -> None:
    assert get_fault_status(received) == 400


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /",
        b"GET",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/2.0",
        b"GET / http/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /\x1b[2J HTTP/1.1",
        b"GET http://evil.example/ HTTP/1.1",
        b"GET search HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"GET / HTTP/1.1\rX: a",
    ],
)
def test_an_invalid_request_line_is_refused(request_line: bytes) -> None:
    assert get_fault_status(make_head(request_line=request_line)) == 400


@pytest.mark.parametrize(
    "field", [b"X", b"X : a", b" X: a", b": a", b"X: a\0b", b"X: a\rb", b"X: \x1b[2J", b"X\xe9: a"]
)
def test_a_malformed_field_is_refused(field: bytes) -> None:
    assert get_fault_status(make_head(field)) == 400
    assert get_fault_status(make_head(b"A: b", field)) == 400  # " X: a" is then the second line of a folded field.


@pytest.mark.parametrize("hosts", [[], [b"Host: a", b"Host: a"], [b"Host: a", b"hOST: b"]])
def test_the_host_header_must_occur_once(hosts: list[bytes]) -> None:
    assert get_fault_status(b"\r\n".join([b"GET / HTTP/1.0", *hosts, b"", b""])) == 400


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([b"Content-Length: 0"], None),
        ([b"Content-Length: 1"], 413),
        ([b"Content-Length: 9999999999999999999"], 413),
        ([b"Transfer-Encoding: chunked"], 413),
        ([b"Transfer-Encoding: xchunked"], 413),
        ([b"Content-Length: 0", b"Content-Length: 0"], 400),
        ([b"Content-Length: 0", b"content-length: 1"], 400),
        ([b"Content-Length: 0, 0"], 400),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], 400),
        ([b"Content-Length: +0"], 400),
        ([b"Content-Length: 0x0"], 400),
        ([b"Content-Length: -1"], 400),
        ([b"Content-Length:"], 400),
        ([b"Content-Length: \xb2"], 400),
        ([b"Content-Length: " + b"0" * 20], 400),
    ],
)
def test_a_request_with_a_body_or_two_lengths_is_refused(fields: list[bytes], status: int | None) -> None:
    assert get_fault_status(make_head(*fields)) == status


def test_head_size_fields_and_parameters_have_limits() -> None:
    assert get_fault_status(GOOD, len(GOOD)) is None
    assert get_fault_status(GOOD, len(GOOD) - 1) == 431
    assert get_fault_status(b"GET /" + b"a" * 4096) == 414
    fields = [b"X: a"] * MAX_FIELDS
    assert get_fault_status(make_head(*fields[1:])) is None
    assert get_fault_status(make_head(*fields)) == 431
    assert get_fault_status(make_head(*fields)[:-2]) is None
    assert get_fault_status(make_head(*fields, b"X")[:-2]) == 431  # without the empty line at the end
    line = b"GET /?" + b"&".join([b"a"] * MAX_PARAMETERS)
    assert get_fault_status(make_head(request_line=line + b" HTTP/1.1")) is None
    assert get_fault_status(make_head(request_line=line + b"& HTTP/1.1")) == 400
