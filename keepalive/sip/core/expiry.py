"""When connections expire: the ancestor's formula, at exact times, and whom it does not concern. Pure.

With n connections, one from which nothing came for ``min_expire + (max_expire - min_expire) / n`` seconds
goes: the more there are, the sooner. The limit is the same for all, so the first to go is always the one that
has been quiet longest, and only that one needs a timer. What was received last is corrected when a connection
comes up, so that life itself costs one assignment.

Three reasons spare a connection longer, whatever the formula says, and the longest of them counts:

* something is pending on it: until `max_pending` quiet seconds;
* its peer keeps it alive (RFC 5626 4.4.1): until `ping_expire` quiet seconds;
* its peer is registered by it, as the user of the pool has told: until the registration ends.

These stand apart, each with a time of its own at which it is looked at again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from keepalive.base.timer_queue import TimerQueue

from .flow import F

if TYPE_CHECKING:
    from collections.abc import Iterator


class Expiry(Generic[F]):
    """Who expires when."""

    def __init__(
        self, min_expire: float, max_expire: float, max_pending: float, ping_expire: float = 0.0
    ) -> None:
        self._min = min_expire
        self._span = max_expire - min_expire
        self._max_pending = max_pending
        self._ping_expire = ping_expire
        self._idle: TimerQueue[F] = TimerQueue()  # by when they were last heard; the limit comes on top
        self._exempt: TimerQueue[F] = TimerQueue()  # by when to look at them again
        self.count = 0
        """How many connections there are; the formula's n."""

    @property
    def limit(self) -> float:
        """Seconds of quiet that a connection may have now."""
        return self._min + self._span / max(1, self.count)

    def add(self, flow: F) -> None:
        """Watch a connection; `heard` must be set."""
        self.count += 1
        flow.exempt = False
        self._idle.enter(flow, flow.last_received)

    def remove(self, flow: F) -> None:
        """Watch it no more."""
        self.count -= 1
        (self._exempt if flow.exempt else self._idle).withdraw(flow)

    def end_exemption(self, flow: F) -> None:
        """Note that a reason is gone for which one was spared."""
        self._exempt.withdraw(flow)
        flow.exempt = False
        self._idle.enter(flow, flow.last_received)

    def next(self) -> float:
        """Return when `due` may find something, or `NEVER`."""
        return min(self._idle.next() + self.limit, self._exempt.next())

    def due(self, now: float) -> Iterator[F]:
        """Yield those whose time has come, by the limit as it is at the beginning; remove each at once."""
        limit = self.limit
        while self._idle.next() + limit <= now:
            yield from self._check_first(self._idle, now, limit)
        while self._exempt.next() <= now:
            yield from self._check_first(self._exempt, now, limit)

    def _check_first(self, timers: TimerQueue[F], now: float, limit: float) -> Iterator[F]:
        """Look at the first one: it goes, or gets another time."""
        flow = next(timers.pop_due(timers.next()))
        until = self._exempt_until(flow)
        flow.exempt = until > now
        if flow.exempt:
            self._exempt.enter(flow, until)
        else:
            self._idle.enter(flow, flow.last_received)  # where `remove` finds it
            if flow.last_received + limit <= now:
                yield flow

    def _exempt_until(self, flow: F) -> float:
        """Return until when one is spared."""
        until = flow.registered_until
        if flow.pending:
            until = max(until, flow.last_received + self._max_pending)
        if flow.keeps_alive:
            until = max(until, flow.last_received + self._ping_expire)
        return until
