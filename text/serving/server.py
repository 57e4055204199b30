"""Server that runs a web application on a socket."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from text.errors import UsageError, explain_missing
from text.serving.connections import ConnectionLimits, LimitedConnection
from text.serving.pages import build_content_security_policy
from text.serving.server_log import build_log_config

with explain_missing("serve"):
    import uvicorn
    from fastapi import FastAPI

_BACKLOG = 2048
"""Maximum number of connections that wait to be accepted (default of uvicorn)."""
_SPARE_FILES = 16
"""File descriptors that the server needs in addition to its connections, for example for a collection."""
_MORE_SIGNALS = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)]
"""Signals that stop the server in addition to uvicorn's own."""
SHUTDOWN_SECONDS = 10
"""Time that the server has to answer the last questions after a signal."""


def make_server(app: FastAPI, *, limits: ConnectionLimits | None = None) -> uvicorn.Server:
    """Return a server for an application. ``server.run([listener])`` serves it until a signal stops the process.

    The server adds security headers to every response, including the errors that it sends without the application. It
    does not log questions and ignores proxy headers such as X-Forwarded-For.

    Args:
        app: The application, from ``make_app``. All its files must be open already.
        limits: Limits of connections. By default those of ``ConnectionLimits``.

    Raises:
        OSError: The process cannot open enough files for a single connection (``ulimit -n``).
    """
    limits = limits or ConnectionLimits()
    limits = replace(limits, max_connections=min(limits.max_connections, _count_free_files() - _SPARE_FILES))
    if limits.max_connections < 1:
        raise OSError(errno.EMFILE, "Too many open files: none left for a connection. Raise the limit with ulimit -n")
    headers = {
        "Content-Security-Policy": build_content_security_policy(),
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    connection: Any = partial(LimitedConnection, limits=limits, waiting={})
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=build_log_config(),
        log_level="warning",
        access_log=False,  # Questions are private.
        proxy_headers=False,
        server_header=False,
        headers=list(headers.items()),
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        backlog=1,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """A server that accepts connections one at a time. SIGHUP and SIGUSR1 stop it in the same way as SIGTERM."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server and restore the backlog of its sockets."""
        await super().startup(sockets)
        # asyncio accepts as many connections at once as the backlog allows, before the first one can be refused.
        # Therefore uvicorn gets a backlog of 1. The sockets get their full backlog back here.
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the additional signals. Signals that the process ignores stay ignored."""
        with super().capture_signals():
            is_main = threading.current_thread() is threading.main_thread()
            handlers = {number: signal.getsignal(number) for number in _MORE_SIGNALS if is_main}
            # nohup starts a process with SIGHUP ignored.
            replaced = {number: each for number, each in handlers.items() if each not in (signal.SIG_IGN, None)}
            for number in replaced:
                signal.signal(number, self.handle_exit)
            try:
                yield
            finally:
                for number, handler in replaced.items():
                    signal.signal(number, handler)


def _count_free_files() -> int:
    """Return the number of files that this process may still open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return 1 << 20
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if limit == resource.RLIM_INFINITY else limit - len(os.listdir("/dev/fd"))


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Call this before slow work, to find out early that a port is in use. A client that connects before the server runs
    waits for the server.

    Args:
        host: IPv4 address, IPv6 address or host name.
        port: Port number, or 0 for any free port.

    Raises:
        UsageError: The port is out of range or in use, or the address does not belong to this machine.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"port is {port}. Use a port from 0 to 65535.")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # On Windows, this option would let two sockets share a port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # A bound socket that does not listen would let a second server bind the same port.
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name.
        listener.close()
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise UsageError(f"{host}:{port}: {reason}. Use a free --port and a --host of this machine.") from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether a socket listens on loopback, where only programs of this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def format_address(listener: socket.socket) -> str:
    """Return the address of a socket in the form HOST:PORT of a URL."""
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
