"""Requests over the connections of a manager."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from keepalive import Manager

from .errors import NoAnswer, ReadError, Refused
from .head import GENEROUS, HeadLimits
from .passage import Multiplexed, Multiplexing
from .reader import Reader
from .request import compose, header_pairs
from .response import Response
from .timeout import NONE, checked
from .url import parse_url
from .wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from keepalive import Connection

    from .passage import Passage
    from .request import Content, HeaderInput, Message
    from .timeout import Timeout

__all__ = ("Client", "Exchange", "Place", "request")

REFUSALS = 4
"""How often a request that was refused is sent again."""
PAUSE = 0.025
"""Seconds from the second time on, doubled by each."""
_REMEMBERED = 1024
"""So many different requests without fields and content of their own a client keeps ready-made."""


class Place(NamedTuple):
    """Where to connect to: the parts of the pool key, see `ConnectionManager.allocate`."""

    scheme: str
    addr: str
    port: int
    for_scheme: str | None = None
    for_addr: str | None = None
    for_port: int | None = None


class Misdirected(Refused):
    """The server does not serve the origin on this connection (421); on another it may (RFC 9110 15.5.20)."""


class Exchange:
    """One request and its answer, not begun yet.

    ``async with exchange as response`` sends the request, gives the `Response` once its head is there, and
    ends it at the end of the block. ``await exchange`` gives the response too; it must then be read to its
    end, or closed.

    :param may_keep: called with the connection when the exchange is complete, before the connection is
        given back; if it says no, the connection is closed
    :param head_limits: what the answer's head may come to
    :param served: called with each connection that it gets, before anything is sent
    :ivar opened: whether a connection was opened for it, as far as it has come
    :ivar stream_id: the number of the request that failed last, on a shared connection
    """

    __slots__ = (
        "_head_limits", "_manager", "_may_keep", "_message", "_place", "_response", "_served", "_timeout",
        "opened",
        "stream_id",
    )  # fmt: skip

    _response: Response

    def __init__(
        self,
        manager: Manager,
        place: Place,
        message: Message,
        timeout: Timeout | None = None,
        may_keep: Callable[[Connection], bool] | None = None,
        head_limits: HeadLimits = GENEROUS,
        served: Callable[[Connection], None] | None = None,
    ) -> None:
        self._manager = manager
        self._head_limits = head_limits
        self._place = place
        self._message = message
        self._timeout = NONE if timeout is None else timeout
        self._may_keep = may_keep
        self._served = served
        self.opened = False
        self.stream_id: int | None = None

    def __await__(self) -> Generator[Any, Any, Response]:
        """Send the request and wait for the head of the answer.

        A request that meets a stale connection (used before, ended before the first byte of an answer) is
        sent once more, on a fresh one, if its method is idempotent (RFC 9110 9.2.2) and its content at
        hand. When cancelled, or failed, the connection is closed.

        :raises AllocateError: no connection could be had; `AllocateTimeout` when time ran out meanwhile
        :raises HTTPError: the answer breaks the rules or was cut off, or time ran out
        :raises QueueFull, ManagerClosed: as `ConnectionManager.allocate` does
        """
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Response:
        """Send the request and wait for the head of the answer; see `__await__`."""
        message, limits, place = self._message, self._timeout, self._place
        deadline = inf if limits.total is None else self._manager.time() + limits.total
        tries, fresh = 0, False
        while True:
            if deadline == inf and not tries and place[3] is None and limits.wait is None:
                conn = await self._manager.allocate(place[0], place[1], place[2])
            else:
                conn = await self._allocate(deadline, tries, fresh)
            self.opened = conn.from_cache is None
            if self._served is not None:
                self._served(conn)
            reader = Reader(message.method, message.upgrades, self._head_limits)
            plain = Wire(conn, reader, limits, deadline)
            wire = plain if conn.state is None else self._passage(conn, deadline) or plain
            try:
                content = await (wire.converse(message) if wire is plain else self._share(wire, tries))
            except BaseException as exc:
                wire.conn.discard()
                if not self._again(exc, wire, tries):
                    raise
                tries += 1
                # The end of a shared one is known, and it is lent no more.
                fresh = wire is plain or isinstance(exc, Misdirected)
                continue
            self._response = response = Response(wire, message.keep, content, tries > 0, self._may_keep)
            return response

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the response. Switches tasks only if the request is still going out.

        It then waits for that, since a server may answer first and read afterwards; after an exception it
        does not.
        """
        response = self._response
        try:
            if exc_type is None and response.uploading:
                await response.finish()
        finally:
            response.close()

    def _passage(self, conn: Connection, deadline: float) -> Passage | None:
        state = conn.state
        if not isinstance(state, Multiplexed):
            return None
        return state.passage(conn, self._message, self._head_limits, self._timeout, deadline)

    async def _share(self, wire: Passage, tries: int) -> bytes:
        content = await wire.converse(self._message)
        head = wire.reader.head
        if head is not None and head.status == 421 and not tries and self._message.chunks is None:
            raise Misdirected
        return content

    def _again(self, exc: BaseException, wire: Passage, tries: int) -> bool:
        """Say whether to send the request once more, after it failed."""
        self.stream_id = wire.stream_id
        message = self._message
        if isinstance(exc, Refused):
            touched = message.chunks is not None and wire.upload is not None and wire.upload.touched
            return tries < REFUSALS and not touched
        return (
            isinstance(exc, (NoAnswer, ReadError))
            and message.repeatable
            and not tries
            and wire.conn.from_cache is not None
            and not wire.reader.began
        )

    async def _allocate(self, deadline: float, tries: int, fresh: bool) -> Connection:
        if tries > 1:
            await anyio.sleep(PAUSE * 2**tries)  # who refuses again and again wants to be left alone
        limits = self._timeout
        scheme, addr, port, for_scheme, for_addr, for_port = self._place
        return await self._manager.allocate(
            scheme,
            addr,
            port,
            limits.wait if deadline == inf else deadline - self._manager.time(),
            for_scheme=for_scheme,
            for_addr=for_addr,
            for_port=for_port,
            fresh=fresh,
            queue_timeout=limits.pool,
            open_timeout=limits.connect,
        )


class Client:
    """Sends HTTP requests over the connections of a manager.

    They are HTTP/1.1, or HTTP/2 on connections that speak that: the manager's affair, see `HTTP2Lifecycle`.

    It has no state of its own but defaults and ready-made requests: no cookies, no redirects, no decoding
    of content. Any number of clients may share a manager, with each other and with other protocols.

    :param manager: where connections come from; "https" URLs take its connector of that name
    :param headers: fields that every request has, unless it has fields of the same name itself
    :param timeout: for each exchange: a `Timeout`, or seconds for all of it; None for the manager's own
        timeout until there is a connection, and no limit from then on
    :param head_limits: what the heads of answers may come to
    :param http2: whether to insist on a manager that is set up for HTTP/2, by `HTTP2Lifecycle`
    :raises ValueError: it is not
    """

    def __init__(
        self,
        manager: Manager,
        *,
        headers: HeaderInput | None = None,
        timeout: Timeout | float | None = None,
        head_limits: HeadLimits = GENEROUS,
        http2: bool = False,
    ) -> None:
        if isinstance(manager, type) or not isinstance(manager, Manager):
            msg = f"manager must be a ConnectionManager, not {manager!r}"
            raise TypeError(msg)
        _check("head_limits", head_limits, HeadLimits)
        self._head_limits = head_limits
        self._manager = manager
        if http2 and not any(isinstance(it, Multiplexing) for it in manager.lifecycles.values()):
            msg = "http2 needs a manager for it: ConnectionManager(**http.HTTP2Lifecycle().manager_options())"
            raise ValueError(msg)
        self._timeout = checked(timeout)
        self._headers = header_pairs(headers)
        compose("GET", b"/", b"localhost", self._headers, None)  # a bad field is told here and now
        self._plain: dict[tuple[str, str], tuple[Place, Message]] = {}

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: HeaderInput | None = None,
        content: Content | None = None,
        timeout: Timeout | float | None = None,
    ) -> Exchange:
        """Make a request ready; nothing is sent yet. A plain method.

        :param method: any token, "GET" for example; "CONNECT" asks for a tunnel to the URL's host and port,
            through the server there (`Exchange` has a `Place` for anything else)
        :param url: http or https
        :param headers: a mapping, or pairs, of str (latin-1) or bytes. Host, Content-Length and
            Transfer-Encoding are added if missing. "Expect: 100-continue" is heeded, for a second at most
        :param content: bytes, or an iterable or async iterable of bytes, sent as it comes: in chunks, or
            plain if `headers` has a Content-Length
        :param timeout: as for the client; None for the client's
        :raises InvalidRequest: method, URL or fields cannot be said in HTTP/1.1, or two lengths differ
        :raises TypeError: an argument of the wrong type
        """
        limits = self._timeout if timeout is None else checked(timeout)
        if headers is not None or content is not None:
            place, message = self._compose(method, url, headers, content)
            return Exchange(self._manager, place, message, limits, None, self._head_limits)
        known = self._plain.get((method, url))
        if known is None:
            known = self._compose(method, url, None, None)
            if len(self._plain) >= _REMEMBERED:
                self._plain.clear()
            self._plain[method, url] = known
        return Exchange(self._manager, *known, limits, None, self._head_limits)

    def _compose(
        self, method: str, url: str, headers: HeaderInput | None, content: Content | None
    ) -> tuple[Place, Message]:
        _check("url", url, str)
        parts = parse_url(url)
        fields = header_pairs(headers)
        own = {name.lower() for name, _ in fields}
        fields = [pair for pair in self._headers if pair[0].lower() not in own] + fields
        target, authority = parts.target, parts.authority
        if method == "CONNECT":
            name = f"[{parts.host}]" if ":" in parts.host else parts.host
            target = authority = f"{name}:{parts.port}"
        message = compose(method, target.encode("ascii"), authority.encode("ascii"), fields, content)
        return Place(parts.scheme, parts.host, parts.port), message


def _check(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        msg = f"{name} must be a {kind.__name__}, not {value!r}"
        raise TypeError(msg)


def request(
    manager: Manager,
    method: str,
    url: str,
    *,
    headers: HeaderInput | None = None,
    content: Content | None = None,
    timeout: Timeout | float | None = None,
) -> Exchange:
    """Make one request ready, over a connection of a manager; see `Client.request`."""
    return Client(manager).request(method, url, headers=headers, content=content, timeout=timeout)
