"""The way to each URL: straight, or by a proxy that the environment names."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from keepalive import HTTPProxyConnector, SOCKS5Connector, TLSConnector, http

if TYPE_CHECKING:
    import ssl

    from keepalive import Connector

_PORTS = {"http": 80, "https": 443}


class ProxyRoutes:
    """One manager serves them all: each way has schemes of its own.

    :param context: for TLS with servers
    :raises ValueError: the environment names an impossible proxy
    :raises ImportError: it names a SOCKS proxy, and the package ``socksio`` is missing
    :ivar connectors: for the manager
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        tls = TLSConnector(ssl_context=context, alpn=("http/1.1",))
        self.connectors: dict[str, Connector] = {"https": tls}
        self._proxies = http.EnvironmentProxies()
        for url in self._proxies.urls:
            inside = {_scheme("https", url): tls}
            socks = urlsplit(url).scheme.startswith("socks")
            through = SOCKS5Connector(url, inside=inside) if socks else HTTPProxyConnector(url, inside=inside)
            self.connectors |= dict.fromkeys((_scheme("http", url), _scheme("https", url)), through)
            if urlsplit(url).scheme == "https":
                self.connectors[_scheme("to", url)] = TLSConnector()

    def get(self, url: str, headers: dict[str, str]) -> tuple[http.Place, http.Message]:
        """Make a GET of a URL ready: where to, and what to say there."""
        parts = http.parse_url(url)
        port = None if parts.port == _PORTS[parts.scheme] else parts.port
        proxy = self._proxies.of(parts.scheme, parts.host, port)
        target, place = parts.target, http.Place(parts.scheme, parts.host, parts.port)
        if proxy is not None:
            near = urlsplit(proxy)
            if parts.scheme == "http" and near.scheme in _PORTS:
                target = f"http://{parts.authority}{target}"  # RFC 9112 3.2.2
                scheme = "http" if near.scheme == "http" else _scheme("to", proxy)
                place = http.Place(scheme, near.hostname or "", near.port or _PORTS[near.scheme])
                if near.username is not None:
                    pair = f"{unquote(near.username)}:{unquote(near.password or '')}".encode()
                    headers = {**headers, "Proxy-Authorization": f"Basic {b64encode(pair).decode()}"}
            else:
                place = http.Place(_scheme(parts.scheme, proxy), parts.host, parts.port)
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        said = http.compose("GET", target.encode(), parts.authority.encode(), pairs, None)
        return place, said


def _scheme(name: str, proxy: str) -> str:
    """Name a way; without what a URL may hold of passwords."""
    parts = urlsplit(proxy)
    return f"{name} by {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
