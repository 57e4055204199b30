"""Connections that leave room for others: few enough, with short heads, and none waits for its client for long.

A connection is either busy, because the application works on its request, or it waits for its client: for a whole
request, or until the client has read an answer. A busy connection is left alone. One that waits has a deadline, and
where there is no room for another connection, the one that has waited for longest is closed.

uvicorn has no such limits: it reads any number of connections, and a client that sends a byte now and then keeps its
connection for ever.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from text.errors import explain_missing
from text.serving.request_heads import HEAD_END, Fault, find_fault

with explain_missing("serve"):
    from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What the clients of a server can take from each other."""

    max_connections: int = 1000
    """Maximum number of open connections. There are fewer if the process may not open as many files."""
    max_head_bytes: int = 1 << 17
    """Maximum length of a request line with its header fields."""
    seconds: float = 10
    """Time that a client has to send a whole request, and to read on in an answer."""


class LimitedConnection(H11Protocol):
    """A connection that hands one whole and valid request after the other to uvicorn's protocol.

    Args:
        arguments, more: As uvicorn gives them.
        limits: Limits of the server.
        waiting: The connections of the server that wait for their clients. The first one has waited for longest.
    """

    def __init__(
        self, *arguments: Any, limits: ConnectionLimits, waiting: dict[LimitedConnection, None], **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._limits = limits
        self._waiting = waiting
        self._received = bytearray()
        self._is_refused = False
        self._unsent = 0
        """Bytes of an answer that the client had not taken when the deadline was set."""
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """The application works on a request of this connection."""
        return self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        is_full = len(self.connections) > self._limits.max_connections
        if is_full and not self._waiting:
            self._answer(Fault(503, "All connections are in use. Ask again later."))
            self._forget()
            return
        if is_full:
            next(iter(self._waiting)).drop()
        self._wait_for_client()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_wait()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close the connection at once."""
        self._forget()
        self.transport.abort()

    def shutdown(self) -> None:
        """Close the connection, after its answer if it is busy."""
        if self._is_refused:
            self.drop()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        is_first = not self._received
        self._received += data
        # A head is checked as often as it has lines, however small the pieces are in which it comes.
        if is_first or b"\n" in data or len(self._received) > self._limits.max_head_bytes:
            self._read_request()

    def _read_request(self) -> None:
        """Hand the next whole request to uvicorn, or refuse it. Requests that come before an answer wait."""
        if self.transport.is_closing():
            return
        if self.is_busy or self.flow.write_paused:
            if len(self._received) > self._limits.max_head_bytes:
                self.flow.pause_reading()
            return
        end = self._received.find(HEAD_END)
        head = bytes(self._received if end < 0 else self._received[: end + len(HEAD_END)])
        if fault := find_fault(head, self._limits.max_head_bytes):
            self._refuse(fault)
        elif end >= 0:
            del self._received[: len(head)]
            self._end_wait()
            super().data_received(head)
            if self.cycle is not None and len(self.connections) >= self._limits.max_connections:
                self.cycle.keep_alive = False  # Others have their turn after this answer.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_client()
        self._read_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.is_busy:
            self._end_wait()
        else:
            self._wait_for_client()
            self._read_request()

    def _should_upgrade(self) -> bool:
        return False  # uvicorn would also log it

    def send_400_response(self, msg: str) -> None:
        self._refuse(Fault(400, msg))

    def _refuse(self, fault: Fault) -> None:
        """Answer a faulty request, and read nothing more from the connection.

        The client may still be sending. If the connection were closed now, the answer could be lost.
        """
        self._answer(fault, close=False)
        self.transport.write_eof()

    def _answer(self, fault: Fault, *, close: bool = True) -> None:
        self._is_refused = True
        self._received.clear()
        body = json.dumps({"error": fault.message}).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = [f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}".encode()]
        self.transport.write(b"\r\n".join([*lines, *(b": ".join(each) for each in headers), b"", body]))
        self._wait_for_client()
        if close:
            self.transport.close()

    def _wait_for_client(self) -> None:
        self._end_wait()
        self._waiting[self] = None
        self._unsent = self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(self._limits.seconds, self._meet_deadline)

    def _end_wait(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def _forget(self) -> None:
        """Count the connection no longer. It is closed, though it is lost only in the loop's next turn."""
        self._end_wait()
        self.connections.discard(self)

    def _meet_deadline(self) -> None:
        if 0 < self.transport.get_write_buffer_size() < self._unsent:
            self._wait_for_client()  # The client reads slowly.
        elif self._received and not self._unsent:
            self._answer(Fault(408, f"The request did not come within {self._limits.seconds:g} seconds."))
        else:
            self.drop()
