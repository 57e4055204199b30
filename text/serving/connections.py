"""HTTP connections with limits on their number, the size of a request and the time that they wait for a client.

A connection is either busy, because the application works on its request, or waiting for its client to send a whole
request or to read a response. A busy connection is never closed. A waiting connection has a deadline. If the maximum
number of connections is reached, a new connection replaces the connection that has waited longest.

uvicorn has no such limits. It accepts any number of connections, and a client that sends a byte now and then can keep a
connection open forever.
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
    """Limits that keep one client from blocking the others."""

    max_connections: int = 1000
    """Maximum number of open connections. Lower if the process may not open as many files (``ulimit -n``)."""
    max_head_bytes: int = 1 << 17
    """Maximum size of a request head (request line and header fields), in bytes."""
    seconds: float = 10
    """Time that a client has to send a whole request, and to read the next part of a response."""


class LimitedConnection(H11Protocol):
    """A connection that passes only complete and valid requests to uvicorn, one at a time.

    Args:
        arguments, more: Arguments of uvicorn's protocol.
        limits: Limits of the server.
        waiting: Connections of the server that wait for their clients, longest wait first.
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
        """Bytes in the write buffer when the deadline was set."""
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """True while the application works on a request of this connection."""
        return self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Accept the connection. If the server is full, drop the longest waiting connection, or answer 503."""
        super().connection_made(transport)
        is_full = len(self.connections) > self._limits.max_connections
        if is_full and not self._waiting:
            self._send_error(Fault(503, "All connections are in use. Try again later."))
            self._forget()
            return
        if is_full:
            next(iter(self._waiting)).drop()
        self._wait_for_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the waiting connections."""
        self._end_wait()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close the connection at once."""
        self._forget()
        self.transport.abort()

    def shutdown(self) -> None:
        """Close the connection. A busy connection is closed after its response."""
        if self._is_refused:
            self.drop()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Buffer received bytes and process the next complete request."""
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        is_first = not self._received
        self._received += data
        # Check the head at most once per line, even if it arrives byte by byte.
        if is_first or b"\n" in data or len(self._received) > self._limits.max_head_bytes:
            self._read_request()

    def _read_request(self) -> None:
        """Pass the next complete request to uvicorn, or refuse it. Pipelined requests wait for their turn."""
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
                self.cycle.keep_alive = False  # Make room for another client after this response.

    def on_response_complete(self) -> None:
        """Wait for the client again, and process a request that has already arrived."""
        super().on_response_complete()
        self._wait_for_client()
        self._read_request()

    def pause_writing(self) -> None:
        """Set a deadline for a client that does not read its response."""
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        """Clear the deadline if the connection is busy. Otherwise, set a new deadline and process the next request."""
        super().resume_writing()
        if self.is_busy:
            self._end_wait()
        else:
            self._wait_for_client()
            self._read_request()

    def _should_upgrade(self) -> bool:
        return False  # The server has no WebSockets, and uvicorn would log the request.

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that uvicorn's parser rejects."""
        self._refuse(Fault(400, msg))

    def _refuse(self, fault: Fault) -> None:
        """Send an error response and ignore all further input.

        The connection stays open until its deadline. If it were closed while the client still sends, the response
        could be lost.
        """
        self._send_error(fault, close=False)
        self.transport.write_eof()

    def _send_error(self, fault: Fault, *, close: bool = True) -> None:
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
        self._deadline = self.loop.call_later(self._limits.seconds, self._handle_deadline)

    def _end_wait(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def _forget(self) -> None:
        """Stop counting the connection at once. ``connection_lost`` runs only in the next turn of the event loop."""
        self._end_wait()
        self.connections.discard(self)

    def _handle_deadline(self) -> None:
        if 0 < self.transport.get_write_buffer_size() < self._unsent:
            self._wait_for_client()  # The client reads slowly, but it does read.
        elif self._received and not self._unsent:
            self._send_error(Fault(408, f"The request was not complete within {self._limits.seconds:g} seconds."))
        else:
            self.drop()
