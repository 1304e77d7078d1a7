"""From a URL on the command line to a pool key and the bytes of a GET."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
# What may stand in a path or query as it is: RFC 3986's reserved and unreserved characters, and "%".
_KEEP = "!#$%&'()*+,/:;=?@[]~"


class BadURL(ValueError):
    """A URL that cannot be fetched; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """One URL, ready to be asked for."""

    url: str
    scheme: str
    host: str
    port: int
    request: bytes


def parse(url: str) -> Target:
    """Read a URL; raises `BadURL`."""
    if any(char <= " " or char == "\x7f" for char in url):
        raise BadURL(f"{url!r} contains a space or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise BadURL(f"{url!r}: {exc}") from exc
    if parts.scheme not in _DEFAULT_PORTS:
        what = f"the scheme {parts.scheme!r} is not" if "://" in url else "a URL begins with"
        raise BadURL(f"{url!r}: {what} http:// or https://")
    if "@" in parts.netloc:
        raise BadURL(f"{url!r}: a user name or password in a URL is not supported")
    if not parts.hostname:
        raise BadURL(f"{url!r} names no host")
    if port == 0:
        raise BadURL(f"{url!r}: port 0 cannot be connected to")
    host = _host(url, parts.hostname)
    port = port or _DEFAULT_PORTS[parts.scheme]
    path = quote(parts.path or "/", safe=_KEEP) + (
        f"?{quote(parts.query, safe=_KEEP)}" if parts.query else ""
    )
    name = f"[{host.partition('%')[0]}]" if ":" in host else host
    if port != _DEFAULT_PORTS[parts.scheme]:
        name = f"{name}:{port}"
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {name}\r\n"
        f"User-Agent: keepalive/{version('keepalive-manager')}\r\nAccept: */*\r\n\r\n"
    )
    return Target(url, parts.scheme, host, port, request.encode("ascii"))


def _host(url: str, host: str) -> str:
    if ":" in host:
        # A zone is written "%25eth0" in a URL (RFC 6874).
        host = host.replace("%25", "%", 1)
        try:
            ipaddress.IPv6Address(host)
        except ValueError as exc:
            raise BadURL(f"{url!r}: {exc}") from exc
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise BadURL(f"{url!r}: {host!r} is no host name: {exc}") from exc
