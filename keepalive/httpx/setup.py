"""A manager of the transport's own: httpx's settings, said in ours."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keepalive import (
    ConnectionManager,
    HTTPProxyConnector,
    SocketOptions,
    SOCKS5Connector,
    TCPConnector,
    TLSConnector,
)

from .library import library_of, some_library

if TYPE_CHECKING:
    import ssl

    from keepalive import Connector

__all__ = ("Forward", "Setup")

ALPN = ["http/1.1"]


@dataclass(frozen=True)
class Forward:
    """An HTTP proxy that is sent plain requests with the whole URL (RFC 9112 3.2.2).

    :ivar headers: fields for the proxy
    """

    host: str
    port: int
    headers: tuple[tuple[bytes, bytes], ...]


class Setup:
    """What the transport's arguments come to.

    :ivar forward: the HTTP proxy for "http" requests, if there is one
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | str | bool,
        cert: Any,
        trust_env: bool,
        limits: Any,
        proxy: Any,
        uds: str | None,
        local_address: str | None,
        socket_options: Any,
    ) -> None:
        given = next(
            (thing for thing in (proxy, limits) if thing is not None and not isinstance(thing, str)), None
        )
        library = some_library() if given is None else library_of(given)
        module = library.module
        limits = (
            module.Limits(max_connections=100, max_keepalive_connections=20) if limits is None else limits
        )
        self._context: ssl.SSLContext = module.create_ssl_context(
            verify=verify, cert=cert, trust_env=trust_env
        )
        self._limits = limits
        self._local_address = local_address
        self.forward: Forward | None = None
        options = None if socket_options is None else SocketOptions(more=tuple(socket_options))
        self._tcp = TCPConnector(options)
        self._connectors: dict[str, Connector] = {"http": self._tcp, "https": self._tls(self._tcp)}
        if uds is not None:
            self._connectors = {"http": _At(uds), "https": self._tls(_At(uds))}
        elif proxy is not None:
            self._use_proxy(proxy if isinstance(proxy, module.Proxy) else module.Proxy(url=proxy))

    def _tls(self, over: Connector) -> TLSConnector:
        return TLSConnector(self._context, alpn=ALPN, over=over, standard_compatible=False)

    def _use_proxy(self, proxy: Any) -> None:
        url, scheme = proxy.url, proxy.url.scheme
        inside = {"https": TLSConnector(self._context, alpn=ALPN, standard_compatible=False)}
        host = f"[{url.host}]" if ":" in url.host else url.raw_host.decode("ascii")
        if scheme in ("socks5", "socks5h"):
            where = f"{scheme}://{host}:{url.port or 1080}"
            through: Connector = SOCKS5Connector(where, auth=proxy.auth, over=self._tcp, inside=inside)
            self._connectors = {"http": through, "https": through}
            return
        port = url.port or (443 if scheme == "https" else 80)
        to_proxy: Connector = self._tcp
        if scheme == "https":
            to_proxy = TLSConnector(proxy.ssl_context, over=self._tcp, standard_compatible=False)
        headers = list(proxy.headers.raw)
        tunnel = HTTPProxyConnector(
            f"{scheme}://{host}:{port}", auth=proxy.auth, over=to_proxy, inside=inside, headers=headers
        )
        self._connectors = {"http": to_proxy, "https": tunnel, "ws": tunnel}
        if proxy.raw_auth is not None:
            headers.insert(0, (b"Proxy-Authorization", b"Basic " + b64encode(b":".join(proxy.raw_auth))))
        self.forward = Forward(url.raw_host.decode("ascii"), port, tuple(headers))

    def manager(self) -> ConnectionManager:
        """Make a manager, to be entered by whoever uses it."""
        limits = self._limits
        return ConnectionManager(
            max_per_host=None,
            max_open=limits.max_connections,
            max_idle=limits.max_keepalive_connections,
            keep_alive=limits.keepalive_expiry,
            timeout=None,
            bind_address=self._local_address,
            connectors=self._connectors,
        )


class _At:
    """A Unix socket at a path, whatever the key says."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def connect(self, dial: Any) -> Any:
        """Open one connection; see `Connector.connect`."""
        return await dial.connect_unix(self._path)
