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

import anyio
from anyio import BrokenResourceError

from keepalive.base.types import NEVER
from keepalive.resolve.dns import DNSResolver
from keepalive.resolve.service import Names
from keepalive.transport import fork as _fork
from keepalive.transport.link import Link
from keepalive.transport.poller import new_poller
from keepalive.transport.tasks import Lull
from keepalive.transport.tls import TLSLink

from .alarms import Alarms
from .errors import PoolClosed, send_error
from .expiry import Expiry
from .flow import CLOSED, CONNECTING, DRAINING, HANDSHAKE, OPEN, Flow, Outgoing
from .framer import Framer
from .inbox import Inbox
from .outcomes import Outcomes
from .reply import bad_request
from .routes import Routes
from .via import parse_via

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from keepalive.transport.runtime import Runtime

    from .alarms import Deadline
    from .config import SipConfig
    from .head import Flaw, Head
    from .masters import Acceptor, Mailbox
    from .messages import Packet, Parser
    from .routes import Place
    from .source import Source

logger = logging.getLogger("keepalive.sip")

BUDGET: Final = 500
"""Messages and connections handled in a row; then other tasks run."""
DRAIN: Final = 1.0
"""Seconds a peer has for reading why its connection ends."""


class Engine:
    """The working parts of one pool."""

    def __init__(self, runtime: Runtime, proto: str, config: SipConfig, parser: Parser | None) -> None:
        self.runtime = runtime
        self.clock = runtime.clock
        self.proto = proto
        self.config = config
        self.server_context: ssl.SSLContext | None = None
        self.only: Place | None = None  # the peer that this pool is restricted to
        self.poller = new_poller(runtime, self._readable)
        self.names = Names(config.resolver or DNSResolver(), runtime, self.task_ended)
        self.flows: dict[Flow, None] = {}
        self.routes: Routes[Flow] = Routes(config.max_tid)
        self.expiry: Expiry[Flow] = Expiry(config.min_expire, config.max_expire, config.max_pending)
        self.master: Acceptor | Mailbox | None = None
        self.inbox = Inbox(config.max_inbox, self.postpone)
        self.outcomes = Outcomes(runtime)
        self.finish = self.outcomes.finish
        self.resend: Callable[[Outgoing], None]  # set by the sender
        self.lost: Callable[[Source, str], object] | None = None
        self.ready: dict[Flow | Acceptor | Mailbox, None] = {}  # have more to read than their turn allowed
        self.tasks = 0
        self.loans = 0  # further sockets of attempts
        self.counts: Counter[str] = Counter()
        self.closed_by: Counter[str] = Counter()
        self.flaws: Counter[str] = Counter()
        self.closed = self.forked = False
        self._parser = parser
        self._alarms = Alarms(runtime, self.expiry.next, self._expire)
        self._forgetting = False
        self._budget = BUDGET
        self._resuming = self._looking = False
        self._lull = Lull(lambda: self.tasks or self.names.tasks)
        _fork.watch(self)

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
            self.poller.harvest()
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
            self.runtime.call_soon_threadsafe(self._resume)

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

    def _expire(self, now: float) -> None:
        for flow in self.expiry.due(now):
            self.end(flow, "expired", errno.ETIMEDOUT, "the connection was quiet for too long")

    def later(self, seconds: float, act: Callable[[], object]) -> Deadline:
        """Do something after so many seconds."""
        return self._alarms.later(seconds, act)

    def answered(self, flow: Flow, key: bytes) -> None:
        """Note that a request has had its final response."""
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

    def drop_deadline(self, flow: Flow) -> None:
        """Withdraw a connection's deadline."""
        if flow.deadline is not None:
            self._alarms.withdraw(flow.deadline)
            flow.deadline = None

    def limit_message(self, flow: Flow, started: bool, fresh: bool) -> None:
        """Give a message that has begun its time, or forget it when it is complete.

        :param fresh: whether another one has been completed before it just now
        """
        if not started:
            if flow.taken is None:
                self.drop_deadline(flow)
        elif flow.deadline is None:
            flow.deadline = self.later(self.config.message_timeout, lambda: self._message_due(flow))
            flow.deadline.since = flow.last
        elif fresh:
            flow.deadline.since = flow.last

    def _message_due(self, flow: Flow) -> None:
        deadline = flow.deadline
        if deadline is not None and deadline.since + self.config.message_timeout > self.clock():
            self._alarms.put_off(deadline, deadline.since + self.config.message_timeout)
        else:
            self.end(flow, "deadline", errno.ETIMEDOUT, "a message was not completed in time")

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
        return (most is not None and len(self.flows) + self.loans >= most) or (
            each is not None and self.routes.per_address.get(address, 0) >= each
        )

    def admits(self, address: str, port: int) -> bool:
        """Say whether a peer is the one that this pool is restricted to, or there is no such restriction."""
        if self.only is None:
            return True
        return address == self.only[0] and (self.proto != "udp" or self.only[1] in (0, port))

    def accepted(self, sock: socket.socket, peer: Place) -> None:
        """Take a connection that has arrived."""
        if self.full_for(peer[0]) or not self.admits(*peer):
            self.counts["refused"] += 1
            sock.close()
            return
        try:
            link = Link(sock, self.poller)
        except OSError as exc:  # the kernel's limit of what may be watched
            logger.warning("cannot watch a connection: %s", exc.strerror)
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
        self.limit_opening(flow)

    def limit_opening(self, flow: Flow) -> None:
        """Start `connect_timeout`."""

        def too_late() -> None:
            flow.deadline = None
            self.end(flow, "timeout", errno.ETIMEDOUT, f"not open within {self.config.connect_timeout:g} s")

        flow.deadline = self.later(self.config.connect_timeout, too_late)

    def limit_refusal(self, flow: Flow) -> None:
        """Give a TLS 1.3 server its time for refusing our certificate; it is the one it has for a handshake.

        Of a client's certificate it knows only after the client's end of the handshake, and it need not say
        that it is content. Most servers give tickets then, or answer; only a silent one has all this time.
        """
        flow.deadline = self.later(self.config.connect_timeout, flow.not_refused)

    def opened(self, flow: Flow) -> None:
        """Note that a connection stands; messages go both ways from here."""
        self.drop_deadline(flow)
        flow.state = OPEN
        flow.last = self.clock()
        flow.framer = Framer(self.config.max_header, self.config.max_body)
        link = flow.link
        if not flow.inbound and isinstance(link, TLSLink) and link.engine.version() == "TLSv1.3":
            flow.taken = []
            self.limit_refusal(flow)
        flow.set_result()
        if flow.state is OPEN and link is not None and (link.readable or link.layered):
            self._readable(link.inner if isinstance(link, TLSLink) else link)

    def reject(self, flow: Flow, flaw: Flaw) -> None:
        """End a connection on which messages cannot be told apart any more; say why, if to a request."""
        self.note_flaw(flaw.reason)
        logger.warning("connection with %s, port %d: %s", *flow.where, flaw.reason)
        answer = bad_request(flaw.header, flaw.reason)
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
        self.drop_deadline(flow)
        self.expiry.remove(flow)
        had = flow.unanswered or flow.awaited
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
        for out in outs:
            if phase is CONNECTING and out.spare is not None and not out.finished and not self.closed:
                self.resend(out)
            else:
                where = "connect" if phase is CONNECTING and reason == "timeout" else reason
                self.finish(out, send_error(out.where, where, number, text))
        if self.lost is not None and had:
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
        self.drop_deadline(flow)
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
        if not head.code:
            self.routes.came_in(flow, head.key, awaits=head.method != b"ACK")
            if not self._forgetting:
                self._forget_soon()
            if flow.inbound and flow.proto == "tls" and b"alias" in head.via:
                self._alias(flow, head)
        elif head.code >= 200 and flow.awaited is not None:
            flow.awaited.pop(head.key, None)
            flow.settle()
        self.deliver(head, flow.source, flow)

    def _alias(self, flow: Flow, head: Head) -> None:
        via = parse_via(head.via)
        if via is not None and via.alias and flow.certificate is not None:
            self.routes.alias(flow, (flow.where[0], via.port or 5061))

    def deliver(self, head: Head, source: Source, flow: Flow | None) -> None:
        """Hand a message over, or keep it until somebody takes it."""
        self.counts["received"] += 1
        packet: Packet = head.raw
        if self._parser is not None:
            try:
                packet = self._parser(head)
            except ValueError as exc:
                self._unparsed(head, source, flow, str(exc))
                return
        self.inbox.put(packet, source)

    def _unparsed(self, head: Head, source: Source, flow: Flow | None, text: str) -> None:
        """Drop a message that the library cannot represent; its stream is in order and goes on."""
        self.note_flaw("unparsed")
        logger.info("message from %r: %s", source, text)
        answer = bad_request(head.header, "cannot be parsed") if not head.code else None
        if answer is not None and flow is not None:
            self.answered(flow, head.key)
            flow.send(Outgoing(answer, "", None))

    # -- the end --------------------------------------------------------------------------------------

    def task_ended(self) -> None:
        """Note that a task of this pool has ended."""
        self._lull.look()

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
            await self._lull.wait()
        finally:
            self.outcomes.tell_all()
            self._alarms.end()
            self.poller.close()
            _fork.forget(self)
        with anyio.CancelScope(shield=True):
            await self.runtime.aclose()

    def give_up(self, out: Outgoing) -> None:
        """Withdraw a message whose sender waits no more, unless it has its outcome."""
        if not out.finished and out.flow is not None:
            out.flow.withdraw(out)

    def check_open(self) -> None:
        """Refuse what a closed pool cannot do."""
        if self.closed:
            msg = "the pool has been closed"
            raise PoolClosed(msg)

    def abandon(self) -> None:
        """In a forked child: close the copies of all descriptors without a word to the peers."""
        self.closed = self.forked = True
        self.poller.abandon()
