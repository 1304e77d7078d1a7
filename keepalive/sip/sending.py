"""How a message finds its way out: the connection to take, or the attempt to open one."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final

from keepalive.base.addresses import family_of, is_literal
from keepalive.base.failure import DialFailure
from keepalive.base.hostname import canonical
from keepalive.base.types import Key, Phase
from keepalive.connect.opener import Opener
from keepalive.connect.sockets import Net
from keepalive.connect.tcp import TCPConnector
from keepalive.connect.tls import TLSConnector
from keepalive.transport.sessions import Sessions
from keepalive.transport.tls import TLSLink

from .connection import Connection
from .core.flow import CONNECTING
from .core.head import parse_via, response_place, with_transport
from .core.identity import matches
from .errors import send_error
from .source import ANY, Target, place_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from keepalive.connect.connector import Connector
    from keepalive.transport.link import Link

    from .core.head import Head, Via
    from .core.outgoing import Outgoing
    from .engine import Engine
    from .sockets import Mailbox

PORTS: Final = {"udp": 5060, "tcp": 5060, "tls": 5061}
SPARE: Final = 200
"""Bytes by which a request in a datagram must stay below the path's MTU (RFC 3261 18.1.1)."""


class Sender:
    """Sends the messages of one pool, and opens the connections that they need.

    :param mailbox: the socket of a UDP pool
    :param local: address that connections come from, if it is one in particular
    :param context: for TLS
    :param check_names: whether certificates must be of whom we call
    """

    def __init__(
        self,
        engine: Engine,
        proto: str,
        mailbox: Mailbox | None,
        local: str,
        context: ssl.SSLContext | None,
        *,
        check_names: bool,
    ) -> None:
        self._engine = engine
        self._proto = proto
        self._check_names = check_names
        self._mailbox = mailbox
        reactor = engine.reactor
        bound = None if local in ANY else {int(family_of(local)): (local, 0)}
        net = Net(reactor.poller, reactor.clock, bound)
        self._opener = Opener(reactor, net, engine.names, Sessions())
        tcp = TCPConnector(engine.config.options)
        self._connectors: dict[str, Connector] = {"tcp": tcp}
        if context is not None:
            # Connections live long: little would be gained by resuming, and a peer whose trust has been
            # withdrawn would be let in once more.
            self._connectors["tls"] = TLSConnector(context, over=tcp, standard_compatible=False, resume=False)

    def submit(self, out: Outgoing, head: Head | None, target: Target | None) -> None:
        """Send a message; it is completed now or later, and only by `Engine.complete`.

        :param target: None for a response that goes where its Via says
        """
        if self._engine.flows.all:
            self._engine.look()
        if self._proto == "udp":
            self._submit_datagram(out, head, target)
            return
        flow = self._named(out, target)
        if flow is None and head is not None and head.code:
            flow, target = self._way_back(out, head, target)
        if flow is not None:
            out.where = str(flow.source)
            self._give(out, head, flow)
        elif target is not None:
            self._give_to(target, out, head)
        else:
            self._fail(out, "route", errno.EDESTADDRREQ, "no dst, and no usable Via")

    def _fail(self, out: Outgoing, reason: str, number: int | None, text: str | None = None) -> None:
        self._engine.complete(out, send_error(out.where or "?", reason, number, text))

    def _named(self, out: Outgoing, target: Target | None) -> Connection | None:
        """Return the connection that the destination itself means, if it can be used."""
        flow = None if target is None or out.fresh else target.flow
        return flow if isinstance(flow, Connection) and flow.usable else None

    def _way_back(
        self, out: Outgoing, head: Head, target: Target | None
    ) -> tuple[Connection | None, Target | None]:
        """Return what a response goes out on, or where to, if nothing is left of its request's way."""
        routes = self._engine.flows.routes
        via = parse_via(head.via)
        said = None if via is None else (canonical(via.received or via.host), via.rport)
        flow: Connection | None = None
        if not out.fresh:
            place = said if target is None else (target.addr, target.port)
            known = None if target is None or target.flow is None else target.flow.peer[0]
            flow = routes.for_response(head.key, place, known)
            if flow is not None and not flow.usable:
                flow = None  # its peer has gone, which the loop will learn in its next turn
        if flow is None and self._engine.only is None and via is not None and said is not None:
            # RFC 3261 18.2.2: what is left of the request's way, else what the peer said of itself.
            flow = None if out.fresh else routes.for_request(said, None)
            out.spare = None if target is None else partial(self._resend, target)
            target = self._by_via(via)
        return flow, target

    def _by_via(self, via: Via) -> Target:
        host, port = response_place(via, stream=self._proto != "udp", default_port=PORTS[self._proto])
        return Target(canonical(via.host), canonical(host), port)

    def _resend(self, target: Target, out: Outgoing) -> None:
        """Send a message the other way: nobody was to be found where it went first."""
        out.spare = None
        if self._proto != "udp":
            self._give_to(target, out, None)
            return
        out.data = with_transport(out.data, b"UDP")
        self._post_to(target, out)

    def _give_to(self, target: Target, out: Outgoing, head: Head | None) -> None:
        """Send on a connection that leads there, or on a new one."""
        out.where = str(target)
        place = target.addr, target.port
        flow = None if out.fresh else self._engine.flows.routes.for_request(place, target.host)
        flow = flow or self._open(out, target)
        if flow is not None:
            self._give(out, head, flow)

    def _give(self, out: Outgoing, head: Head | None, flow: Connection) -> None:
        flow.send(out)
        if head is not None and head.code:
            self._engine.flows.responded(flow, head.key, self._engine.clock(), final=head.code >= 200)

    def _open(self, out: Outgoing, target: Target) -> Connection | None:
        """Start an attempt; None if there may not be one, and the message has been told."""
        engine = self._engine
        if engine.flows.full_for(target.addr):
            engine.counts["refused"] += 1
            self._fail(out, "limit", errno.EMFILE, "too many connections")
            return None
        proto = "tls" if self._proto == "tls" else "tcp"
        flow = Connection(engine, proto, (target.addr, target.port), target.host if proto == "tls" else None)
        engine.flows.add(flow, engine.clock())
        attempt = FlowAttempt(engine, flow, target, check_name=self._check_names)
        flow.attempt = self._opener.open(attempt, self._connectors[proto])
        return flow

    # -- datagrams ------------------------------------------------------------------------------------

    def _submit_datagram(self, out: Outgoing, head: Head | None, target: Target | None) -> None:
        if target is None and head is not None and (via := parse_via(head.via)) is not None:
            target = self._by_via(via)
        if target is None:
            self._fail(out, "route", errno.EDESTADDRREQ, "no dst, and no usable Via")
            return
        out.where = str(target)
        request = head is not None and not head.code
        config = self._engine.config
        most = config.mtu - SPARE
        flow = self._named(out, target)  # what went over TCP for its size, and what comes back
        if flow is None and not (request and len(out.data) > most and config.oversize != "send"):
            self._post_to(target, out)
        elif flow is None and config.oversize == "refuse":
            text = f"a request of {len(out.data)} bytes, more than {most} (see SipConfig.oversize)"
            self._fail(out, "size", errno.EMSGSIZE, text)
        elif head is not None and head.length != len(out.data) - len(head.header) - 2:
            # Datagrams need no Content-Length, but a stream's reader could not tell where it ends.
            text = "no Content-Length, or a wrong one: it cannot go over TCP"
            self._fail(out, "size", errno.EMSGSIZE, text)
        else:
            if request:
                out.data = with_transport(out.data, b"TCP")  # RFC 3261 18.1.1: the top Via says so
            if flow is not None:
                out.where = str(flow.source)
                self._give(out, head, flow)
            else:  # where nobody takes it, it goes by UDP after all
                out.spare = partial(self._resend, target)
                self._give_to(target, out, head)

    def _post_to(self, target: Target, out: Outgoing) -> None:
        if is_literal(target.addr):
            self._post(out, target.addr, target)
        else:
            self._resolve_and_post(out, target)

    def _post(self, out: Outgoing, addr: str, target: Target) -> None:
        assert self._mailbox is not None, "it is a UDP pool"
        if not self._mailbox.fits(addr):
            self._fail(out, "send", errno.EAFNOSUPPORT, "the socket is of the other family")
            return
        try:
            self._mailbox.send(out, addr, target.port, target.local)
        except OSError as exc:
            self._fail(out, "send", exc.errno, exc.strerror)

    def _resolve_and_post(self, out: Outgoing, target: Target) -> None:
        engine, mailbox = self._engine, self._mailbox
        assert mailbox is not None, "it is a UDP pool"

        async def work() -> None:
            try:
                fitting = [addr for addr in await engine.names.resolve(target.addr) if mailbox.fits(addr)]
            except DialFailure as exc:
                self._fail(out, str(exc.phase), exc.number, exc.text)
                return
            if not fitting:
                self._fail(out, "resolve", errno.EAFNOSUPPORT, "no address of the socket's family")
            elif not engine.closed:
                self._post(out, fitting[0], target)

        def ended() -> None:
            self._fail(out, "shutdown", errno.ECANCELED)

        engine.reactor.spawn(work, ended, f"keepalive sip look-up of {target.addr}")


class FlowAttempt:
    """One connection's attempt, as the opener sees it; see `Attempt`.

    Its further sockets, when a name has several addresses, count as connections.

    :param check_name: whether the certificate must be of whom we call, by SIP's rules (RFC 5922)
    """

    __slots__ = ("_check_name", "_engine", "_flow", "key", "phase")

    def __init__(self, engine: Engine, flow: Connection, target: Target, *, check_name: bool) -> None:
        self._engine = engine
        self._flow = flow
        self._check_name = check_name
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
        """Let messages go, if it is the right peer."""
        engine, flow, name = self._engine, self._flow, self.key.for_addr
        flow.attempt = None
        if isinstance(link, TLSLink) and self._check_name and not matches(link.engine.getpeercert(), name):
            link.inner.close()
            flow.end("tls", None, f"hostname verification failed: not {name}'s certificate")
            return
        try:
            flow.where = place_of(link.sock.getpeername())
        except OSError as exc:  # the peer has gone already
            link.close()
            flow.end(self.phase, exc.errno, exc.strerror or str(exc))
            return
        link.slot = flow
        engine.counts["opened"] += 1
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
