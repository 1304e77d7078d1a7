"""A manager of the transport's own: httpx's settings, said in ours."""

from __future__ import annotations

from base64 import b64encode
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keepalive import (
    ConnectionManager,
    HTTPProxyConnector,
    SocketOptions,
    SOCKS5Connector,
    TCPConnector,
    TLSConnector,
    http,
)

from .library import library_of, some_library
from .trace import Way

if TYPE_CHECKING:
    import ssl

    from keepalive import Connector

__all__ = ("Route", "Routes", "Setup")

ALPN = ["http/1.1"]
ALPN2 = ["h2", "http/1.1"]
_OUR_NAMES = {
    "max_open": "max_connections",
    "max_idle": "max_keepalive_connections",
    "keep_alive": "keepalive_expiry",
    "bind_address": "local_address",
}


class Setup:
    """What the transport's arguments come to.

    :ivar way: how its connections are opened
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
        http1: bool = True,
        http2: bool = False,
    ) -> None:
        given = next(
            (thing for thing in (proxy, limits) if thing is not None and not isinstance(thing, str)), None
        )
        module = self._module = (some_library() if given is None else library_of(given)).module
        if limits is None:
            limits = module.Limits(max_connections=100, max_keepalive_connections=20)
        elif not isinstance(limits, library_of(limits).module.Limits):
            msg = f"limits must be {module.__name__}.Limits, not {limits!r}"
            raise TypeError(msg)
        self._context: ssl.SSLContext = module.create_ssl_context(
            verify=verify, cert=cert, trust_env=trust_env
        )
        self._limits = limits
        self._local_address = local_address
        self.way = Way(self._context, local_address, socket_options, uds)
        options = None if socket_options is None else SocketOptions(more=tuple(socket_options))
        self._tcp = TCPConnector(options)
        self._alpn = (ALPN2 if http1 else ALPN2[:1]) if http2 else ALPN
        self._lifecycles: dict[str, Any] = {}
        if http2:
            two = http.HTTP2Lifecycle(prior_knowledge=not http1)
            # Upgrades, for "ws" and "wss", stay with HTTP/1.1.
            self._lifecycles = {"https": two} if http1 else {"https": two, "http": two}
        over: Connector = self._tcp if uds is None else _At(uds)
        self._connectors: dict[str, Connector] = {"http": over, "ws": over, **self._secure(over)}
        if uds is None and proxy is not None:
            self._use_proxy(proxy if isinstance(proxy, module.Proxy) else module.Proxy(url=proxy))
        # Else a wrong limit would be told at the first request, by a name that nobody gave.
        try:
            self.manager()
        except (TypeError, ValueError) as exc:
            name, _, rest = str(exc).partition(" ")
            raise type(exc)(f"{_OUR_NAMES.get(name, name)} {rest}") from None

    def through(self, proxy: str) -> Setup:
        """Return the same, by way of a proxy."""
        other = copy(self)
        other._lifecycles = dict(self._lifecycles)
        other._use_proxy(self._module.Proxy(url=proxy))
        return other

    def _secure(self, over: Connector | None) -> dict[str, TLSConnector]:
        """Return TLS for each scheme; the context is one, and is told each time what to offer."""
        return {
            scheme: TLSConnector(lambda _: self._context, alpn=alpn, over=over, standard_compatible=False)
            for scheme, alpn in (("https", self._alpn), ("wss", ALPN))
        }

    def _use_proxy(self, proxy: Any) -> None:
        url, scheme = proxy.url, proxy.url.scheme
        inside = self._secure(None)
        host = f"[{url.host}]" if ":" in url.host else url.raw_host.decode("ascii")
        way = replace(self.way, proxy=scheme, host=url.raw_host.decode("ascii"))
        if scheme in ("socks5", "socks5h"):
            self.way = replace(way, port=url.port or 1080, auth=proxy.raw_auth)
            where = f"{scheme}://{host}:{url.port or 1080}"
            through: Connector = SOCKS5Connector(where, auth=proxy.auth, over=self._tcp, inside=inside)
            self._connectors = dict.fromkeys(("http", "https", "ws", "wss"), through)
            return
        self._lifecycles.pop("http", None)  # the proxy itself is asked for those
        port = url.port or (443 if scheme == "https" else 80)
        to_proxy: Connector = self._tcp
        if scheme == "https":
            to_proxy = TLSConnector(proxy.ssl_context, over=self._tcp, standard_compatible=False)
        headers = list(proxy.headers.raw)
        tunnel = HTTPProxyConnector(
            f"{scheme}://{host}:{port}", auth=proxy.auth, over=to_proxy, inside=inside, headers=headers
        )
        self._connectors = {"http": to_proxy, "https": tunnel, "ws": tunnel, "wss": tunnel}
        if proxy.raw_auth is not None:
            headers.insert(0, (b"Proxy-Authorization", b"Basic " + b64encode(b":".join(proxy.raw_auth))))
        self.way = replace(way, port=port, headers=tuple(headers), proxy_context=proxy.ssl_context)

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
            lifecycles=self._lifecycles,
        )


class Route:
    """One way to servers, and the manager that goes it in each event loop and process that it is used in.

    :ivar way: how its connections are opened
    """

    def __init__(self, setup: Setup) -> None:
        self.way = setup.way
        self._setup = setup
        self._managers: dict[ConnectionManager, None] = {}

    async def here(self) -> ConnectionManager:
        """Return the one of this event loop, made now if there is none. Does not switch tasks."""
        for manager in list(self._managers):
            if manager.usable:
                return manager
        self._forget_ended()
        manager = self._setup.manager()
        await manager.__aenter__()
        self._managers[manager] = None
        return manager

    async def aclose(self) -> None:
        """Close the one of this event loop, and those whose loops have ended."""
        self._forget_ended()
        for manager in list(self._managers):
            if manager.usable:
                del self._managers[manager]
                await manager.aclose()

    def _forget_ended(self) -> None:
        for manager in list(self._managers):
            if manager.abandon():
                self._managers.pop(manager, None)  # threads may see this together


class Routes:
    """A way for each URL: by the proxies of the environment, or else the transport's one.

    :param environment: whether its proxies count
    """

    def __init__(self, setup: Setup, environment: bool) -> None:
        self._direct = Route(setup)
        self._proxies = http.EnvironmentProxies() if environment else None
        urls = () if self._proxies is None else self._proxies.urls
        self._by_proxy = {url: Route(setup.through(url)) for url in urls}

    def of(self, url: Any) -> Route:
        """Return the way to a URL of the library's."""
        if not self._by_proxy or self._proxies is None:
            return self._direct
        proxy = self._proxies.of(url.scheme, url.raw_host.decode("ascii"), url.port)
        return self._direct if proxy is None else self._by_proxy[proxy]

    async def aclose(self) -> None:
        """Close all that can be closed in this event loop."""
        for route in (self._direct, *self._by_proxy.values()):
            await route.aclose()


class _At:
    """A Unix socket at a path, whatever the key says."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def connect(self, dial: Any) -> Any:
        """Open one connection; see `Connector.connect`."""
        return await dial.connect_unix(self._path)
