"""The attempts of one pool: what joins its connections to the opener."""

from __future__ import annotations

import errno
import ssl
from typing import TYPE_CHECKING

from keepalive.base.addresses import family_of
from keepalive.base.types import Key, Phase
from keepalive.connect.opener import Opener
from keepalive.connect.sockets import Net
from keepalive.connect.tcp import TCPConnector
from keepalive.connect.tls import TLSConnector
from keepalive.transport.sessions import Sessions
from keepalive.transport.tls import TLSLink

from .core.flow import CONNECTING
from .core.identity import matches
from .source import place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.failure import DialFailure
    from keepalive.connect.connector import Connector
    from keepalive.connect.dial import Dial
    from keepalive.transport.link import Link

    from .connection import Connection
    from .engine import Engine
    from .source import Target


class VerifiedTLS:
    """TLS, and a look whose certificate it is, by SIP's rules (RFC 5922)."""

    def __init__(self, context: ssl.SSLContext, over: Connector, *, check_names: bool) -> None:
        # Connections live long: little would be gained by resuming, and a peer whose trust has been
        # withdrawn would be let in once more.
        self._tls = TLSConnector(context, over=over, standard_compatible=False, resume=False)
        self._check_names = check_names

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        link = await self._tls.connect(dial)
        name = dial.key.for_addr
        if self._check_names and isinstance(link, TLSLink) and not matches(link.engine.getpeercert(), name):
            dial.phase = Phase.TLS
            raise ssl.SSLCertVerificationError(f"hostname verification failed: not {name}'s certificate")
        return link


class Attempts:
    """Opens the connections of one pool.

    :param local: address (and port 0) that connections come from; None for any
    :param client_context: for TLS
    :param check_names: whether certificates must be of whom we call
    """

    def __init__(
        self,
        engine: Engine,
        local: tuple[str, int] | None,
        client_context: ssl.SSLContext | None,
        *,
        check_names: bool,
    ) -> None:
        reactor = engine.reactor
        self.engine = engine
        bound = None if local is None else {int(family_of(local[0])): local}
        net = Net(reactor.poller, reactor.clock, bound)
        self._opener = Opener(reactor, net, engine.names, Sessions())
        tcp = TCPConnector(engine.config.options)
        self._connectors: dict[str, Connector] = {"tcp": tcp}
        if client_context is not None:
            self._connectors["tls"] = VerifiedTLS(client_context, tcp, check_names=check_names)

    def open(self, flow: Connection, target: Target) -> None:
        """Start the attempt of a connection."""
        flow.attempt = self._opener.open(FlowAttempt(self.engine, flow, target), self._connectors[flow.proto])


class FlowAttempt:
    """One connection's attempt, as the opener sees it; see `Attempt`.

    Its further sockets, when a name has several addresses, count as connections.
    """

    __slots__ = ("_engine", "_flow", "key", "phase")

    def __init__(self, engine: Engine, flow: Connection, target: Target) -> None:
        self._engine = engine
        self._flow = flow
        self.key = Key(flow.proto, target.addr, target.port, flow.proto, target.host, target.port)
        self.phase: str = Phase.CONNECT

    def enter_phase(self, phase: str) -> None:
        """Note what it is doing."""
        self.phase = phase

    def set_deadline(self, when: float, timeout: str) -> None:
        """Do nothing: the pool has a deadline for all of it."""

    @property
    def wanted(self) -> bool:
        """Whether the connection has not ended meanwhile."""
        return self._flow.state is CONNECTING

    def take_extra(self, recall: Callable[[], None]) -> bool:
        """Take a place for one more socket, if there is room."""
        if self._engine.flows.full_for(self.key.addr):
            return False
        self._engine.flows.extra += 1
        return True

    def give_back_extra(self) -> None:
        """Give one back."""
        self._engine.flows.extra -= 1

    def opened(self, link: Link) -> None:
        """Let messages go."""
        engine, flow = self._engine, self._flow
        root = link.inner if isinstance(link, TLSLink) else link
        flow.attempt = None
        try:
            flow.where = place_of(root.sock.getpeername())
        except OSError as exc:  # the peer has gone already
            link.close()
            flow.end(self.phase, exc.errno, exc.strerror or str(exc))
            return
        root.slot = flow
        engine.services.counts["opened"] += 1
        engine.flows.routes.alias(flow, flow.where)
        flow.start(link)

    def failed(self, failure: DialFailure) -> None:
        """End the connection, and its messages with it."""
        if self.wanted:
            self._flow.attempt = None  # it is ending by itself
            self._flow.end(str(failure.phase), failure.number, failure.text)

    def ended(self) -> None:
        """End the connection that nobody opens any more."""
        self._flow.attempt = None
        if self.wanted:
            self._flow.end("connect", errno.ECANCELED, "the attempt was cancelled")
