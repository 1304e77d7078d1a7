"""From a URL to a place to connect to, a Host field and a request target."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from keepalive import HostName

from .errors import InvalidURL

__all__ = ("ParsedURL", "parse_url")

DEFAULT_PORTS = {"http": 80, "https": 443}
# What may stand in a path or query as it is: RFC 3986's reserved and unreserved characters, and "%".
_KEEP = "!#$%&'()*+,/:;=?@[]~"


class ParsedURL(NamedTuple):
    """A URL, taken apart.

    :ivar scheme: "http" or "https"
    :ivar host: a name in its ASCII form, or an IP literal without brackets
    :ivar port: the port, the scheme's own if the URL has none
    :ivar authority: what the Host field says (RFC 9112 3.2)
    :ivar target: path and query, in ASCII (RFC 9112 3.2.1)
    """

    scheme: str
    host: str
    port: int
    authority: str
    target: str


@lru_cache(maxsize=1024)
def parse_url(url: str) -> ParsedURL:
    """Take a URL apart; the fragment is dropped. Does not switch tasks.

    :raises InvalidURL: it is no http or https URL, holds spaces, control characters or a password, or
        names no host or an impossible one
    """
    if any(char <= " " or char == "\x7f" for char in url):
        raise InvalidURL(f"{url!r} contains a space or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidURL(f"{url!r}: {exc}") from exc
    if parts.scheme not in DEFAULT_PORTS:
        what = f"the scheme {parts.scheme!r} is not" if "://" in url else "a URL begins with"
        raise InvalidURL(f"{url!r}: {what} http:// or https://")
    if "@" in parts.netloc:
        raise InvalidURL(f"{url!r}: a user name or password in a URL is not supported")
    if not parts.hostname:
        raise InvalidURL(f"{url!r} names no host")
    if port == 0:
        raise InvalidURL(f"{url!r}: port 0 cannot be connected to")
    host = _host(url, parts.hostname)
    port = port or DEFAULT_PORTS[parts.scheme]
    try:
        path = quote(parts.path or "/", safe=_KEEP)
        query = f"?{quote(parts.query, safe=_KEEP)}" if parts.query else ""
    except UnicodeError as exc:
        raise InvalidURL(f"{url!r}: {exc}") from exc
    name = f"[{host.partition('%')[0]}]" if ":" in host else host
    if port != DEFAULT_PORTS[parts.scheme]:
        name = f"{name}:{port}"
    return ParsedURL(parts.scheme, host, port, name, path + query)


def _host(url: str, host: str) -> str:
    if ":" in host:
        # A zone is written "%25eth0" in a URL (RFC 6874).
        host = host.replace("%25", "%", 1)
        try:
            ipaddress.IPv6Address(host)
        except ValueError as exc:
            raise InvalidURL(f"{url!r}: {exc}") from exc
        return host
    try:
        name = HostName(host)
    except ValueError as exc:
        raise InvalidURL(f"{url!r}: {host!r} is no host name: {exc}") from exc
    if any(char in "^`{|}" for char in name):
        raise InvalidURL(f"{url!r}: {host!r} is no host name")
    return str(name)
