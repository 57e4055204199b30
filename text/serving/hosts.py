"""Names by which a server answers.

A web page that a browser shows can let its own host name point to 127.0.0.1 and then read what a server there answers
(DNS rebinding). Its requests have that name in the header Host. The server therefore answers only to names it knows.
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
    """Return host names in the form in which ``HostCheck`` compares them.

    Args:
        names: Host names, and IPv4 and IPv6 addresses, without ports.

    Raises:
        UsageError: A name is not a host name.
    """
    found = set[str]()
    for given in names:
        address = given.partition("%")[0]  # A browser does not send the zone of an address.
        name, port = _split_host(f"[{address}]" if ":" in address and "[" not in address else address)
        if not name or port:
            raise UsageError(f"{given!r} is not a name to answer to. Give a host name or address, without a port.")
        found.add(name)
    return frozenset(found)


class HostCheck:
    """Answer requests whose Host is not allowed with status 400, before the application sees them.

    Args:
        app: The application.
        allowed: Names from ``read_host_names``. Loopback is always allowed. 0.0.0.0 or :: also allow the address of
            this machine that the client is connected to.
        refuse: Returns the answer to a request that is refused, with a message.
    """

    def __init__(
        self, app: Callable[..., Any], *, allowed: frozenset[str], refuse: Callable[[Request, str], Response]
    ) -> None:
        self._app = app
        self._allowed = allowed | {*LOOPBACK}
        self._refuse = refuse

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self._app
        if scope["type"] == "http" and not self._is_allowed(scope):
            app = self._refuse(
                Request(scope), "Host: not a name of this server. Its owner can allow more names (allowed_hosts)."
            )
        await app(scope, receive, send)

    def _is_allowed(self, scope: Any) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        name = _split_host(hosts[0])[0] if len(hosts) == 1 else ""
        own, _ = scope["server"] or ("", None)
        is_own = not _WILDCARDS.isdisjoint(self._allowed) and name == _normalize(own)
        return bool(name) and (name in self._allowed or is_own)


def _split_host(text: str) -> tuple[str, str]:
    """Return the name and the port of a Host header. Both are empty if it has another form."""
    found = _HOST.fullmatch(text)
    name = "" if found is None else _normalize(found["ipv6"] or found["name"])
    return (name, found["port"] or "") if found is not None and name else ("", "")


def _normalize(name: str) -> str:
    """Return a name in lower case, and an address in its usual form. What only looks like an address is empty."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return "" if ":" in name else name.lower()
    return str(getattr(address, "ipv4_mapped", None) or address)
