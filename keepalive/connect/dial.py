"""One attempt to open a connection: what a connector may do, and how its failures are told."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from copy import copy
from math import inf
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError

from keepalive.base.addresses import (
    is_literal as is_literal,  # from here, since connectors of one's own want it
)
from keepalive.base.failure import DialFailure as DialFailure
from keepalive.base.failure import text_of as text_of
from keepalive.base.hostname import tls_name
from keepalive.base.types import Key, Phase
from keepalive.transport.link import Link
from keepalive.transport.stream import LinkStream, until_readable, until_writable
from keepalive.transport.tls import TLSLink

from .options import DEFAULTS
from .racing import Racing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keepalive.resolve.service import Names
    from keepalive.transport.sessions import Sessions

    from .attempt import Attempt
    from .deadlines import Budget
    from .options import Option
    from .sockets import Net

BACKLOG_PAUSE = 0.01
"""Seconds between two knocks at a Unix listener whose backlog is full."""


class Dial:
    """One attempt for one key, handed to a `Connector`.

    All that is opened by these methods belongs to the attempt until the connector returns: it is
    closed when the connector raises or is cancelled.

    :ivar key: what to connect to
    :ivar session_refused: the last handshake failed, and a session was offered in it: one without may
        succeed, on a new connection
    """

    def __init__(
        self, attempt: Attempt, net: Net, names: Names, budget: Budget | None, sessions: Sessions
    ) -> None:
        self.key: Key = attempt.key
        self._attempt = attempt
        self._net = net
        self._poller = net.poller
        self._names = names
        self._budget = budget
        self._sessions = sessions
        self.session_refused = False
        self.phase = Phase.CONNECT
        self._spend_on(Phase.CONNECT)
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
        return self._attempt.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._attempt.enter_phase(phase)

    def _spend_on(self, phase: Phase) -> None:
        """Say what time is spent on from now on, so that the right deadline holds."""
        if self._budget is not None:
            self._attempt.set_deadline(*self._budget.enter(phase, self._net.clock()))

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host, by the manager's resolver; look-ups of one name are shared.

        Counts against `resolve_timeout`, and not against `connect_timeout`.
        """
        self.phase = Phase.RESOLVE
        self._spend_on(Phase.RESOLVE)
        try:
            addresses = await self._names.resolve(host)
        finally:
            self._spend_on(Phase.CONNECT)
        self.phase = Phase.CONNECT
        return addresses

    async def connect_tcp(self, host: str, port: int, options: Sequence[Option] = DEFAULTS) -> Link:
        """Connect to a host by whichever of its addresses answers first (RFC 8305).

        It begins when the addresses of one family are there; those of the other take part when they come.

        :param options: what the sockets are set to before they connect: (level, name, value)
        :raises OSError: all addresses failed; the errno is that of the first one that did
        """
        self.phase = Phase.RESOLVE
        self._spend_on(Phase.RESOLVE)
        with self._names.ask(host) as asking:
            try:
                addresses = await anext(asking)
            finally:
                self._spend_on(Phase.CONNECT)
            self.phase = Phase.CONNECT
            patience = inf if self._budget is None else self._budget.share(len(addresses))
            racing = Racing(self._net, self._attempt, port, options, patience)
            early = not any(":" in address for address in addresses)  # IPv6 goes first, if it is there
            racing.add(addresses, more=not asking.over, early=early)
            link = await (racing.run() if asking.over else racing.run_with(asking))
        link.name = asking.name
        self._links.append(link)
        return link

    async def connect_unix(self, path: str) -> Link:
        """Connect to a Unix stream socket; a path that starts with NUL names an abstract one."""
        self.phase = Phase.CONNECT
        sock = await self._net.line.wait_for(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            sock.setblocking(False)
            return await self._connect(sock, path)
        except BaseException:
            sock.close()
            raise

    async def _connect(self, sock: socket.socket, path: str) -> Link:
        number = sock.connect_ex(path)
        self._poller.loose.add(sock)
        try:
            while number == errno.EAGAIN:  # a Unix listener's full backlog; nothing tells when it has room
                await anyio.sleep(BACKLOG_PAUSE)
                number = sock.connect_ex(path)
        finally:
            self._poller.loose.discard(sock)
        if number:
            raise OSError(number, os.strerror(number))
        return self.adopt(sock)

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

        :param server_hostname: whom to ask for and to verify: an address or a name, which goes by its
            A-labels (IDNA 2008), without a trailing dot
        :param strict: whether an end of stream without TLS's own end is an error (RFC 8446 6.1)
        :param resume: whether to offer the newest session of the same key, name and context, if there is
            one; a peer that knows it no more does a full handshake instead
        :raises ssl.SSLError: the handshake failed; certificate and name errors too
        :raises BrokenResourceError: the connection did
        """
        self.phase = Phase.TLS
        self._spend_on(Phase.TLS)
        self.session_refused = False
        if server_hostname is not None:
            server_hostname = tls_name(server_hostname)
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
        finally:
            self._spend_on(Phase.CONNECT)
        self._sessions.handshakes += 1
        self._sessions.resumed += bool(sealed.engine.session_reused)
        if shelf is not None:
            shelf.shaken(sealed.engine, session)
        return sealed

    def begin_setup(self) -> None:
        """Enter the phase in which a life cycle sets the connection up: the attempt's last one."""
        self.phase = Phase.SETUP
        self._spend_on(Phase.SETUP)

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
        if not self.has(link):
            msg = f"the connector returned {link!r}, which is not an open link of this attempt"
            raise ValueError(msg)
        self._links.remove(_root(link))
        self.close()

    def has(self, link: Link) -> bool:
        """Say whether this is an open link of this attempt."""
        root = _root(link)
        return root in self._links and not root.closed

    @property
    def wanted(self) -> bool:
        """Whether the attempt has not been given up."""
        return self._attempt.wanted

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


def _root(link: Link) -> Link:
    """Return the link at the socket, below all TLS."""
    while isinstance(link, TLSLink):
        link = link.inner
    return link
