"""The connections of one pool: who has which state, what completes which message, and who is late. Pure.

What happens outside comes in as a call, with its time; what is to be done outside, the `Flow` does, or who
made the table. That may call back in here: each is the last thing that its call does to what it is about.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Generic

from keepalive.base.timer_queue import TimerQueue
from keepalive.base.types import NEVER

from .expiry import Expiry
from .flow import CLOSED, CONNECTING, DRAINING, OPEN, Deadline, F
from .outgoing import Completions
from .routes import Routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.sip.config import SipConfig

    from .outgoing import Outgoing

MAX_AWAITED: Final = 1024
"""Requests sent on one connection whose final response is looked out for; older ones no longer spare it."""
DRAIN: Final = 1.0  # seconds a peer has for reading why its connection ends


class Flows(Generic[F]):
    """All connections of a pool.

    :param wake_at: called to have `tick` called at this time, instead of a later one
    :param call_soon: called to have what `Completions.due` yields called, in a turn of its own
    """

    def __init__(
        self, limits: SipConfig, wake_at: Callable[[float], None], call_soon: Callable[[], None]
    ) -> None:
        self._limits = limits
        self._wake_at = wake_at
        self.completions = Completions(call_soon)
        self._deadlines: TimerQueue[Deadline] = TimerQueue()
        self._armed = NEVER
        self.all: dict[F, None] = {}  # those that drain too
        self.routes: Routes[F] = Routes(limits.max_tid)
        self.expiry: Expiry[F] = Expiry(
            limits.min_expire, limits.max_expire, limits.max_pending, limits.ping_expire
        )
        self.extra = 0  # further sockets of attempts; they count as connections
        self.closed_by: Counter[str] = Counter()  # how many have ended, by reason
        self.closed = False

    # -- time ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._armed = NEVER
        try:
            for deadline in self._deadlines.pop_due(now):
                deadline.on_expiry(deadline.flow, now)
            for flow in self.expiry.due(now):
                if flow.pending or not self._received_more(flow):
                    self.end(flow, "expired", errno.ETIMEDOUT, "the connection was quiet for too long", now)
            self.routes.forget_old(now)
        finally:
            self._arm(min(self.expiry.next(), self._deadlines.next(), self.routes.next()))

    def _arm(self, when: float) -> None:
        if when < self._armed:
            self._armed = when
            self._wake_at(when)

    def _start(self, flow: F, expired: Callable[[F, float], None], since: float, seconds: float) -> Deadline:
        deadline = Deadline(flow, expired, since)
        self._put_off(deadline, since + seconds)
        return deadline

    def _put_off(self, deadline: Deadline, when: float) -> None:
        self._deadlines.enter(deadline, when)
        self._arm(when)

    def _stop(self, flow: F) -> None:
        if flow.deadline is not None:
            self._deadlines.withdraw(flow.deadline)
            flow.deadline = None

    def _stop_all(self, flow: F) -> None:
        self._stop(flow)
        if flow.response_deadline is not None:
            self._deadlines.withdraw(flow.response_deadline)
            flow.response_deadline = None

    def _received_more(self, flow: F) -> bool:
        """Look once more before a connection ends for its silence; say whether there is something."""
        if flow.ended:
            return False
        before = flow.last_received
        flow.read_again()
        return flow.last_received > before or flow.unread

    # -- to stand --------------------------------------------------------------------------------------

    def limit_reached(self, address: str) -> bool:
        """Say whether a limit forbids one more connection to or from an address."""
        most, each = self._limits.max_connections, self._limits.max_per_peer
        return (most is not None and len(self.all) + self.extra >= most) or (
            each is not None and self.routes.per_address.get(address, 0) >= each
        )

    def add(self, flow: F, now: float) -> None:
        """Enter a connection into all tables; it has `connect_timeout` to stand."""
        self.all[flow] = None
        self.routes.add(flow)
        self.expiry.add(flow)
        self._arm(self.expiry.next())
        if flow.state is not OPEN:
            flow.deadline = self._start(flow, self._open_timed_out, now, self._limits.connect_timeout)

    def _open_timed_out(self, flow: F, now: float) -> None:
        text = f"not open within {self._limits.connect_timeout:g} s"
        self.end(flow, "timeout", errno.ETIMEDOUT, text, now)

    def opened(self, flow: F, now: float, *, confirm: bool) -> None:
        """Note that a connection stands; messages go both ways from here.

        :param confirm: it is one of TLS 1.3, to a server. Of a client's certificate that knows only after
            the client's end of the handshake, and it need not say that it is content. Most servers give
            tickets then, or answer; a silent one has the time it has for a handshake for refusing
        """
        self._stop(flow)
        flow.state = OPEN
        flow.last_used = flow.last_received = now
        if confirm:
            flow.unconfirmed = []
            flow.deadline = self._start(flow, self._confirm_timed_out, now, self._limits.connect_timeout)
        if any(out.expects_answer for out in flow.queue or ()):
            self._start_response_timer(flow, now)
        self.update_exemption(flow)

    def confirmed(self, flow: F) -> None:
        """Complete the messages that have waited for the server's consent."""
        taken, flow.unconfirmed = flow.unconfirmed, None
        self._stop(flow)
        for out in taken or ():
            self.completions.complete(out, None)
        self.update_exemption(flow)

    def _confirm_timed_out(self, flow: F, now: float) -> None:
        """Take it for consent that the server has had its time and said nothing, not even just now."""
        flow.deadline = None
        waiting = flow.unconfirmed
        flow.read_again()
        if flow.unconfirmed is waiting:  # it has neither consented nor refused, nor ended
            if flow.unread:
                flow.deadline = self._start(flow, self._confirm_timed_out, now, self._limits.connect_timeout)
            else:
                self.confirmed(flow)

    # -- what comes ------------------------------------------------------------------------------------

    def received(self, flow: F, now: float, *, sign: bool) -> None:
        """Note that bytes have come.

        :param sign: they are a sign of life and nothing else (RFC 5626 4.4.1)
        """
        flow.last_used = flow.last_received = now
        flow.asked_since = None
        if sign:
            flow.keeps_alive = True
        if flow.unconfirmed is not None:
            self.confirmed(flow)
        self.update_exemption(flow)

    def message_progress(self, flow: F, *, started: bool, complete: bool) -> None:
        """Give a message that has begun its time, or forget it when it is complete.

        :param complete: whether another one has been completed before it just now
        """
        if not started:
            if flow.unconfirmed is None:
                self._stop(flow)
        elif flow.deadline is None:
            limit = self._limits.message_timeout
            flow.deadline = self._start(flow, self._message_timed_out, flow.last_received, limit)
        elif complete:
            flow.deadline.since = flow.last_received

    def _message_timed_out(self, flow: F, now: float) -> None:
        deadline = flow.deadline
        assert deadline is not None, "it has come"
        until = deadline.since + self._limits.message_timeout
        if until > now:
            self._put_off(deadline, until)
        else:
            self.end(flow, "deadline", errno.ETIMEDOUT, "a message was not completed in time", now)

    def request_received(self, flow: F, key: bytes, *, awaits: bool) -> None:
        """Bind a request to the connection it came in on; see `Routes.add_transaction`."""
        self.routes.add_transaction(flow, key, awaits=awaits)
        self._arm(self.routes.next())
        self.update_exemption(flow)  # an older one may have been forgotten for it

    def response_received(self, flow: F, key: bytes) -> None:
        """Note a final response."""
        if flow.awaited is not None:
            flow.awaited.pop(key, None)
            self.update_exemption(flow)

    # -- what goes -------------------------------------------------------------------------------------

    def enqueue(self, flow: F, out: Outgoing, now: float) -> bool:
        """Put a message in the queue, or refuse it: then it is completed."""
        if flow.queued + len(out.data) > self._limits.max_queue:
            self.completions.fail(out, "queue", errno.ENOBUFS, "too many bytes wait already")
            return False
        if out.expects_answer and out.key is not None:
            out.opens_transaction = self._expect_response(flow, out.key)
        out.flow = flow
        if out.expects_answer and flow.state is OPEN:
            self._start_response_timer(flow, now)
        flow.queue = flow.queue or deque()
        flow.queue.append(out)
        flow.queued += len(out.data)
        return True

    def _expect_response(self, flow: F, key: bytes) -> bool:
        flow.awaited = flow.awaited or {}
        if key in flow.awaited:
            return False
        flow.awaited[key] = None
        if len(flow.awaited) > MAX_AWAITED:
            del flow.awaited[next(iter(flow.awaited))]
        return True

    def sent(self, flow: F, out: Outgoing) -> None:
        """Note that the first message of the queue is all with the kernel."""
        queue = flow.queue
        assert queue is not None, "it had a message"
        queue.popleft()
        flow.queued -= len(out.data)
        if flow.unconfirmed is None:
            self.completions.complete(out, None)
        else:
            flow.unconfirmed.append(out)
        if not queue:
            flow.queue = None
            self.update_exemption(flow)

    def response_sent(self, flow: F, key: bytes, now: float, *, final: bool) -> None:
        """Note that a request has had a response, if not its final one.

        Its peer has time from now on, however long the answer took: it is waiting, and then an ACK comes, or
        the next request. From a dead peer none comes, so this cannot go on for ever.
        """
        if key in (flow.unanswered or ()):
            flow.last_received = now
        if final:
            self.routes.transaction_answered(flow, key)
            self._arm(self.routes.next())
        self.update_exemption(flow)

    def withdraw(self, out: Outgoing) -> None:
        """Take a message out of the queue, if no byte of it has gone out; nobody wants to know of it."""
        flow = out.flow
        if out.finished or flow is None:
            return
        out.callback = out.parked = None
        if flow.queue and out in flow.queue and not out.sent:
            flow.queue.remove(out)
            flow.queued -= len(out.data)
            out.finished = True
            if out.opens_transaction and flow.awaited is not None and out.key is not None:
                flow.awaited.pop(out.key, None)
            self.update_exemption(flow)

    # -- to answer -------------------------------------------------------------------------------------

    def _start_response_timer(self, flow: F, now: float) -> None:
        """Note that the peer of an open connection owes something: it has `response_timeout` for any byte.

        The time runs from the first such message since something came: those after it do not prolong it.
        """
        limit = self._limits.response_timeout
        if flow.asked_since is None and limit is not None:
            flow.asked_since = now
            if flow.response_deadline is None:  # one that comes too early is put off: cheaper than moving it
                flow.response_deadline = self._start(flow, self._response_timed_out, now, limit)

    def _response_timed_out(self, flow: F, now: float) -> None:
        """End a connection whose peer has said nothing, unless something of it waits to be read."""
        limit, response_deadline = self._limits.response_timeout, flow.response_deadline
        assert limit is not None, "checked when it was asked"
        assert response_deadline is not None, "it has come"
        if flow.asked_since is not None and flow.asked_since + limit <= now and self._received_more(flow):
            flow.asked_since = None  # even if it is we who do not read
        if flow.ended:
            return
        if flow.asked_since is None:
            flow.response_deadline = None
        elif flow.asked_since + limit > now:
            self._put_off(response_deadline, flow.asked_since + limit)
        else:
            text = f"nothing came for {limit:g} s, though it was asked"
            self.end(flow, "silent", errno.ETIMEDOUT, text, now)

    # -- to be quiet -----------------------------------------------------------------------------------

    def keep(self, flow: F, until: float) -> None:
        """Spare a connection from expiry until a time, or no more."""
        sooner, flow.registered_until = until < flow.registered_until, until
        if sooner and flow.exempt:
            self._end_exemption(flow)

    def update_exemption(self, flow: F) -> None:
        """Note that something is pending no more."""
        if flow.exempt and not flow.pending:
            self._end_exemption(flow)

    def _end_exemption(self, flow: F) -> None:
        self.expiry.end_exemption(flow)
        self._arm(self.expiry.next())

    # -- the end ---------------------------------------------------------------------------------------

    def end(
        self, flow: F, reason: str, number: int | None, text: str, now: float, *, drain: bool = False
    ) -> None:
        """End a connection; its messages are completed, in order.

        :param drain: leave the socket open for a moment, so that the peer can read our last words
        """
        if flow.ended:
            self.close(flow)
            return
        phase, flow.state = flow.state, CLOSED
        self.closed_by[reason] += 1
        self._stop_all(flow)
        self.expiry.remove(flow)
        had = {*(flow.unanswered or ()), *(flow.awaited or ())}
        self.routes.remove(flow)
        self._arm(self.routes.next())
        flow.stop()
        outs = [*(flow.unconfirmed or ()), *(flow.queue or ())]
        flow.queue = flow.unconfirmed = flow.awaited = None
        flow.queued = 0
        had.difference_update([out.key for out in outs if out.observed and out.key is not None])
        for out in outs:
            if phase is CONNECTING and out.fallback is not None and not out.finished and not self.closed:
                out.fallback(out)
            else:
                where = "connect" if phase is CONNECTING and reason == "timeout" else reason
                self.completions.fail(out, where, number, text)
        flow.report_lost(reason, transactions=bool(had), stood=phase is OPEN)
        if drain and not self.closed:
            flow.state = DRAINING
            flow.deadline = self._start(flow, lambda one, _: self.close(one), now, DRAIN)
            flow.read_again()
        else:
            self.close(flow)

    def close(self, flow: F) -> None:
        """Close the socket of a connection that has ended."""
        self._stop_all(flow)
        flow.state = CLOSED
        self.all.pop(flow, None)
        flow.close()

    def shutdown(self, now: float) -> None:
        """End all connections; there will be no further ones."""
        self.closed = True
        for flow in list(self.all):
            self.end(flow, "shutdown", errno.ECANCELED, "the pool was closed", now)
