"""Run a web application on a socket."""

from __future__ import annotations

import os
import socket

import uvicorn
from fastapi import FastAPI

from text.errors import UsageError
from text.serving.pages import content_security_policy

_BACKLOG = 2048
"""Connections that wait, as many as uvicorn lets wait."""
SHUTDOWN_SECONDS = 10
"""Time that questions have to be answered after a signal ends the server."""


def make_server(app: FastAPI) -> uvicorn.Server:
    """Return a server for an application. ``server.run([listener])`` answers at a socket until a signal comes.

    The server adds the headers that protect a reader's browser to every reply, also to those that the application does
    not see. It keeps no log of questions.
    """
    headers = {
        "Content-Security-Policy": content_security_policy(),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,  # questions are private
        server_header=False,
        headers=list(headers.items()),
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


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


def format_address(listener: socket.socket) -> str:
    """Return the address of a socket as it stands in a URL."""
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
