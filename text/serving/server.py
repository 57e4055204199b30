"""Run a web application on a socket."""

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
from text.serving.pages import content_security_policy
from text.serving.server_log import log_settings

with explain_missing("serve"):
    import uvicorn
    from fastapi import FastAPI

_BACKLOG = 2048
"""Connections that wait, as many as uvicorn lets wait."""
_SPARE_FILES = 16
"""Files that the server may open beside its connections: a collection, the event loop, a module of Python."""
_MORE_SIGNALS = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)]
SHUTDOWN_SECONDS = 10
"""Time that questions have to be answered after a signal ends the server."""


def make_server(app: FastAPI, *, limits: ConnectionLimits | None = None) -> uvicorn.Server:
    """Return a server for an application. ``server.run([listener])`` answers at a socket until a signal comes.

    The server adds the headers that protect a reader's browser to every reply, also to those that the application does
    not see. It keeps no log of questions, and believes no header about who a client is.

    Args:
        app: The application. Its files are open already, as ``make_app`` leaves them.
        limits: What clients can take from each other.

    Raises:
        OSError: The process may not open enough files for any connection.
    """
    limits = limits or ConnectionLimits()
    limits = replace(limits, max_connections=min(limits.max_connections, _count_free_files() - _SPARE_FILES))
    if limits.max_connections < 1:
        raise OSError(errno.EMFILE, "Too many open files: none is left for a connection. Raise the limit: ulimit -n")
    headers = {
        "Content-Security-Policy": content_security_policy(),
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
        log_config=log_settings(),
        log_level="warning",
        access_log=False,  # questions are private
        proxy_headers=False,
        server_header=False,
        headers=list(headers.items()),
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        backlog=1,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """A server that accepts connections one by one, and that more signals end as SIGTERM does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio accepts as many connections at once as its backlog has, before the first of them can be refused. So
        # uvicorn is given a backlog of 1, and the socket its own one again.
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            is_main = threading.current_thread() is threading.main_thread()
            handlers = {number: signal.getsignal(number) for number in _MORE_SIGNALS if is_main}
            replaced = {
                number: each for number, each in handlers.items() if each not in (signal.SIG_IGN, None)
            }  # nohup
            for number in replaced:
                signal.signal(number, self.handle_exit)
            try:
                yield
            finally:
                for number, handler in replaced.items():
                    signal.signal(number, handler)


def _count_free_files() -> int:
    """Return how many more files this process may open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return 1 << 20
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if limit == resource.RLIM_INFINITY else limit - len(os.listdir("/dev/fd"))


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Call this before slow work, so that a taken port is found at once.

    A client that connects before the server runs waits until it does.

    Args:
        host: IPv4 or IPv6 address, or a host name.
        port: Port, or 0 for any free one.

    Raises:
        UsageError: The port is out of range, or the address is taken or does not belong to this machine.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"port is {port}. Use a port from 0 to 65535.")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere the option allows two sockets to share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # A bound socket that does not listen would let a second server bind the same port.
    except (OSError, UnicodeError) as error:  # A host name can be no host name.
        listener.close()
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise UsageError(f"{host}:{port}: {reason}. Use a free --port and a --host of this machine.") from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only programs of this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def format_address(listener: socket.socket) -> str:
    """Return the address of a socket as it stands in a URL."""
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
