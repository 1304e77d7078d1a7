"""The `trace` extension: what happens to a request, in httpcore's words and with what httpcore tells of it.

An attempt to connect belongs to no request, so that its steps are told when the connection is there, all at
once. Of a proxy's answer to CONNECT only that it was a good one is known by then.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from keepalive import AllocateError, http

from .network import NetworkStream, Snapshot

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from keepalive import Connection

    from .library import Library

__all__ = ("Trace", "Way")

_STEPS = ("send_request_headers", "send_request_body", "receive_response_headers")
_HTTP11 = tuple(f"http11.{step}" for step in _STEPS)
_HTTP2 = tuple(f"http2.{step}" for step in _STEPS)


_STREAM = object()
"""A result: the stream, as far as it is known."""


@dataclass(frozen=True)
class Way:
    """How connections are opened: what the steps of it are told with."""

    context: ssl.SSLContext | None = None  # of TLS with servers; None if it is a given manager's affair
    local_address: str | None = None
    socket_options: Any = None
    path: str | None = None  # of a Unix socket
    proxy: str = ""  # its scheme, "" for none
    host: str = ""  # the proxy's
    port: int = 0  # the proxy's
    headers: tuple[tuple[bytes, bytes], ...] = ()  # fields for an HTTP proxy
    auth: tuple[bytes, bytes] | None = None  # for a SOCKS proxy
    proxy_context: ssl.SSLContext | None = None  # of TLS with the proxy

    @property
    def forwards(self) -> bool:
        """Whether there is a proxy that is sent "http" requests with the whole URL (RFC 9112 3.2.2)."""
        return self.proxy in ("http", "https")


class Trace:
    """Tells the callback of one request.

    :param send: the callback
    :ivar info: what each step is told with
    """

    def __init__(
        self,
        send: Callable[[str, dict[str, Any]], Awaitable[None]],
        library: Library,
        way: Way,
        request: Any,
        place: http.Place,
    ) -> None:
        self._send = send
        self._library = library
        self._way = way
        self._request = request
        self._place = place
        self._attributes: dict[Any, Any] = {}
        self._timeout = (request.extensions.get("timeout") or {}).get("connect")
        forward = way.forwards and request.url.scheme == "http"
        target = request.extensions.get("target") or request.url.raw_path
        if forward and target.startswith(b"/"):
            target = b"http://" + request.url.netloc + target
        self.request = self._of_the_core(
            request.method, target, [*(way.headers if forward else ()), *request.headers.raw], forward
        )
        self.info: dict[str, Any] = {"request": self.request}

    def _of_the_core(self, method: str, target: bytes, headers: Any, to_proxy: bool) -> Any:
        """Make a request as httpcore has it: of bytes, and to the proxy where there is one."""
        core, url, way = self._library.core, self._request.url, self._way
        scheme, host, port = url.raw_scheme, url.raw_host, url.port
        if to_proxy:
            scheme, host, port = way.proxy.encode(), way.host.encode(), way.port
        where = core.URL(scheme=scheme, host=host, port=port, target=target)
        extensions = {
            k: v for k, v in self._request.extensions.items() if k not in ("target", "sni_hostname")
        }
        return core.Request(method, where, headers=headers, extensions=extensions)

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        """Tell one event."""
        told = self._send(name, info)
        if not hasattr(told, "__await__"):
            msg = "the callback of the `trace` extension must be an async function"
            raise TypeError(msg)
        await told

    async def step(self, name: str, info: Mapping[str, Any], result: object = None) -> None:
        """Tell a step that went well."""
        await self(f"{name}.started", dict(info))
        await self(f"{name}.complete", {"return_value": result})

    async def _failed(self, name: str, info: Mapping[str, Any], exc: Exception) -> None:
        await self(f"{name}.started", dict(info))
        await self(f"{name}.failed", {"exception": exc})

    def served(self, conn: Connection) -> None:
        """Remember what is known of a connection as long as it is there."""
        self._attributes = {}
        for attribute, ask in conn.extra_attributes.items():
            with suppress(OSError):
                self._attributes[attribute] = ask()

    # -- what is told -------------------------------------------------------------------------------

    async def answered(self, response: http.Response) -> None:
        """Tell what has happened up to the head of the answer."""
        if response.from_cache is None:
            await self._opened(response)
        head: tuple[object, ...]
        names, head = _HTTP2, (response.status, list(response.headers))
        if response.stream_id is None:
            version = b"HTTP/1.1" if response.http_version == "1.1" else b"HTTP/1.0"
            names, head = _HTTP11, (version, response.status, response.reason, list(response.headers))
        else:
            self.info["stream_id"] = response.stream_id
            if response.from_cache is None:
                await self.step("http2.send_connection_init", {"request": self.request})
        for name, result in zip(names, (None, None, head), strict=True):
            await self.step(name, self.info, result)

    async def failed(self, exc: Exception, told: Exception, exchange: http.Exchange) -> None:
        """Tell how far it came.

        :param exc: what happened
        :param told: the same in the library's words
        """
        if isinstance(exc, AllocateError):
            if exc.function != "queue":
                await self._not_opened(exc.function, told)
            return
        if exchange.opened:
            await self._opened(None)
        wrong = 1 if isinstance(exc, (http.WriteTimeout, http.InvalidRequest)) else 2
        names, closed = _HTTP11, {}
        if exchange.stream_id is not None:
            names, closed = _HTTP2, {"stream_id": exchange.stream_id}
            self.info["stream_id"] = exchange.stream_id
        for name in names[:wrong]:
            await self.step(name, self.info)
        await self._failed(names[wrong], self.info, told)
        await self.step(names[0].partition(".")[0] + ".response_closed", closed)

    async def again(self) -> None:
        """Tell that connecting is about to be tried again."""
        _, _, info, _ = next(self._opening())
        await self.step("connection.retry", info)

    async def _opened(self, response: http.Response | None) -> None:
        secure = NetworkStream(self._library, Snapshot(self._attributes, response))
        known = {
            name: value for name, value in self._attributes.items() if name is not TLSAttribute.ssl_object
        }
        plain = NetworkStream(self._library, Snapshot(known, response))
        for phase, name, info, result in self._opening():
            await self._went_well(name, info, result, secure if phase == "tls" else plain)

    async def _went_well(
        self, name: str, info: dict[str, Any], result: object, stream: NetworkStream
    ) -> None:
        if "stream" in info:
            info["stream"] = stream
        await self.step(name, info, stream if result is _STREAM else result)

    async def _not_opened(self, function: str, told: Exception) -> None:
        steps = list(self._opening())
        phase = function if function in ("tls", "proxy") else "connect"
        # Which of two handshakes it was, that with the proxy or the one behind it, is not known.
        last = max((n for n, step in enumerate(steps) if step[0] == phase), default=0)
        way, place = self._way, self._place
        whither = (way.host, way.port) if way.proxy else (place.addr, place.port)
        stream = NetworkStream(self._library, Snapshot({SocketAttribute.remote_address: whither}))
        for _, name, info, result in steps[:last]:
            await self._went_well(name, info, result, stream)
        _, name, info, _ = steps[last]
        if "stream" in info:
            info["stream"] = stream
        await self._failed(name, info, told)

    def _opening(self) -> Iterator[tuple[str, str, dict[str, Any], object]]:
        """Yield the steps of connecting: phase, name, information, and the result."""
        way, place, timeout = self._way, self._place, self._timeout
        forwarded = way.forwards and self._request.url.scheme == "http"
        secure = place.scheme in ("https", "wss") and not forwarded
        name = self._request.extensions.get("sni_hostname") or self._request.url.raw_host.decode("ascii")
        inside = {"ssl_context": way.context, "server_hostname": name, "timeout": timeout}
        if way.proxy.startswith("socks"):
            near = {"host": way.host, "port": way.port, "timeout": timeout}
            yield "connect", "socks.connect_tcp", near, _STREAM
            timeouts = self._request.extensions.get("timeout") or {}
            behind = {"host": place.addr, "port": place.port, "auth": way.auth, "timeouts": timeouts}
            yield "proxy", "socks.setup_socks5_connection", {"stream": None, **behind}, _STREAM
            if secure:
                yield "tls", "socks.start_tls", inside, _STREAM
            return
        common = {"timeout": timeout, "socket_options": way.socket_options}
        if way.path is not None:
            yield "connect", "connection.connect_unix_socket", {"path": way.path, **common}, _STREAM
        else:
            host, port = (way.host, way.port) if way.forwards else (place.addr, place.port)
            where = {"host": host, "port": port, "local_address": way.local_address}
            yield "connect", "connection.connect_tcp", {**where, **common}, _STREAM
        if way.proxy == "https":
            outer = {"ssl_context": way.proxy_context, "server_hostname": way.host, "timeout": timeout}
            yield "tls", "connection.start_tls", outer, _STREAM
        tunnel = way.forwards and self._request.url.scheme != "http"
        if tunnel:
            yield from self._connect()
        if secure:
            yield "tls", "proxy.start_tls" if tunnel else "connection.start_tls", inside, _STREAM

    def _connect(self) -> Iterator[tuple[str, str, dict[str, Any], object]]:
        target = f"{self._place.addr}:{self._place.port}".encode()
        headers = [(b"Host", target), (b"Accept", b"*/*"), *self._way.headers]
        info = {"request": self._of_the_core("CONNECT", target, headers, to_proxy=True)}
        for name in _HTTP11[:2]:
            yield "", name, info, None
        yield "proxy", _HTTP11[2], info, (b"HTTP/1.1", 200, b"", [])
