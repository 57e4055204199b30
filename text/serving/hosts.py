"""Check of the Host header against a list of allowed host names.

A malicious web page can point its own host name to 127.0.0.1 and then read responses of a local server (DNS
rebinding). The Host header of its requests contains that name. The server therefore accepts only host names it knows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

from text.errors import UsageError, explain_missing

with explain_missing("serve"):
    from fastapi import Request
    from fastapi.responses import Response

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WILDCARDS = {"0.0.0.0", "::"}
_HOST = re.compile(
    r"(?:\[(?P<ipv6>[0-9a-f]*:[0-9a-f:.]+)\]|(?P<name>[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?))(?P<port>:[0-9]{1,5})?",
    re.ASCII | re.IGNORECASE,
)


def read_host_names(names: Iterable[str]) -> frozenset[str]:
    """Return normalized host names for ``HostCheck``.

    Args:
        names: Host names, IPv4 addresses and IPv6 addresses, without ports.

    Raises:
        UsageError: A name is neither a host name nor an address, or it contains a port.
    """
    found = set[str]()
    for given in names:
        address = given.partition("%")[0]  # Browsers leave out the zone of an IPv6 address.
        name, port = _split_host(f"[{address}]" if ":" in address and "[" not in address else address)
        if not name or port:
            raise UsageError(f"{given!r} is not a valid host name. Use a host name or an IP address without a port.")
        found.add(name)
    return frozenset(found)


class HostCheck:
    """ASGI middleware that refuses requests with an unknown Host header (status 400).

    Args:
        app: ASGI application that gets all other requests.
        allowed: Host names from ``read_host_names``. Loopback is always allowed. 0.0.0.0 or :: also allows the local
            address that the client is connected to.
        refuse: Function that returns the response to a refused request and its error message.
    """

    def __init__(
        self, app: Callable[..., Any], *, allowed: frozenset[str], refuse: Callable[[Request, str], Response]
    ) -> None:
        self._app = app
        self._allowed = allowed | {*LOOPBACK}
        self._refuse = refuse

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request to the application, or refuse it."""
        app = self._app
        if scope["type"] == "http" and not self._is_allowed(scope):
            message = "Host: this host name is not allowed. The owner of the server can allow it with --allowed_hosts."
            app = self._refuse(Request(scope), message)
        await app(scope, receive, send)

    def _is_allowed(self, scope: Any) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        name = _split_host(hosts[0])[0] if len(hosts) == 1 else ""
        own, _ = scope["server"] or ("", None)
        is_own = not _WILDCARDS.isdisjoint(self._allowed) and name == _normalize(own)
        return bool(name) and (name in self._allowed or is_own)


def _split_host(text: str) -> tuple[str, str]:
    """Return the name and the port of a Host header, or two empty strings if the header is invalid."""
    found = _HOST.fullmatch(text)
    name = "" if found is None else _normalize(found["ipv6"] or found["name"])
    return (name, found["port"] or "") if found is not None and name else ("", "")


def _normalize(name: str) -> str:
    """Return a name in lower case or an address in its canonical form. An invalid address gives an empty string."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return "" if ":" in name else name.lower()
    return str(getattr(address, "ipv4_mapped", None) or address)
