"""One attempt to open a connection: what a connector may do, and how its failures are told."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from copy import copy
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError

from ._core._types import Key, Phase
from ._io._link import Link
from ._io._stream import LinkStream, until_readable, until_writable
from ._io._tls import TLSLink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._core._records import Slot
    from ._io._poller import Poller
    from ._io._sessions import Sessions

BindAddress = tuple[str, int]

BACKLOG_PAUSE = 0.01
"""Seconds between two knocks at a Unix listener whose backlog is full."""


class DialFailure(Exception):
    """Why an attempt failed: the phase, an errno if there is one, and a text."""

    def __init__(self, phase: str, number: int | None, text: str) -> None:
        super().__init__(phase, number, text)
        self.phase = phase
        self.number = number
        self.text = text


class Dial:
    """One attempt for one key, handed to a `Connector`.

    All that is opened by these methods belongs to the attempt until the connector returns: it is
    closed when the connector raises or is cancelled.

    :ivar key: what to connect to
    :ivar session_refused: the last handshake failed, and a session was offered in it: one without may
        succeed, on a new connection
    """

    def __init__(
        self,
        slot: Slot,
        poller: Poller,
        resolve: Callable[[str], Awaitable[tuple[str, ...]]],
        limit_time: Callable[[Slot, bool], None],
        bind_address: BindAddress | None,
        sessions: Sessions,
    ) -> None:
        self.key: Key = slot.host.key
        self._slot = slot
        self._poller = poller
        self._resolve = resolve
        self._limit_time = limit_time
        self._bind_address = bind_address
        self._sessions = sessions
        self.session_refused = False
        self.phase = Phase.CONNECT
        self._links: list[Link] = []
        self._streams: list[LinkStream] = []

    def toward(self, addr: str, port: int) -> Dial:
        """Return this attempt as a connector sees it that is to connect elsewhere: to a proxy."""
        other = copy(self)
        other.key = Key(Phase.PROXY.value, addr, port, Phase.PROXY.value, addr, port)
        return other

    @property
    def phase(self) -> str:
        """What the attempt is doing; a request that times out meanwhile tells it."""
        return self._slot.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._slot.phase = phase

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host, by the manager's resolver; look-ups of one name are shared."""
        self.phase = Phase.RESOLVE
        self._limit_time(self._slot, False)
        addresses = await self._resolve(host)
        self._limit_time(self._slot, True)
        self.phase = Phase.CONNECT
        return addresses

    async def connect_tcp(self, host: str, port: int) -> Link:
        """Connect to a host; all of its addresses are tried in turn.

        :raises OSError: the error of the first address
        """
        addresses = self._of_bound_family(await self.resolve(host))
        first: OSError | None = None
        for address in addresses:
            try:
                return await self._connect_address(address, port)
            except OSError as exc:
                first = first or exc
        assert first is not None, "a resolution has at least one address"
        raise first

    async def _connect_address(self, address: str, port: int) -> Link:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._bind_address is not None:
                _bind(sock, self._bind_address)
            return await self._connect(sock, _target(address, port))
        except BaseException:
            sock.close()
            raise

    def _of_bound_family(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        if self._bind_address is None:
            return addresses
        host = self._bind_address[0]
        fitting = tuple(address for address in addresses if (":" in address) == (":" in host))
        if not fitting:
            raise DialFailure(Phase.BIND, errno.EAFNOSUPPORT, f"bind_address {host} is of the other family")
        return fitting

    async def connect_unix(self, path: str) -> Link:
        """Connect to a Unix stream socket; a path that starts with NUL names an abstract one."""
        self.phase = Phase.CONNECT
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            return await self._connect(sock, path)
        except BaseException:
            sock.close()
            raise

    async def _connect(self, sock: socket.socket, target: object) -> Link:
        number = sock.connect_ex(target)  # type: ignore[arg-type]  # any address form of its family
        self._poller.loose.add(sock)
        try:
            while number == errno.EAGAIN:  # a Unix listener's full backlog; nothing tells when it has room
                await anyio.sleep(BACKLOG_PAUSE)
                number = sock.connect_ex(target)  # type: ignore[arg-type]  # as above
        finally:
            self._poller.loose.discard(sock)
        link = self.adopt(sock)
        try:
            while number in (errno.EINPROGRESS, errno.EALREADY, errno.EINTR):
                # On loopback the second look finds the connection made, and spares a turn of the loop.
                number = sock.connect_ex(target)  # type: ignore[arg-type]  # as above
                if number in (errno.EINPROGRESS, errno.EALREADY, errno.EINTR):
                    await until_writable(link)
            if number in (0, errno.EISCONN) and target == sock.getsockname():
                number = errno.ECONNREFUSED  # TCP's simultaneous open with itself: nobody listens there
            if number not in (0, errno.EISCONN):
                raise OSError(number, os.strerror(number))
        except BaseException:
            self.give_up(link)  # before its descriptor is closed, see `Poller.remove`
            raise
        return link

    def adopt(self, sock: socket.socket) -> Link:
        """Make a link of a connected stream socket of one's own; it is set to non-blocking."""
        if sock.gettimeout() != 0:
            sock.setblocking(False)
        link = Link(sock, self._poller)
        self._links.append(link)
        return link

    def give_up(self, link: Link) -> None:
        """Close a link of this attempt before its end."""
        if link in self._links:
            self._links.remove(link)
        link.close()

    async def start_tls(
        self,
        link: Link,
        context: ssl.SSLContext,
        server_hostname: str | None,
        *,
        strict: bool = True,
        resume: bool = True,
    ) -> TLSLink:
        """Do a TLS handshake as client over a link, and return the link above it.

        :param strict: whether an end of stream without TLS's own end is an error (RFC 8446 6.1)
        :param resume: whether to offer the newest session of the same key, name and context, if there is
            one; a peer that knows it no more does a full handshake instead
        :raises ssl.SSLError: the handshake failed; certificate and name errors too
        :raises BrokenResourceError: the connection did
        """
        self.phase = Phase.TLS
        self.session_refused = False
        layer = link.depth if isinstance(link, TLSLink) else 0
        shelf = self._sessions.shelf(context, server_hostname, self.key, layer) if resume else None
        session = None if shelf is None else shelf.offer()
        sealed = TLSLink(link, context, server_hostname, strict=strict, session=session)
        try:
            while not sealed.try_handshake():
                await (until_writable(link) if sealed.unsent else until_readable(link))
        except (ssl.SSLError, BrokenResourceError) as exc:
            if (
                shelf is not None
                and session is not None
                and not isinstance(exc, ssl.SSLCertVerificationError)
            ):
                shelf.broken()
                self.session_refused = True
            raise
        self._sessions.handshakes += 1
        self._sessions.resumed += bool(sealed.engine.session_reused)
        if shelf is not None:
            shelf.shaken(sealed.engine, session)
        return sealed

    def stream(self, link: Link) -> LinkStream:
        """Return a byte stream over a link, to talk to a proxy for example. It must not read too far.

        It ends with the attempt: the link then belongs to the manager's users.
        """
        stream = LinkStream.over(link)
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        """Close all that the attempt has opened."""
        for stream in self._streams:
            stream._link = None
        for link in self._links:
            link.close()
        self._links.clear()

    def keep(self, link: Link) -> None:
        """Take the finished link out of the attempt's care, and close whatever else there is."""
        inner = link
        while isinstance(inner, TLSLink):
            inner = inner.inner
        if inner not in self._links or inner.closed:
            msg = f"the connector returned {link!r}, which is not an open link of this attempt"
            raise ValueError(msg)
        self._links.remove(inner)
        self.close()

    def failure(self, exc: Exception) -> DialFailure:
        """Say what an exception of the connector means; it is the failure's ``__cause__``."""
        if isinstance(exc, DialFailure):
            self.phase = exc.phase  # the pool counts failures by phase
            return exc
        cause = exc
        if isinstance(exc, BrokenResourceError) and isinstance(exc.__cause__, OSError):
            exc = exc.__cause__
        number = exc.errno if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) else None
        if isinstance(exc, socket.gaierror):
            number = None
        failure = DialFailure(self.phase, number, text_of(exc))
        failure.__cause__ = cause
        return failure


def _bind(sock: socket.socket, bind_address: BindAddress) -> None:
    host, port = bind_address
    try:
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(bind_address)
    except OSError as exc:
        number = None if isinstance(exc, socket.gaierror) else exc.errno  # an unknown zone has no errno
        raise DialFailure(Phase.BIND, number, f"bind to {host}, port {port}: {exc.strerror}") from exc


def text_of(exc: Exception) -> str:
    """Say for people what went wrong."""
    text: object = None
    if isinstance(exc, ssl.SSLError):
        # Only OpenSSL's own errors have these attributes, not those that a connector makes itself.
        verdict = getattr(exc, "verify_message", None)
        text = f"certificate verify failed: {verdict}" if verdict else getattr(exc, "reason", None)
    if not text and isinstance(exc, OSError):
        text = exc.strerror
    try:
        return str(text or exc) or type(exc).__name__
    except Exception:  # a foreign connector may raise anything, and the request must have its answer
        return type(exc).__name__


def is_literal(host: str) -> bool:
    """Say whether this is an IPv4 or IPv6 address (with a zone, maybe) and not a name."""
    bare, percent, zone = host.partition("%")
    v6 = ":" in bare
    if percent and not (v6 and zone):
        return False
    try:
        socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, bare)
    except (OSError, ValueError):
        return False
    return True


def _target(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Make the socket address of a literal, as the kernel gives it back. No resolver is asked."""
    bare, _, zone = address.partition("%")
    if ":" not in bare:
        return address, port
    index = 0 if not zone else int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return bare, port, 0, index
