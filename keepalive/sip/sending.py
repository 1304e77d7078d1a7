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
from .source import UNSPECIFIED, Source, host_and_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from keepalive.connect.connector import Connector
    from keepalive.transport.link import Link

    from .core.head import Head, Via
    from .core.outgoing import Outgoing
    from .engine import Engine
    from .sockets import UDPSocket

PORTS: Final = {"udp": 5060, "tcp": 5060, "tls": 5061}
MTU_RESERVE: Final = 200
"""Bytes by which a request in a datagram must stay below the path's MTU (RFC 3261 18.1.1)."""


class Sender:
    """Sends the messages of one pool, and opens the connections that they need.

    :param local: address that connections come from, if it is one in particular
    :param check_names: whether certificates must be of whom we call
    """

    def __init__(
        self,
        engine: Engine,
        proto: str,
        udp_socket: UDPSocket | None,
        local: str,
        context: ssl.SSLContext | None,
        *,
        check_names: bool,
    ) -> None:
        self._engine = engine
        self._fail = engine.completions.fail
        self._proto = proto
        self._check_names = check_names
        self._udp_socket = udp_socket
        reactor = engine.reactor
        bound = None if local in UNSPECIFIED else {int(family_of(local)): (local, 0)}
        net = Net(reactor.poller, reactor.clock, bound)
        self._opener = Opener(reactor, net, engine.names, Sessions())
        tcp = TCPConnector(engine.config.options)
        self._connectors: dict[str, Connector] = {"tcp": tcp}
        if context is not None:
            # Connections live long: little would be gained by resuming, and a peer whose trust has been
            # withdrawn would be let in once more.
            self._connectors["tls"] = TLSConnector(context, over=tcp, standard_compatible=False, resume=False)

    def submit(self, out: Outgoing, head: Head | None, target: Source | None) -> None:
        """Send a message; it is completed now or later, and only by `Completions.complete`.

        :param target: None for a response that goes where its Via says
        """
        if self._engine.flows.all:
            self._engine.poll()
        if self._proto == "udp":
            self._submit_datagram(out, head, target)
            return
        flow = self._requested_connection(out, target)
        if flow is None and head is not None and head.code:
            flow, target = self._route_response(out, head, target)
        if flow is not None:
            out.where = str(flow.source)
            self._send_on(out, head, flow)
        elif target is not None:
            self._send_stream(target, out, head)
        else:
            self._fail(out, "route", errno.EDESTADDRREQ, "no dst, and no usable Via")

    def _requested_connection(self, out: Outgoing, target: Source | None) -> Connection | None:
        """Return the connection that the destination itself means, if it can be used."""
        flow = None if target is None or out.fresh else target._flow
        return flow if isinstance(flow, Connection) and flow.usable else None

    def _route_response(
        self, out: Outgoing, head: Head, target: Source | None
    ) -> tuple[Connection | None, Source | None]:
        """Return what a response goes out on, or where to, if nothing is left of its request's way."""
        routes = self._engine.flows.routes
        via = parse_via(head.via)
        said = None if via is None else (canonical(via.received or via.host), via.rport)
        flow: Connection | None = None
        if not out.fresh:
            place = said if target is None else (target.addr, target.port)
            known = None if target is None or target._flow is None else target._flow.peer[0]
            flow = routes.for_response(head.key, place, known)
            if flow is not None and not flow.usable:
                flow = None  # its peer has gone, which the loop will learn in its next turn
        if flow is None and self._engine.allowed_peer is None and via is not None and said is not None:
            # RFC 3261 18.2.2: what is left of the request's way, else what the peer said of itself.
            flow = None if out.fresh else routes.for_request(said, None)
            out.fallback = None if target is None else partial(self._resend, target)
            target = self._via_target(via)
        return flow, target

    def _via_target(self, via: Via) -> Source:
        host, port = response_place(via, stream=self._proto != "udp", default_port=PORTS[self._proto])
        return Source(canonical(via.host), canonical(host), port)

    def _resend(self, target: Source, out: Outgoing) -> None:
        """Send a message the other way: nobody was to be found where it went first."""
        out.fallback = None
        if self._proto != "udp":
            self._send_stream(target, out, None)
            return
        out.data = with_transport(out.data, b"UDP")
        self._send_datagram(target, out)

    def _send_stream(self, target: Source, out: Outgoing, head: Head | None) -> None:
        """Send on a connection that leads there, or on a new one."""
        out.where = str(target)
        place = target.addr, target.port
        flow = None if out.fresh else self._engine.flows.routes.for_request(place, target.host)
        flow = flow or self._open(out, target)
        if flow is not None:
            self._send_on(out, head, flow)

    def _send_on(self, out: Outgoing, head: Head | None, flow: Connection) -> None:
        flow.send(out)
        if head is not None and head.code:
            self._engine.flows.response_sent(flow, head.key, self._engine.clock(), final=head.code >= 200)

    def _open(self, out: Outgoing, target: Source) -> Connection | None:
        """Start an attempt; None if there may not be one, and the message has been told."""
        engine = self._engine
        if engine.flows.limit_reached(target.addr):
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

    def _submit_datagram(self, out: Outgoing, head: Head | None, target: Source | None) -> None:
        if target is None and head is not None and (via := parse_via(head.via)) is not None:
            target = self._via_target(via)
        if target is None:
            self._fail(out, "route", errno.EDESTADDRREQ, "no dst, and no usable Via")
            return
        out.where = str(target)
        request = head is not None and not head.code
        config = self._engine.config
        most = config.mtu - MTU_RESERVE
        flow = self._requested_connection(out, target)  # what went over TCP for its size, and what comes back
        if flow is None and not (request and len(out.data) > most and config.oversize != "send"):
            self._send_datagram(target, out)
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
                self._send_on(out, head, flow)
            else:  # where nobody takes it, it goes by UDP after all
                out.fallback = partial(self._resend, target)
                self._send_stream(target, out, head)

    def _send_datagram(self, target: Source, out: Outgoing) -> None:
        if is_literal(target.addr):
            self._send_datagram_to(out, target.addr, target)
        else:
            self._resolve_and_send(out, target)

    def _send_datagram_to(self, out: Outgoing, addr: str, target: Source) -> None:
        assert self._udp_socket is not None, "it is a UDP pool"
        if not self._udp_socket.supports(addr):
            self._fail(out, "send", errno.EAFNOSUPPORT, "the socket is of the other family")
            return
        try:
            self._udp_socket.send(out, addr, target.port, target.local.addr)
        except OSError as exc:
            self._fail(out, "send", exc.errno, exc.strerror)

    def _resolve_and_send(self, out: Outgoing, target: Source) -> None:
        engine, udp_socket = self._engine, self._udp_socket
        assert udp_socket is not None, "it is a UDP pool"

        async def work() -> None:
            try:
                found = await engine.names.resolve(target.addr)
            except DialFailure as exc:
                self._fail(out, str(exc.phase), exc.number, exc.text)
                return
            fitting = [addr for addr in found if udp_socket.supports(addr)]
            if not fitting:
                self._fail(out, "resolve", errno.EAFNOSUPPORT, "no address of the socket's family")
            elif not engine.closed:
                self._send_datagram_to(out, fitting[0], target)

        def ended() -> None:
            self._fail(out, "shutdown", errno.ECANCELED)

        engine.reactor.spawn(work, ended, f"keepalive sip look-up of {target.addr}")


class FlowAttempt:
    """One connection's attempt, as the opener sees it; see `Attempt`.

    Its further sockets, when a name has several addresses, count as connections.

    :param check_name: whether the certificate must be of whom we call, by SIP's rules (RFC 5922)
    """

    __slots__ = ("_check_name", "_engine", "_flow", "key", "phase")

    def __init__(self, engine: Engine, flow: Connection, target: Source, *, check_name: bool) -> None:
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
        if self._engine.flows.limit_reached(self.key.addr):
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
            flow.peer_address = host_and_port(link.sock.getpeername())
        except OSError as exc:  # the peer has gone already
            link.close()
            flow.end(self.phase, exc.errno, exc.strerror or str(exc))
            return
        link.slot = flow
        engine.counts["opened"] += 1
        engine.flows.routes.alias(flow, flow.peer_address)
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
