"""Tests of the check of the Host header."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import pytest

from test.helpers import write_collection
from test.serving.helpers import Page, exchange, run_server
from text.errors import UsageError
from text.retrieval import Hits
from text.serving import Search
from text.serving.hosts import read_host_names


@pytest.fixture(scope="module")
def asked() -> list[str]:
    return []


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, asked: list[str]) -> Search:
    def find(questions: Sequence[str], k: int) -> list[Hits]:
        asked.extend(questions)
        return [Hits(["p0"], [0.0]) for _ in questions]

    path = tmp_path_factory.mktemp("hosts") / "corpus.jsonl"
    return Search("some", find, write_collection(path, ["p0"], ["an oak"]))


@pytest.fixture(scope="module")
def port(search: Search) -> Iterator[int]:
    with run_server([search], allowed_hosts=read_host_names(["Search.example", "FE80::0:1%eth0"])) as port:
        yield port


def get_status(port: int, *fields: bytes, path: bytes = b"/search?q=oak", version: bytes = b"1.1") -> int:
    """Send a question with these header fields and return the status."""
    head = [b"GET " + path + b" HTTP/" + version, *fields, b"Connection: close", b"", b""]
    reply = exchange(port, b"\r\n".join(head))
    assert reply.headers["Content-Security-Policy"]
    assert reply.headers["Location"] is None
    return reply.status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:1",
        "127.0.0.1",
        "127.0.0.1:65535",
        "[::1]",
        "[::1]:8000",
        "[0:0::1]:80",
        "search.example:443",
        "[fe80::1]",
    ],
)
def test_allowed_hosts_are_answered_with_any_port(port: int, host: str) -> None:
    assert get_status(port, f"Host: {host}".encode()) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil.search.example",
        "localhost.",
        "localhost:",
        "localhost:a",
        "localhost:123456",
        "localhost:80:80",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost, evil.example",
        "localhost evil.example",
        "localhost/",
        "http://localhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "[::1",
        "::1",
        "[127.0.0.1]",
        "[::1%25lo]",
        "[::2]",
        "",
        "*",
        "%6cocalhost",
        "l\u00f6calhost",
    ],
)
def test_other_hosts_are_refused_without_a_search(port: int, asked: list[str], host: str) -> None:
    asked.clear()
    field = b"Host: " + host.encode()
    assert [
        get_status(port, field),
        get_status(port, field, path=b"/?q=oak"),
        get_status(port, field, path=b"/health"),
    ] == [400] * 3
    assert get_status(port, field, path=b"/search/?q=oak") == 400
    assert get_status(port, field, b"X-Forwarded-Host: localhost", b"Forwarded: host=localhost") == 400
    assert asked == []


def test_the_host_header_must_occur_once(port: int) -> None:
    assert [
        get_status(port),
        get_status(port, version=b"1.0"),
        get_status(port, b"Host: localhost", b"Host: localhost"),
    ] == [400] * 3


def test_no_path_redirects(port: int) -> None:
    assert [
        get_status(port, b"Host: localhost", path=path) for path in (b"/search/", b"//evil.example", b"/docs/")
    ] == [404] * 3


def test_the_error_is_html_on_the_page_and_json_elsewhere(port: int) -> None:
    head = b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    error = exchange(port, b"GET /health" + head).error
    page = exchange(port, b"GET /?q=%3Cb%3E" + head)
    assert page.headers["Content-Type"].startswith("text/html")
    assert error in Page(page.text).texts and "<b>" not in page.text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux listens on 127.0.0.2")
def test_a_wildcard_address_allows_the_local_address_of_the_connection(search: Search) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.2\r\nConnection: close\r\n\r\n"
    with run_server([search], host="0.0.0.0", allowed_hosts=read_host_names(["0.0.0.0"])) as port:
        assert exchange(port, request, host="127.0.0.2").status == 200
        assert exchange(port, request).status == 400
        assert get_status(port, b"Host: 0.0.0.0") == 200


@pytest.mark.parametrize(
    "name", ["", "a b", "http://a", "a:80", "ab:80", "[::1]:80", "a/b", "*", "b\u00fccher.example", "a@b"]
)
def test_invalid_host_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        read_host_names(["search.example", name])
