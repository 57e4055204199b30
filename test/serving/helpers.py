"""Helpers for tests of the server: a model, passages with hostile texts, a server on a free port, HTTP clients."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email import message_from_bytes
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from test.helpers import save_model, texts
from text.retrieval import encode_collection
from text.serving import Search

app = pytest.importorskip("text.serving.app")
server = pytest.importorskip("text.serving.server")

HOSTILE = [
    (
        '"><img src=x onerror=alert(1)>',
        "<script>alert(1)</script>",
        "oak </p><script>alert(2)</script> & 'elm' \"ash\"",
    ),
    (
        "rtl",
        "\u05e9\u05dc\u05d5\u05dd \u202e live",
        "\u0639\u0631\u0628\u064a oak \U0001f333\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301",
    ),
    ("&amp;", "", "&lt;mark&gt; oak <mark>elm</mark>"),
]
"""Id, title and text of passages that could break a page."""


class Reply(NamedTuple):
    """HTTP response."""

    status: int
    headers: HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """Error message of a JSON response that contains nothing else."""
        assert set(self.json) == {"error"}
        assert "\n" not in self.json["error"]
        return self.json["error"]


class Page(HTMLParser):
    """Texts, tags, field values and marked texts of an HTML page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts, self.tags, self.values, self.marks = [""], [], [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for name, value in attrs if name == "value"]
        self.texts += [] if tag == "mark" else [""]
        self.marks += [""] if tag == "mark" else []

    def handle_endtag(self, tag: str) -> None:
        self.texts += [] if tag == "mark" else [""]

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data
        if self.marks and self.tags[-1] == "mark" and not self.marks[-1]:
            self.marks[-1] = data


def make_site(folder: Path) -> Path:
    """Write a model, a collection and its embeddings to a folder."""
    save_model(folder / "model", seed=0)
    rows = [*HOSTILE, *((f"p{n}", f"title {n}", text) for n, text in enumerate(texts(30)))]
    lines = [json.dumps({"_id": name, "title": title, "text": text}) + "\n" for name, title, text in rows]
    (folder / "corpus.jsonl").write_text("".join(lines))
    encode_collection(folder / "model", folder / "corpus.jsonl", folder / "embeddings")
    return folder


def make_bm25_search(search: Search) -> Search:
    """Return a BM25 search over the collection of another search."""
    bm25 = pytest.importorskip("text.retrieval.bm25")
    return Search("BM25", bm25.BM25(search.collection).search, search.collection)


@contextmanager
def run_server(
    searches: Sequence[Search],
    *,
    host: str = "127.0.0.1",
    connections: dict[str, float] | None = None,
    **limits: Any,
) -> Iterator[int]:
    """Serve searches in a thread. Yield the port.

    Args:
        searches: Searches to serve.
        host: Address to listen on.
        connections: Values of ``ConnectionLimits``. The default deadline is one hour.
        limits: Arguments of ``make_app``.
    """
    defaults = {"k": 10, "max_k": 100, "max_characters": 1000, "max_batch": 32, "queue_size": 256}
    values: Any = {"seconds": 3600} | (connections or {})
    running = server.make_server(
        app.make_app(searches, **(defaults | limits)), limits=server.ConnectionLimits(**values)
    )
    with server.bind_socket(host, 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        try:
            wait_until(lambda: running.started)
            yield port
        finally:
            running.should_exit = True
            thread.join()


def get(port: int, path: str, **parameters: Any) -> Reply:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"{path}?{urlencode(parameters)}" if parameters else path)
    with connection.getresponse() as response:
        reply = Reply(response.status, response.headers, response.read().decode())
    connection.close()
    return reply


def open_connection(port: int, sent: bytes = b"", *, host: str = "127.0.0.1") -> socket.socket:
    """Open a connection and send bytes."""
    connection = socket.create_connection((host, port))
    connection.sendall(sent)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes that the server sends before it closes the connection."""
    received = b""
    with suppress(ConnectionError), connection:
        while piece := connection.recv(1 << 16):
            received += piece
    return received


def exchange(port: int, request: bytes, *, host: str = "127.0.0.1") -> Reply:
    """Send bytes and return the response. The server must close the connection afterwards."""
    head, _, body = read_all(open_connection(port, request, host=host)).partition(b"\r\n\r\n")
    status_line, _, fields = head.partition(b"\r\n")
    return Reply(int(status_line.split()[1]), message_from_bytes(fields, HTTPMessage), body.decode())


def wait_until(is_true: Callable[[], bool]) -> None:
    while not is_true():
        time.sleep(0.005)
