"""The transport: httpx's requests and responses on one side, `keepalive.http` on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from keepalive import AllocateError, KeepaliveError, Manager, http

from .library import Library, base_transports, library_of
from .network import NetworkStream
from .setup import Routes, Setup
from .trace import Trace, Way

if TYPE_CHECKING:
    import ssl

    import httpx
    import httpx2

    from .setup import Route

    # Each has a request class of its own, so that no method could be both's but one that takes anything.
    class Base(httpx2.AsyncBaseTransport, httpx.AsyncBaseTransport):  # type: ignore[misc]  # one shape, types of two libraries
        """A transport for both: which of them asks is seen when it does."""

else:
    Base = type("Base", base_transports(), {})

__all__ = ("Transport",)

_Known: TypeAlias = "tuple[Route | None, http.Place, http.Message]"

_PORTS = {"http": 80, "https": 443}
_PLAIN = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_VERSIONS = {"1.0": b"HTTP/1.0", "1.1": b"HTTP/1.1", "2": b"HTTP/2"}
_REMEMBERED = 256
_GIVEN = Way()
"""A given manager's affair."""


class Transport(Base):
    """Sends the requests of an `httpx2.AsyncClient` or `httpx.AsyncClient`.

    It is a transport of both libraries, as far as they are installed.

    With a manager of yours it shares connections and limits with everything else that uses that manager,
    and leaves it open in the end; everything about connections is then the manager's: TLS by its "https"
    connector, proxies and Unix sockets by connectors too. Without one it makes its own of the other
    arguments, which mean what they mean to the client's own transport. That manager begins with the first
    request in an event loop; a second ``asyncio.run`` and a forked worker have new ones.

    Exceptions are the library's. A request that meets a stale connection is sent once more if its method is
    idempotent and its content at hand.

    :param manager: a `ConnectionManager` that has been entered; None for one of its own
    :param verify, cert: as for `AsyncHTTPTransport`; best an `ssl.SSLContext` as `verify`
    :param trust_env: whether SSL_CERT_FILE and SSL_CERT_DIR count where `verify` is True, and the proxies of
        the environment where neither `proxy` nor `uds` is given: `http.EnvironmentProxies`, as they are now.
        A client that is given a transport does not look for them itself
    :param limits: the library's `Limits`; by default 100 connections, 20 of them idle, for 5 seconds
    :param proxy: a URL or the library's `Proxy`: http, https (CONNECT for https URLs), socks5, socks5h
    :param uds: path of a Unix socket to connect to, whatever the URL's host
    :param local_address: address to connect from
    :param socket_options: triples for `socket.setsockopt`, for TCP sockets
    :param http2: whether HTTP/2 is offered to servers with TLS; needs ``h2``
    :param http1: False for nothing but HTTP/2, also without TLS, by prior knowledge
    :param head_limits: what the heads of answers may come to; by default as much as with httpx's own
    :param retries: how often to try again, with growing pauses, when no connection could be opened
    :raises TypeError, ValueError: an argument is wrong
    :raises ImportError: neither library is installed, or a SOCKS proxy is asked for without ``socksio``
    """

    def __init__(
        self,
        manager: Manager | None = None,
        *,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        trust_env: bool = True,
        limits: Any = None,
        proxy: Any = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Any = None,
        http1: bool = True,
        http2: bool = False,
        head_limits: http.HeadLimits | None = None,
    ) -> None:
        self._manager = manager
        self._head_limits = http.HeadLimits() if head_limits is None else head_limits
        self._routes: Routes | None = None
        self._retries = _checked_retries(retries)
        self._http2 = http2
        self._translated: dict[tuple[Any, ...], _Known] = {}
        self._timeouts: dict[tuple[Any, ...], http.Timeout] = {}
        if manager is None:
            setup = Setup(
                verify=verify, cert=cert, trust_env=trust_env, limits=limits, proxy=proxy, uds=uds,
                local_address=local_address, socket_options=socket_options, http1=http1, http2=http2,
            )  # fmt: skip
            self._routes = Routes(setup, environment=trust_env and proxy is None and uds is None)
            return
        _check(manager)
        taken = {
            "cert": cert, "limits": limits, "proxy": proxy, "uds": uds, "local_address": local_address,
            "socket_options": socket_options, "verify": None if verify is True else verify,
            "http2": http2 or None,
        }  # fmt: skip
        for name, value in taken.items():
            if value is not None:
                msg = f"{name} must not be given beside a manager, whose own settings count"
                raise ValueError(msg)

    # -- its life -----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the manager of its own in this event loop; a manager that was given is left alone.

        It may be used again; there is a new manager then.
        """
        if self._routes is not None:
            await self._routes.aclose()

    # -- a request ----------------------------------------------------------------------------------

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request and return the library's response, its content still to come."""
        library = library_of(request)
        extensions = request.extensions
        route, place, message = self._known(library, request)
        timeout = self._timeout(extensions.get("timeout"))
        send = extensions.get("trace")
        way = _GIVEN if route is None else route.way
        trace = None if send is None else Trace(send, library, way, request, place)
        manager = self._manager if route is None else await route.here()
        assert manager is not None, "given, or its own"
        response = await self._exchange(library, manager, place, message, timeout, trace)
        if trace is not None:
            try:
                await trace.answered(response)
            except BaseException:
                response.close()
                raise
        return library.response(
            response.status,
            headers=response.headers,
            stream=library.stream(library, response, trace),
            extensions={
                "http_version": _VERSIONS[response.http_version],
                "network_stream": NetworkStream(library, response),
                **(
                    {"reason_phrase": response.reason}
                    if response.stream_id is None
                    else {"stream_id": response.stream_id}
                ),
            },
        )

    async def _exchange(
        self,
        library: Library,
        manager: Manager,
        place: http.Place,
        message: http.Message,
        timeout: http.Timeout | None,
        trace: Trace | None,
    ) -> http.Response:
        tries, pause = self._retries, 0.0
        served = None if trace is None else trace.served
        while True:
            exchange = http.Exchange(
                manager, place, message, timeout, head_limits=self._head_limits, served=served
            )
            try:
                return await exchange
            except KeepaliveError as exc:
                translated = library.translated(exc)
                if trace is not None:
                    await trace.failed(exc, translated or exc, exchange)
                if translated is None:
                    raise
                if tries <= 0 or not isinstance(exc, AllocateError) or exc.function == "queue":
                    raise translated from exc
            tries -= 1
            if trace is not None:
                await trace.again()
            await anyio.sleep(pause)
            pause = pause * 2 or 0.5

    def _timeout(self, given: Any) -> http.Timeout | None:
        if not given:
            return None
        key = (given.get("pool"), given.get("connect"), given.get("read"), given.get("write"))
        known = self._timeouts.get(key)
        if known is None and key != (None, None, None, None):
            known = http.Timeout(pool=key[0], connect=key[1], read=key[2], write=key[3])
            if len(self._timeouts) >= _REMEMBERED:
                self._timeouts.clear()
            self._timeouts[key] = known
        return known

    # -- what to send, and where --------------------------------------------------------------------

    def _known(self, library: Library, request: Any) -> _Known:
        """Translate a request, or remember how one just like it was translated."""
        content, extensions, url = _content(library, request), request.extensions, request.url
        if content is not None or "target" in extensions or "sni_hostname" in extensions:
            return self._translate(library, request, content)
        key = (library, request.method, url.scheme, url.netloc, url.raw_path, *request.headers.raw)
        known = self._translated.get(key)
        if known is None:
            known = self._translate(library, request, None)
            if len(self._translated) >= _REMEMBERED:
                self._translated.clear()
            self._translated[key] = known
        return known

    def _translate(self, library: Library, request: Any, content: Any) -> _Known:
        url = request.url
        scheme = url.scheme
        plain = _PLAIN.get(scheme)
        if plain is None:
            what = (
                f"an unsupported protocol '{scheme}://'" if scheme else "no 'http://' or 'https://' protocol"
            )
            raise library.module.UnsupportedProtocol(f"Request URL has {what}.")
        host, port = url.raw_host.decode("ascii"), url.port or _PORTS[plain]
        target = request.extensions.get("target") or url.raw_path
        headers = request.headers.raw
        route = None if self._routes is None else self._routes.of(url)
        way = _GIVEN if route is None else route.way
        if way.forwards and scheme == "http":
            place = http.Place("http", way.host, way.port)
            own = {name.lower() for name, _ in headers}
            headers = [pair for pair in way.headers if pair[0].lower() not in own] + headers
            if target.startswith(b"/"):
                target = b"http://" + url.netloc + target
        elif way.forwards and scheme == "ws":
            place = http.Place("ws", host, port)  # a proxy between would not pass on what follows the upgrade
        else:
            sni = request.extensions.get("sni_hostname")
            if self._http2 and scheme in ("ws", "wss"):
                plain = scheme  # an upgrade needs HTTP/1.1, on connections of its own
            place = http.Place(plain, host, port)
            if sni and plain in ("https", "wss"):
                place = http.Place(plain, host, port, plain, sni, port)
        try:
            return route, place, http.compose(request.method, target, url.netloc, headers, content)
        except http.InvalidRequest as exc:
            raise library.module.LocalProtocolError(str(exc)) from exc


def _checked_retries(retries: object) -> int:
    if isinstance(retries, bool) or not isinstance(retries, int):
        msg = f"retries must be a whole number, not {retries!r}"
        raise TypeError(msg)
    if retries < 0:
        msg = f"retries must not be negative, not {retries!r}"
        raise ValueError(msg)
    return retries


def _check(manager: object) -> None:
    if isinstance(manager, type) or not isinstance(manager, Manager):
        msg = f"manager must be a ConnectionManager, not {manager!r}"
        raise TypeError(msg)


def _content(library: Library, request: Any) -> Any:
    """Return the content: bytes if they are at hand, for such a request may be repeated."""
    stream: Any = request.stream
    return (b"".join(iter(stream)) or None) if isinstance(stream, library.whole) else stream
