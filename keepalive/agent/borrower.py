"""The driver of a borrower: what it has asked for, holds and keeps, and what the agent says to that."""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from keepalive import Connection, Reuse
from keepalive.base.timer_queue import TimerQueue
from keepalive.base.types import IMMEDIATE, NEVER, Key
from keepalive.errors import ManagerClosed, RequestCancelled
from keepalive.transport.reactor import Reactor

from . import wire
from .errors import explain, late, lost, no_descriptor
from .holdings import Holdings
from .line import Line, LineState
from .loan import Asked, LoanLink, PerKey, State, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Runtime

    from .channel import Channel

logger = logging.getLogger("keepalive")

GRACE = 0.5
"""Seconds that the agent is given to say itself that time has run out, and in which phase."""
_REMEMBERED = 1024
_FEW = 3
"""So many requests at a time are asked for, and connections returned, without delay."""


class Borrower:
    """All that lives between a borrowing manager's entry and its end.

    :param retry: requests that wait when the agent is lost are entered again with the next one
    """

    def __init__(
        self, runtime: Runtime, path: str, sticky: float, patience: float | None, *, retry: bool
    ) -> None:
        self.reactor = reactor = Reactor(runtime, self._unread, self._abandoned)
        self.now = reactor.clock
        self.line = Line(path, reactor, self, wire.Hello([1], bool(sticky), patience))
        self.hand = Holdings(reactor, self.line, sticky, self.withdraw, self._arm, self._emptied)
        self.keys: dict[Key, PerKey] = {}
        self.direct: dict[tuple[str, str, int], PerKey] = {}
        self.asked: dict[int, Asked] = {}
        self.last_number = 0
        self.closed = False
        self.timeouts = self.cancelled = self.opened = 0
        self._retry = retry
        self._polls = reactor.poller.poll
        self._late: TimerQueue[Asked] = TimerQueue()
        self._questions: dict[int, Callable[[wire.Numbers | None], None]] = {}
        self._timer = reactor.timer(self._ring)
        self._armed = NEVER
        self._next_ping = NEVER
        self.changed = anyio.Event()  # the line's state, or the number of those held
        self._handlers: dict[type, Callable[[Any], None]] = {
            wire.Failed: self._failed,
            wire.Recall: self._recall,
            wire.Cut: self._cut,
            wire.Over: self._over,
            wire.Numbers: self._numbers,
            wire.Leaving: self._leaving,
        }

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""
        self.reactor.check_here("a manager and what it hands out belong")

    # -- requests -------------------------------------------------------------------------------------

    def per_key(self, key: Key) -> PerKey:
        """Return the record of a key."""
        per_key = self.keys.get(key)
        if per_key is None:
            if len(self.keys) >= _REMEMBERED:
                self.keys = {known: record for known, record in self.keys.items() if not record.at_rest}
                self.direct.clear()
            per_key = self.keys[key] = PerKey(key)
        if key[:3] == key[3:]:
            self.direct[key[:3]] = per_key
        return per_key

    def enter(self, asked: Asked, limits: tuple[float | None, bool, float | None, float | None]) -> None:
        """Enter a request."""
        per_key = asked.per_key
        per_key.requests += 1
        if per_key.kept and not limits[1]:
            asked.state, asked.ticket, asked.reuse = State.SERVED, self.hand.kept.take(per_key), IMMEDIATE
        else:
            asked.message = wire.Allocate(asked.number, per_key.key, *limits)
            self._ask(asked)

    def _ask(self, asked: Asked) -> None:
        """Ask the agent, now or when there is one."""
        self.asked[asked.number] = asked
        asked.per_key.waiting += 1
        self.line.busy = len(self.asked) > _FEW
        if asked.seconds != NEVER:
            due = asked.since + asked.seconds
            self._late.enter(asked, due + GRACE if self.line.state is LineState.UP else max(due, self.now()))
            self._arm(self._late.next())
        if self.line.state is LineState.UP:
            self.line.post(asked.message)
        elif not self._retry:
            self._fail(asked, lost(asked, self.line.why))

    def fetch(self, asked: Asked) -> Connection | None:
        """Hand over what a request has been served with; None if it must (still) wait."""
        ticket = asked.ticket
        if asked.state is State.WAITING:
            return None
        if ticket is None:
            assert asked.failure is not None, "it has ended one way or the other"
            raise asked.failure
        link, per_key = ticket.link, asked.per_key
        now = self.now()
        if asked.reuse is IMMEDIATE and ticket.lent_at < asked.since:
            if events := self._polls():
                self.reactor.poller.sort(events)
            if link.closed or (link.readable and link.look() is not None):
                # It died while it was kept.
                asked.ticket, asked.state = None, State.WAITING
                self.hand.finish(ticket, fit=False)
                asked.message = wire.Allocate(asked.number, per_key.key, self._left(asked))
                self._ask(asked)
                return self.fetch(asked)
            ticket.uses += 1
        asked.state, asked.ticket = State.ENDED, None
        if asked.timer is not None:
            self._late.withdraw(asked)
        link.touched, link.deadline = False, NEVER
        per_key.lent += 1
        self.hand.held += 1
        self._count(per_key, asked.reuse)
        return Connection(self.hand, ticket, link, asked.context, asked.reuse, now)  # type: ignore[arg-type]  # see Ticket

    @staticmethod
    def _count(per_key: PerKey, reuse: Reuse | None) -> None:
        if reuse is IMMEDIATE:
            per_key.immediate += 1
        elif reuse is None:
            per_key.new += 1
        else:
            per_key.deferred += 1

    def _left(self, asked: Asked) -> float | None:
        return None if asked.seconds == NEVER else asked.since + asked.seconds - self.now()

    def withdraw(self, asked: Asked) -> bool:
        """Cancel a request; False if it had ended."""
        if asked.state is State.ENDED or self.reactor.forked:
            return False
        self.cancelled += 1
        text = f"request {asked.number} for {asked.per_key.key} was cancelled"
        if asked.state is State.WAITING:
            self.line.post(wire.Cancel(asked.number))
        self._fail(asked, RequestCancelled(text))
        return True

    def _fail(self, asked: Asked, failure: Exception) -> None:
        """End a request without a connection; what it may have been served with goes back."""
        ticket, asked.ticket = asked.ticket, None
        if asked.state is State.WAITING and self.asked.pop(asked.number, None) is not None:
            asked.per_key.waiting -= 1
        self._late.withdraw(asked)
        asked.state, asked.failure = State.ENDED, failure
        if ticket is not None:
            self.hand.finish(ticket, fit=True)
        if asked.waker is not None and not asked.waker.done():
            asked.waker.set_result(None)

    def orphan(self, record: Asked) -> None:
        """Note that nobody holds a request any more. Called by finalisers: from any thread, at any moment."""
        self.hand.orphan(record)

    def _unread(self, link: Link) -> None:
        """Look at what has become readable while nobody reads it."""
        if link is self.line.channel:
            self.line.read()
            self._arm(self.line.due)
        elif isinstance(link, LoanLink) and link.slot is not None:
            self.hand.look(link.slot)

    # -- what the agent says --------------------------------------------------------------------------

    def line_up(self) -> None:
        """Enter again what waits for an agent."""
        self._ping_later()
        for asked in tuple(self.asked.values()):
            left = self._left(asked)
            message = asked.message
            asked.message = wire.Allocate(
                message.number, message.key, left, message.fresh, message.queue_timeout, message.open_timeout
            )
            if asked.seconds != NEVER:
                self._late.enter(asked, asked.since + asked.seconds + GRACE)
            self.line.post(asked.message)
        self._changed()

    def line_lost(self) -> None:
        """Go on without an agent: what is in use stays so, and is closed when it is released."""
        self.hand.line_lost()
        for asked in tuple(self.asked.values()):
            if not self._retry:
                self._fail(asked, lost(asked, self.line.why))
            elif asked.seconds != NEVER:
                self._late.enter(asked, asked.since + asked.seconds)
        for done in self._questions.values():
            done(None)
        self._questions.clear()
        self._arm(min(self.line.due, self._late.next()))
        self._changed()

    def _changed(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def heard(self, message: wire.FromAgent, channel: Channel) -> None:
        """Take a message."""
        if type(message) is wire.Lent:
            self._lent(message, channel)
        else:
            handler = self._handlers.get(type(message))
            if handler is not None:
                handler(message)

    def _lent(self, message: wire.Lent, channel: Channel) -> None:
        number = channel.descriptors.popleft() if channel.descriptors else None
        asked = self.asked.pop(message.number, None)
        if asked is not None:
            asked.per_key.waiting -= 1
            self.line.busy = len(self.asked) > _FEW
        if asked is None or number is None:
            if number is not None:
                os.close(number)
            self.line.post(wire.Release(message.number))
            if asked is not None:
                self._fail(asked, no_descriptor(asked))
            return
        sock = socket.socket(message.family, socket.SOCK_STREAM, 0, number)
        sock.setblocking(False)
        link = LoanLink(sock, self.reactor.poller, message.sealed)
        ticket = link.slot = Ticket(asked.per_key, message, self.line.session, link, self.now())
        if message.sealed is not None:
            link.half_close = partial(self._half_close, ticket)
        self.hand.tickets[ticket.number] = ticket
        if self._next_ping == NEVER:
            self._ping_later()
        asked.state, asked.ticket = State.SERVED, ticket
        asked.reuse = None if message.reuse is None else Reuse(message.reuse)
        self.opened += asked.reuse is None
        if asked.waker is not None and not asked.waker.done():
            asked.waker.set_result(None)

    def _half_close(self, ticket: Ticket) -> None:
        if ticket.session == self.line.session:
            self.line.post(wire.HalfClose(ticket.number))

    def _failed(self, message: wire.Failed) -> None:
        asked = self.asked.get(message.number)
        if asked is None:
            return
        if message.kind == "closed" and self._retry:
            return  # it is entered again with the next agent, unless its time is over before
        if message.kind == "timeout":
            self.timeouts += 1
        failed = asked.per_key.failed
        failed[message.phase] = failed.get(message.phase, 0) + 1
        self._fail(asked, explain(asked, message))

    def _recall(self, message: wire.Recall) -> None:
        ticket = self.hand.tickets.get(message.number)
        if ticket is not None and self.hand.kept.recall(ticket):
            self.hand.finish(ticket, fit=True)

    def _cut(self, message: wire.Cut) -> None:
        ticket = self.hand.cut(message.number)
        if ticket is not None:
            logger.warning(
                "the agent has cut the connection to %s: nothing was heard of this process for %g s",
                ticket.per_key.key,
                self.line.patience,
            )

    def _over(self, message: wire.Over) -> None:
        ticket = self.hand.tickets.get(message.number)
        if ticket is not None:
            ticket.link.judge(message.clean)

    def _leaving(self, message: wire.Leaving) -> None:
        self.hand.return_kept()

    def ask_numbers(self, done: Callable[[wire.Numbers | None], None]) -> None:
        """Ask for the numbers of the agent's pool; `done` is called with None if it is lost before."""
        self.last_number += 1
        self._questions[self.last_number] = done
        self.line.post(wire.Ask(self.last_number))

    def _numbers(self, message: wire.Numbers) -> None:
        done = self._questions.pop(message.number, None)
        if done is not None:
            done(message)

    # -- time -----------------------------------------------------------------------------------------

    def _arm(self, when: float) -> None:
        if when < self._armed:
            self._armed = when
            self._timer.move(max(0.0, when - self.now()))

    def _ping_later(self) -> None:
        if self.hand.tickets:
            self._next_ping = self.now() + self.line.patience / 3
            self._arm(self._next_ping)
        else:
            self._next_ping = NEVER

    def _ring(self) -> None:
        self._armed = NEVER
        now = self.now()
        for asked in self._late.pop_due(now):
            self.timeouts += 1
            if asked.state is State.WAITING:
                self.line.post(wire.Cancel(asked.number))
            self._fail(asked, late(asked, self._why_late()))
        kept_until = self.hand.expire(now)
        if self._next_ping <= now:
            self.line.post(wire.Ping())
            self._ping_later()
        if self.line.due <= now:
            self.line.call()
        self._arm(min(self._late.next(), kept_until, self._next_ping, self.line.due))

    def _why_late(self) -> str:
        if self.line.state is LineState.UP:
            return "the agent has not answered"
        return f"there is no agent: {self.line.why}"

    # -- the end --------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Fail what waits, return what is kept. What is in use stays."""
        if self.closed:
            return
        self.closed = self.hand.closed = True
        for asked in tuple(self.asked.values()):
            self.line.post(wire.Cancel(asked.number))
            self._fail(
                asked, ManagerClosed(f"the manager was shut down before request {asked.number} was served")
            )
        self.hand.return_kept()

    def _emptied(self) -> None:
        if self.closed:  # `drain` may wait
            self.changed.set()

    async def drain(self, grace: float) -> None:
        """Wait until nothing is in use, for `grace` seconds at most."""
        with anyio.move_on_after(None if grace == NEVER else grace):
            while self.hand.held:
                self.changed = anyio.Event()
                await self.changed.wait()

    async def close(self) -> None:
        """Cut what is in use, and hang up."""
        self.hand.close()
        self.line.end()
        self._timer.cancel()
        await self.reactor.aclose()

    def _abandoned(self) -> None:
        """Empty this copy after a fork; its descriptors are closed already."""
        self.closed = True
        self.asked.clear()
        self.hand.abandon()
