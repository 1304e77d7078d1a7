"""How a message finds its way out: the connection to take, or the attempt to open one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, cast

from keepalive.base.addresses import is_literal
from keepalive.base.failure import DialFailure
from keepalive.base.types import Phase

from .connection import Connection
from .core.via import parse_via, response_place, with_transport
from .errors import send_error
from .source import Target, canonical

if TYPE_CHECKING:
    from .attempts import Attempts
    from .core.head import Head
    from .core.outgoing import Outgoing
    from .core.via import Via
    from .engine import Engine
    from .mailbox import Mailbox

PORTS: Final = {"udp": 5060, "tcp": 5060, "tls": 5061}
SPARE: Final = 200
"""Bytes by which a request in a datagram must stay below the path's MTU (RFC 3261 18.1.1)."""


class Sender:
    """Sends the messages of one pool."""

    def __init__(self, engine: Engine, attempts: Attempts) -> None:
        self._engine = engine
        engine.resend = self._resend
        self._attempts = attempts

    # -- the way --------------------------------------------------------------------------------------

    def submit(self, out: Outgoing, head: Head | None, target: Target | None) -> None:
        """Send a message; it is completed now or later, and only by `Engine.complete`.

        :param target: None for a response that goes where its Via says
        """
        engine, proto = self._engine, self._engine.proto
        out.read(head)
        if engine.flows.all:
            engine.services.dispatcher.look()
        if proto == "udp":
            self._submit_datagram(out, head, target)
            return
        flow = self._named(out, target)
        if flow is None and head is not None and head.code:
            via = parse_via(head.via)
            said = None if via is None else (canonical(via.received or via.host), via.rport)
            place = said if target is None else (target.addr, target.port)
            known = None if target is None or target.flow is None else target.flow.peer[0]
            flow = None if out.fresh else engine.flows.routes.for_response(head.key, place, known)
            if flow is not None and not flow.usable:
                flow = None  # its peer has gone, which the loop will learn in its next turn
            if flow is None and engine.only is None and via is not None and said is not None:
                # RFC 3261 18.2.2: what is left of the request's way, else what the peer said of itself.
                flow = None if out.fresh else engine.flows.routes.for_request(said, None)
                out.spare = target
                target = self._by_via(via)
        if flow is not None:
            self._give(out, head, flow)
        elif target is not None:
            self._give_to(target, out, head, proto)
        else:
            engine.complete(out, send_error("?", "route", errno.EDESTADDRREQ, "no dst, and no usable Via"))

    def _named(self, out: Outgoing, target: Target | None) -> Connection | None:
        """Return the connection that the destination itself means, if it can be used."""
        flow = None if target is None or out.fresh else target.flow
        return flow if isinstance(flow, Connection) and flow.usable else None

    def _give_to(self, target: Target, out: Outgoing, head: Head | None, proto: str) -> None:
        """Send on a connection that leads there, or on a new one."""
        out.where = str(target)
        place = target.addr, target.port
        flow = None if out.fresh else self._engine.flows.routes.for_request(place, target.host)
        flow = flow or self._open(out, target, proto)
        if flow is not None:
            self._give(out, head, flow)

    def _by_via(self, via: Via) -> Target:
        proto = self._engine.proto
        host, port = response_place(via, stream=proto != "udp", default_port=PORTS[proto])
        return Target(canonical(via.host), canonical(host), port)

    def _resend(self, out: Outgoing) -> None:
        """Send a message the other way: nobody was to be found where it went first."""
        target, out.spare = out.spare, None
        assert target is not None, "asked for by the caller"
        if self._engine.proto != "udp":
            self._give_to(target, out, None, self._engine.proto)
            return
        out.data = with_transport(out.data, b"UDP")
        self._post_to(target, out)

    def _give(self, out: Outgoing, head: Head | None, flow: Connection) -> None:
        if not out.where:
            out.where = str(flow.source)
        flow.send(out, request=head is not None and not head.code and head.method != b"ACK")
        if head is not None and head.code:
            self._engine.flows.responded(flow, head.key, self._engine.clock(), final=head.code >= 200)

    # -- datagrams ------------------------------------------------------------------------------------

    def _submit_datagram(self, out: Outgoing, head: Head | None, target: Target | None) -> None:
        engine = self._engine
        if target is None and head is not None and (via := parse_via(head.via)) is not None:
            target = self._by_via(via)
        if target is None:
            engine.complete(out, send_error("?", "route", errno.EDESTADDRREQ, "no dst, and no usable Via"))
            return
        if (flow := self._named(out, target)) is not None:
            if self._framed(out, head, str(target)):
                if head is not None and not head.code:
                    out.data = with_transport(out.data, b"TCP")
                self._give(out, head, flow)  # what went over TCP for its size, and what comes back
            return
        out.where = str(target)
        most = engine.config.mtu - SPARE
        if head is not None and not head.code and len(out.data) > most and engine.config.oversize != "send":
            if engine.config.oversize == "refuse":
                text = f"a request of {len(out.data)} bytes, more than {most} (see SipConfig.oversize)"
                engine.complete(out, send_error(out.where, "size", errno.EMSGSIZE, text))
                return
            if not self._framed(out, head, out.where):
                return
            # RFC 3261 18.1.1: the top Via then says so, and where nobody takes it, it goes by UDP after all.
            out.data = with_transport(out.data, b"TCP")
            out.spare = target
            self._give_to(target, out, head, "tcp")
            return
        self._post_to(target, out)

    def _framed(self, out: Outgoing, head: Head | None, where: str) -> bool:
        """Say whether a stream's reader could tell where it ends; if not, it has been told.

        Datagrams need no Content-Length, so only here it may be missing or wrong.
        """
        if head is None or head.length == len(out.data) - len(head.header) - 2:
            return True
        text = "no Content-Length, or a wrong one: it cannot go over TCP"
        self._engine.complete(out, send_error(where, "size", errno.EMSGSIZE, text))
        return False

    def _post_to(self, target: Target, out: Outgoing) -> None:
        if is_literal(target.addr):
            self._post(out, target.addr, target)
        else:
            self._resolve_and_post(out, target)

    def _post(self, out: Outgoing, addr: str, target: Target) -> None:
        mailbox = cast("Mailbox", self._engine.mailbox)
        if not mailbox.fits(addr):
            text = "the socket is of the other family"
            self._engine.complete(out, send_error(out.where, "send", errno.EAFNOSUPPORT, text))
            return
        try:
            mailbox.send(out, addr, target.port, target.local)
        except OSError as exc:
            self._engine.complete(out, send_error(out.where, "send", exc.errno, exc.strerror))

    def _resolve_and_post(self, out: Outgoing, target: Target) -> None:
        engine = self._engine

        async def work() -> None:
            try:
                found = await engine.names.resolve(target.addr)
                fits = cast("Mailbox", engine.mailbox).fits
                fitting = [addr for addr in found if fits(addr)]
                if not fitting:
                    raise DialFailure(Phase.RESOLVE, errno.EAFNOSUPPORT, "no address of the socket's family")
            except DialFailure as exc:
                engine.complete(out, send_error(out.where, str(exc.phase), exc.number, exc.text))
            else:
                if not engine.closed:
                    self._post(out, fitting[0], target)

        def ended() -> None:
            engine.complete(out, send_error(out.where, "shutdown", errno.ECANCELED))

        engine.reactor.spawn(work, ended, f"keepalive sip look-up of {target.addr}")

    # -- attempts -------------------------------------------------------------------------------------

    def _open(self, out: Outgoing, target: Target, proto: str) -> Connection | None:
        """Start an attempt; None if there may not be one, and the message has been told."""
        engine = self._engine
        if engine.flows.full_for(target.addr):
            engine.services.counts["refused"] += 1
            engine.complete(out, send_error(out.where, "limit", errno.EMFILE, "too many connections"))
            return None
        name = target.host if proto == "tls" else None
        flow = Connection(engine.services, proto, (target.addr, target.port), name=name)
        engine.flows.add(flow, engine.clock())
        self._attempts.open(flow, target)
        return flow
