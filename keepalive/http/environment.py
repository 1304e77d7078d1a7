"""The proxies that the environment names, and the exceptions from them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from keepalive import HostName

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

__all__ = ("EnvironmentProxies",)


class EnvironmentProxies:
    """The environment's proxies as they are now, read as httpx reads them.

    The most special rule decides. NO_PROXY has names ("example.org" is for "www.example.org" too, and
    ".example.org" for that alone), addresses, networks ("10.0.0.0/8"), any of them with a port, whole URLs
    ("https://example.org"), or "*" for no proxy at all. What cannot be read is left out, as curl does it.
    On macOS and Windows the system's settings count where the environment says nothing
    (`urllib.request.getproxies`).

    :ivar urls: the proxies, each once
    """

    def __init__(self) -> None:
        found = getproxies()
        rules: dict[str, str | None] = {}
        for scheme in ("http", "https", "all"):
            proxy = found.get(scheme)
            if proxy:
                rules[f"{scheme}://"] = proxy if "://" in proxy else f"http://{proxy}"
        exceptions = [entry for entry in map(str.strip, found.get("no", "").split(",")) if entry]
        rules |= dict.fromkeys(map(_pattern, exceptions))
        if "*" in exceptions:
            rules.clear()
        self._rules = sorted(filter(None, (_read(text, proxy) for text, proxy in rules.items())), key=_order)
        self.urls = tuple(dict.fromkeys(rule.proxy for rule in self._rules if rule.proxy is not None))

    def of(self, scheme: str, host: str, port: int | None) -> str | None:
        """Return the URL of the proxy for a URL with these parts; None for none.

        :param host: a name in its ASCII form, or an IP literal without brackets
        :param port: None for the scheme's own
        """
        return next((rule.proxy for rule in self._rules if rule.matches(scheme, host, port)), None)


class _Rule:
    def __init__(self, text: str, proxy: str | None) -> None:
        parts = urlsplit(text)
        host, prefix = parts.hostname or "", parts.path.removeprefix("/")
        self.proxy = proxy
        self.scheme = "" if parts.scheme == "all" else parts.scheme
        own = {"http": 80, "https": 443}.get(parts.scheme)
        self.port = None if parts.port == own else parts.port
        self.network: IPv4Network | IPv6Network | None = None
        stars = "*." if host.startswith("*.") else "*" if host.startswith("*") else ""
        name = host.removeprefix(stars)
        self.subdomains, self.itself = bool(stars), stars != "*."
        if prefix:
            self.network = ipaddress.ip_network(f"{host}/{prefix}", strict=False)
        elif ":" in name:
            name = str(ipaddress.IPv6Address(name))
        elif name:
            name = HostName(name)
        self.host = name

    def matches(self, scheme: str, host: str, port: int | None) -> bool:
        if (self.scheme and self.scheme != scheme) or (self.port is not None and self.port != port):
            return False
        if self.network is not None:
            try:
                return ipaddress.ip_address(host) in self.network
            except ValueError:
                return False
        if not self.host or (self.itself and host == self.host):
            return True
        return self.subdomains and host.endswith(f".{self.host}")


def _order(rule: _Rule) -> tuple[bool, int, int, int, int]:
    """Sort the more special ones first: with a port, for a host, for a small network, for a scheme."""
    kind = 1 if rule.network is not None else 0 if rule.host else 2
    size = 0 if rule.network is None else rule.network.num_addresses
    return rule.port is None, kind, size, -len(rule.host), -len(rule.scheme)


def _read(text: str, proxy: str | None) -> _Rule | None:
    try:
        return _Rule(text, proxy)
    except ValueError:
        return None


def _pattern(entry: str) -> str:
    """Say an entry of NO_PROXY as a URL, "*" in front of a name for all below it."""
    if "://" in entry:
        return entry
    address, slash, prefix = entry.partition("/")
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        name = entry.startswith(("[", "*.")) or entry.lower() == "localhost"
        return f"all://{entry}" if name else f"all://*{entry}"
    return f"all://[{address}]{slash}{prefix}" if version == 6 else f"all://{entry}"
