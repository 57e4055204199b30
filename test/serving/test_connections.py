"""Tests of connections over real sockets: slow, silent, faulty or too many clients do not block other clients."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from test.helpers import write_collection
from test.serving.helpers import exchange, get, open_connection, read_all, run_server
from text.retrieval import Hits
from text.serving import Search

QUESTION = b"GET /search?q=oak HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST_QUESTION = QUESTION.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
BEGINNINGS = {
    "nothing": b"",
    "half a head": QUESTION[:-7],
    "a refused body": b"POST /" + QUESTION[4:-2] + b"Content-Length: 9\r\n\r\n",
}


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Return a search that finds one long passage k times."""
    path = tmp_path_factory.mktemp("connections") / "corpus.jsonl"
    return Search("some", find_first, write_collection(path, ["p0"], ["an oak " * 10_000]))


def find_first(questions: Sequence[str], k: int) -> list[Hits]:
    return [Hits(["p0"] * k, [0.0] * k) for _ in questions]


@pytest.fixture(scope="module")
def port(search: Search) -> Iterator[int]:
    with run_server([search], k=1) as port:
        yield port


class Gate:
    """Search that blocks until it is opened."""

    def __init__(self) -> None:
        self.asked, self.is_open = threading.Semaphore(0), threading.Event()

    def find(self, questions: Sequence[str], k: int) -> list[Hits]:
        self.asked.release()
        self.is_open.wait()
        return find_first(questions, k)


# ---- too many or slow clients


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_waiting_connections_are_dropped_for_new_clients(search: Search, beginning: bytes) -> None:
    with run_server([search], connections={"max_connections": 3}, k=1) as port, ExitStack() as stack:
        silent = [stack.enter_context(open_connection(port, beginning)) for _ in range(20)]
        assert [get(port, "/search", q="oak").status for _ in range(10)] == [200] * 10
        for connection in silent[:-3]:  # The server closed these connections long before their deadline of an hour.
            read_all(connection)


def test_the_longest_waiting_connection_is_dropped_first(search: Search) -> None:
    with run_server([search], connections={"max_connections": 2}, k=1) as port:
        first, second = (open_connection(port, QUESTION[:-1]) for _ in range(2))
        assert get(port, "/health").status == 200
        assert read_all(first) == b""
        second.sendall(QUESTION[-1:])
        assert second.recv(12) == b"HTTP/1.1 200"
        second.close()


def test_a_busy_connection_is_kept_and_a_new_one_gets_503(search: Search) -> None:
    gate = Gate()
    with run_server([search._replace(find=gate.find)], connections={"max_connections": 1}) as port:
        try:
            busy = open_connection(port, QUESTION + QUESTION)
            gate.asked.acquire()
            refused = exchange(port, b"")
            assert refused.status == 503 and refused.error and refused.headers["Content-Security-Policy"]
        finally:
            gate.is_open.set()
        assert read_all(busy).count(b"HTTP/1.1 200 OK") == 1  # A full server closes a connection after its response.
        assert get(port, "/search", q="oak").status == 200


def test_a_client_that_sends_nothing_is_dropped_at_the_deadline(search: Search) -> None:
    with run_server([search], connections={"seconds": 0.01}) as port:
        assert read_all(open_connection(port)) == b""


def test_an_incomplete_request_gets_408_at_the_deadline(search: Search) -> None:
    with run_server([search], connections={"seconds": 0.2}) as port:
        reply = b""
        while not reply:  # The deadline may come before the first byte.
            reply = read_all(open_connection(port, QUESTION[:-1]))
    assert reply.startswith(b"HTTP/1.1 408 ") and b"content-security-policy: " in reply


# GET gives long responses. HEAD gives many short responses.
@pytest.mark.parametrize("method", [b"GET", pytest.param(b"HEAD", marks=pytest.mark.slow)])
def test_a_client_that_never_reads_is_dropped_at_the_deadline(search: Search, method: bytes) -> None:
    with run_server([search], connections={"seconds": 0.2}) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(QUESTION.replace(b"GET", method))


def test_a_client_that_reads_slowly_gets_the_whole_response(search: Search) -> None:
    with run_server([search], k=100, connections={"max_connections": 1}) as port:
        connection = open_connection(port, LAST_QUESTION)
        received = b""
        while piece := connection.recv(1 << 12):
            received += piece
        connection.close()
    assert len(json.loads(received.partition(b"\r\n\r\n")[2])["searches"][0]["passages"]) == 100


# ---- faulty requests


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET http://evil.example/search?q=oak HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n" + b"a" * 9_000_000, 413),
        (b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + QUESTION, 413),
        (b"GET /search?q=" + b"a" * 9_000_000, 414),
        (QUESTION[:-2] + b"X: " + b"a" * 9_000_000, 431),
        (QUESTION[:-2] + b"X: a\r\n" * 1000, 431),
    ],
)
def test_a_faulty_request_gets_an_error_and_ends_the_connection(port: int, request_bytes: bytes, status: int) -> None:
    reply = exchange(port, request_bytes)
    assert reply.status == status and reply.error
    normal = get(port, "/health").headers
    own = {"content-type", "content-length", "connection", "date"}
    assert {name: value for name, value in reply.headers.items() if name not in own} == {
        name: value for name, value in normal.items() if name not in own
    }
    assert reply.headers["connection"] == "close"


def test_a_request_after_a_faulty_one_is_not_read(port: int) -> None:
    assert read_all(open_connection(port, b"GET /health HTTP/1.1\r\n\r\n" + QUESTION)).count(b"HTTP/1.1 ") == 1


def test_a_faulty_request_is_answered_after_the_request_before_it(port: int) -> None:
    received = read_all(open_connection(port, QUESTION + b"garbage\r\n\r\n"))
    assert [each[:3] for each in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    paths = [f"/search?q=oak{number}".encode() for number in range(50)]
    requests = [QUESTION.replace(b"/search?q=oak", path) for path in paths]
    received = read_all(open_connection(port, b"".join([*requests, LAST_QUESTION])))
    assert received.count(b"HTTP/1.1 200 OK") == 51
    places = [received.index(f'"question":"oak{number}"'.encode()) for number in range(50)]
    assert places == sorted(places)


def test_a_request_in_single_bytes_is_answered(port: int) -> None:
    connection = open_connection(port)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(len(LAST_QUESTION)):
        connection.sendall(LAST_QUESTION[place : place + 1])
    assert read_all(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "field",
    [
        b"Connection: Upgrade\r\nUpgrade: websocket",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
        b"Expect: 100-continue",
    ],
)
def test_requests_for_other_protocols_are_answered_with_http_1(port: int, field: bytes) -> None:
    received = b""
    connection = open_connection(port, QUESTION[:-2] + field + b"\r\n\r\n" + LAST_QUESTION)
    received = read_all(connection).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert [each[:3] for each in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"]


def test_http_1_0_is_answered_and_closed(port: int) -> None:
    assert exchange(port, QUESTION.replace(b"1.1", b"1.0")).status == 200


# ---- the log


def test_clients_that_disconnect_at_any_byte_leave_the_log_empty(search: Search, capfd: Any) -> None:
    with run_server([search], k=100) as port:
        for length in range(0, len(QUESTION) + 1, 3):
            open_connection(port, QUESTION[:length]).close()
            connection = open_connection(port, QUESTION[:length])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
            connection.close()
        for _ in range(10):
            connection = open_connection(port, QUESTION * 3)
            connection.recv(1)
            connection.close()
        assert get(port, "/search", q="oak", k=1).status == 200
    assert capfd.readouterr().err == ""


def test_faulty_requests_leave_the_log_empty(search: Search, capfd: Any) -> None:
    with run_server([search]) as port:
        assert exchange(port, b"garbage\r\n\r\n").status == 400
        assert exchange(port, LAST_QUESTION[:-2] + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n").status == 200
        assert get(port, "/%1b%5b2J%0aERROR").status == 404
    assert capfd.readouterr().err == ""


def test_a_server_without_free_file_descriptors_does_not_start(search: Search, monkeypatch: Any) -> None:
    from text.serving import server

    monkeypatch.setattr(server, "_count_free_files", lambda: 16)
    with pytest.raises(OSError, match="ulimit -n"), run_server([search]):
        pass
