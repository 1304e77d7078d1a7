"""What lives between a pool's entry and its end: poller, timer, connections, what was received and told.

Everything here is plain and runs in callbacks of the event loop. Callbacks of users are called when nothing
of the pool is half done; outcomes of sends always in a turn of their own, in order.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from anyio import BrokenResourceError

from keepalive.base.text import printable
from keepalive.base.types import NEVER
from keepalive.resolve.dns import DNSResolver
from keepalive.resolve.service import Names
from keepalive.transport.link import Link
from keepalive.transport.reactor import Reactor
from keepalive.transport.tls import TLSLink

from .alarms import Alarms
from .core.expiry import Expiry
from .core.framer import Framer
from .core.reply import bad_request
from .core.routes import Routes
from .core.via import parse_via
from .errors import PoolClosed, send_error
from .flow import CLOSED, CONNECTING, DRAINING, HANDSHAKE, OPEN, Flow
from .inbox import Inbox
from .limits import Limits
from .outcomes import Outcomes
from .outgoing import Outgoing
from .source import UNKNOWN, Source

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from keepalive.transport.runtime import Runtime

    from .alarms import Deadline
    from .config import SipConfig
    from .core.head import Flaw, Head
    from .core.routes import Place
    from .masters import Acceptor, Mailbox
    from .messages import Packet, Parser

logger = logging.getLogger("keepalive.sip")

BUDGET: Final = 500
"""Messages and connections handled in a row; then other tasks run."""
DRAIN: Final = 1.0
"""Seconds a peer has for reading why its connection ends."""
MAX_UNREAD: Final = 65536
"""Bytes that may wait for a peer on a connection when it is told of a flaw."""


class Engine:
    """The working parts of one pool."""

    def __init__(self, runtime: Runtime, proto: str, config: SipConfig, parser: Parser | None) -> None:
        self.reactor = Reactor(runtime, self._readable, self._abandoned)
        self.clock = self.reactor.clock
        self.proto = proto
        self.config = config
        self.server_context: ssl.SSLContext | None = None
        self.only: Place | None = None  # the peer that this pool is restricted to
        self.names = Names(config.resolver or DNSResolver(), self.reactor)
        self.flows: dict[Flow, None] = {}
        self.routes: Routes[Flow] = Routes(config.max_tid)
        self.expiry: Expiry[Flow] = Expiry(
            config.min_expire, config.max_expire, config.max_pending, config.ping_expire
        )
        self.master: Acceptor | Mailbox | None = None
        self.inbox = Inbox(config.max_inbox, self.postpone)
        self.outcomes = Outcomes(self.reactor)
        self.finish = self.outcomes.finish
        self.resend: Callable[[Outgoing], None]  # set by the sender
        self.lost: Callable[[Source, str], object] | None = None
        self.lost_idle = False
        self.flawed: Callable[[bytes, Source, str], object] | None = None
        self.ready: dict[Flow | Acceptor | Mailbox, None] = {}  # have more to read than their turn allowed
        self.extra_sockets = 0  # further ones of attempts
        self.counts: Counter[str] = Counter()
        self.closed_by: Counter[str] = Counter()
        self.flaws: Counter[str] = Counter()
        self.closed = False
        self._parser = parser
        self._options = config.options.listed()
        self._alarms = Alarms(self.reactor, self.expiry.next, lambda now: self.limits.expire(now))
        self.limits = Limits(self, config, self._alarms)
        self._forgetting = False
        self._budget = BUDGET
        self._resuming = self._looking = False

    # -- the poller and its turns ---------------------------------------------------------------------

    def _readable(self, root: Link) -> None:
        owner = root.slot
        if owner is None:
            return  # an attempt's
        if self._budget > 0 and not self._looking:
            self.read_now(owner)
        else:
            self.postpone(owner)

    def look(self) -> None:
        """Learn which connections the kernel knows to be dead. Nothing is read and nobody called back."""
        self._looking = True
        try:
            self.reactor.poller.harvest()
        finally:
            self._looking = False

    def read_now(self, owner: Flow | Acceptor | Mailbox) -> None:
        """Let one read; an error of the pool itself ends a connection, not the pool."""
        try:
            self._budget -= owner.read()
        except Exception:
            logger.exception("reading from %r", owner)
            if isinstance(owner, Flow):
                self.end(owner, "error", None, "an error of the pool itself")
        if self._budget <= 0:
            self._resume_soon()

    def postpone(self, owner: Flow | Acceptor | Mailbox) -> None:
        """Let others have their turn before this one reads on."""
        self.ready[owner] = None
        self._resume_soon()

    def _resume_soon(self) -> None:
        if not self._resuming:
            self._resuming = True
            self.reactor.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        self._budget = BUDGET
        if self.closed:
            return
        ready, self.ready = self.ready, {}
        for owner in ready:
            if self._budget > 0:
                self.read_now(owner)
            else:
                self.postpone(owner)

    # -- time -----------------------------------------------------------------------------------------

    def later(self, seconds: float, act: Callable[[], object]) -> Deadline:
        """Do something after so many seconds."""
        return self._alarms.later(seconds, act)

    def answered(self, flow: Flow, key: bytes, *, final: bool = True) -> None:
        """Note that a request has had a response, if not its final one.

        Its peer has time from now on, however long the answer took: it is waiting, and then an ACK comes, or
        the next request. From a dead peer none comes, so this cannot go on for ever.
        """
        if key in (flow.unanswered or ()):
            flow.heard = self.clock()
        if final:
            self.routes.answered(flow, key)
            self._forget_soon()

    def _forget_soon(self) -> None:
        if not self._forgetting and (when := self.routes.next()) < NEVER:
            self._forgetting = True
            self.later(when - self.clock(), self._forget)

    def _forget(self) -> None:
        self._forgetting = False
        self.routes.forget_old(self.clock())
        self._forget_soon()

    def holds_back(self, flow: Flow) -> bool:
        """Say whether a connection has something to read that it is not its turn or no room for."""
        return flow in self.ready or self.inbox.stalls(flow)

    def keep(self, flow: Flow, until: float) -> None:
        """Spare a connection from expiry until a time, or no more."""
        sooner, flow.kept_until = until < flow.kept_until, until
        if sooner and flow.spared:
            self.settled(flow)

    def settled(self, flow: Flow) -> None:
        """Note that nothing is pending any more on a connection that was spared because of that."""
        self.expiry.settled(flow)
        self._alarms.arm()

    # -- connections ----------------------------------------------------------------------------------

    def add(self, flow: Flow) -> None:
        """Enter a connection into all tables."""
        self.flows[flow] = None
        self.routes.add(flow)
        self.expiry.add(flow)
        self._alarms.arm()

    def full_for(self, address: str) -> bool:
        """Say whether a limit forbids one more connection to or from an address."""
        most, each = self.config.max_connections, self.config.max_per_peer
        return (most is not None and len(self.flows) + self.extra_sockets >= most) or (
            each is not None and self.routes.per_address.get(address, 0) >= each
        )

    def admits(self, address: str, port: int) -> bool:
        """Say whether a peer is the one that this pool is restricted to, or there is no such restriction."""
        if self.only is None:
            return True
        return address == self.only[0] and (self.proto != "udp" or self.only[1] in (0, port))

    def accepted(self, sock: socket.socket, peer: Place) -> None:
        """Take a connection that has arrived."""
        no_certificate = self.proto == "tls" and self.server_context is None
        if no_certificate or self.full_for(peer[0]) or not self.admits(*peer):
            self.counts["refused"] += 1
            sock.close()
            return
        try:
            for option in self._options:
                sock.setsockopt(*option)
            link = Link(sock, self.reactor.poller)
        except OSError as exc:  # the kernel's limit of what may be watched, or it does not know an option
            logger.warning("cannot take a connection: %s", exc.strerror)
            self.counts["refused"] += 1
            sock.close()
            return
        flow = link.slot = Flow(self, self.proto, peer, name=None, inbound=True)
        self.counts["accepted"] += 1
        self.add(flow)
        if self.server_context is None:
            flow.link = link
            self.opened(flow)
            return
        flow.link = TLSLink(link, self.server_context, None, strict=False, server_side=True)
        flow.state = HANDSHAKE
        self.limits.opening(flow)

    def opened(self, flow: Flow) -> None:
        """Note that a connection stands; messages go both ways from here."""
        self.limits.drop(flow)
        flow.state = OPEN
        flow.last = flow.heard = self.clock()
        flow.framer = Framer(self.config.max_header, self.config.max_body)
        link = flow.link
        if not flow.inbound and isinstance(link, TLSLink) and link.engine.version() == "TLSv1.3":
            flow.taken = []
            self.limits.refusal(flow)
        if any(out.asks for out in flow.queue or ()):
            self.limits.asked(flow)
        flow.set_result()
        if flow.state is OPEN and link is not None and (link.readable or link.layered):
            self._readable(link.inner if isinstance(link, TLSLink) else link)

    def reject(self, flow: Flow, flaw: Flaw) -> None:
        """End a connection on which messages cannot be told apart any more; say why, if to a request."""
        answer = self.refuse(flaw.reason, flaw.header, flaw.header, flow.source)
        link = flow.link
        if answer is None or link is None or flow.queue:
            self.end(flow, "framing", errno.EPROTO, f"what the peer sent cannot be read: {flaw.reason}")
            return
        with suppress(BrokenResourceError):
            link.try_send(answer)
            link.send_eof()
        self.end(
            flow, "framing", errno.EPROTO, f"what the peer sent cannot be read: {flaw.reason}", drain=True
        )

    def note_flaw(self, reason: str) -> None:
        """Count something that arrived and was no message."""
        self.flaws[reason] += 1

    def end(self, flow: Flow, reason: str, number: int | None, text: str, *, drain: bool = False) -> None:
        """End a connection; all whose messages wait on it are told, in order.

        :param drain: leave the socket open for a moment, so that the peer can read our last words
        """
        if flow.state is CLOSED or flow.state is DRAINING:
            self.close_link(flow)
            return
        phase = flow.state
        flow.state = CLOSED
        self.closed_by[reason] += 1
        self.limits.drop_all(flow)
        self.expiry.remove(flow)
        had = {*(flow.unanswered or ()), *(flow.awaited or ())}
        self.routes.remove(flow)
        self.ready.pop(flow, None)
        self.inbox.forget(flow)
        if flow.attempt is not None:
            flow.attempt.cancel()
        if flow.link is not None:
            flow.link.writer = None
        outs = [*(flow.taken or ()), *(flow.queue or ())]
        flow.queue = flow.taken = flow.awaited = None
        flow.queued = 0
        had.difference_update([out.key for out in outs if out.heeded and out.key is not None])
        for out in outs:
            if phase is CONNECTING and out.spare is not None and not out.finished and not self.closed:
                self.resend(out)
            else:
                where = "connect" if phase is CONNECTING and reason == "timeout" else reason
                self.finish(out, send_error(out.where, where, number, text))
        if self.lost is not None and (had or (self.lost_idle and phase is OPEN)):
            lost, source = self.lost, flow.source
            self.outcomes.soon(lambda _: lost(source, reason), None)
        if drain and not self.closed:
            flow.state = DRAINING
            flow.deadline = self.later(DRAIN, lambda: self.close_link(flow))
            flow.read()
        else:
            self.close_link(flow)

    def close_link(self, flow: Flow) -> None:
        """Close the socket of a connection that has ended."""
        self.limits.drop_all(flow)
        flow.state = CLOSED
        self.flows.pop(flow, None)
        link = flow.link
        if link is not None:
            root = link.inner if isinstance(link, TLSLink) else link
            root.slot = None
            link.close()

    # -- what is received -----------------------------------------------------------------------------

    def received(self, flow: Flow, head: Head) -> None:
        """Take a message from a connection."""
        if head.flaw:
            answer = self.refuse(head.flaw, head.header, head.raw, flow.source)
            if answer is not None and flow.state is OPEN and flow.queued < MAX_UNREAD:
                flow.send(Outgoing(answer, "", None))
            return
        if not head.code:
            self.routes.came_in(flow, head.key, awaits=head.method != b"ACK")
            if not self._forgetting:
                self._forget_soon()
            if flow.inbound and flow.proto == "tls" and b"alias" in head.via:
                self._alias(flow, head)
        elif head.code >= 200 and flow.awaited is not None:
            flow.awaited.pop(head.key, None)
            flow.settle()
        self.deliver(head, flow.source)

    def _alias(self, flow: Flow, head: Head) -> None:
        via = parse_via(head.via)
        if via is not None and via.alias and flow.certificate is not None:
            self.routes.alias(flow, (flow.where[0], via.port or 5061))

    def unreachable(self, error: OSError) -> None:
        """Note what ICMP said of a datagram; only of a connected socket is it told."""
        self.note_flaw(f"icmp: {error.strerror}")
        if self.lost is not None and self.only is not None:
            lost, (addr, port) = self.lost, self.only
            local = UNKNOWN if self.master is None else self.master.place
            source = Source(addr, addr, port, "udp", local=local)
            self.outcomes.soon(lambda _: lost(source, "unreachable"), None)

    def refuse(self, reason: str, header: bytes, raw: bytes, source: Source) -> bytes | None:
        """Drop a message with a flaw and tell of it; return what to answer, if it is a request."""
        self.note_flaw(reason)
        logger.warning("message from %s over %s refused: %s", source, source.proto, reason)
        if self.flawed is not None:
            flawed = self.flawed
            self.outcomes.soon(lambda _: flawed(raw, source, reason), None)
        return bad_request(header, reason)

    def deliver(self, head: Head, source: Source) -> None:
        """Hand a message over, or keep it until somebody takes it."""
        self.counts["received"] += 1
        packet: Packet = head.raw
        if self._parser is not None:
            try:
                packet = self._parser(head)
            except Exception as exc:  # whatever the library makes of a stranger's bytes, they are not lost
                self.note_flaw("unparsed")
                logger.info("message from %s is handed over as bytes: %s", source, printable(str(exc)))
        self.inbox.put(packet, source)

    # -- the end --------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """End all connections; nothing is received or sent from here on."""
        if self.closed:
            return
        self.closed = True
        for flow in list(self.flows):
            self.end(flow, "shutdown", errno.ECANCELED, "the pool was closed")
        if self.master is not None:
            unsent = getattr(self.master, "close", self.master.link.close)()
            for out in unsent or ():
                self.finish(out, send_error(out.where, "shutdown", errno.ECANCELED, "the pool was closed"))
        self.inbox.close()

    async def close(self) -> None:
        """End everything and wait for the tasks that were told to end."""
        self.shutdown()
        self.names.close()
        try:
            await self.reactor.wait_for_tasks()
        finally:
            self.outcomes.tell_all()
            self._alarms.end()
            await self.reactor.aclose()

    def give_up(self, out: Outgoing) -> None:
        """Withdraw a message whose sender waits no more, unless it has its outcome."""
        if not out.finished and out.flow is not None:
            out.flow.withdraw(out)

    def check_open(self) -> None:
        """Refuse what a closed pool cannot do."""
        if self.closed:
            msg = "the pool has been closed"
            raise PoolClosed(msg)

    def _abandoned(self) -> None:
        """End this copy after a fork; its descriptors are closed already."""
        self.closed = True
