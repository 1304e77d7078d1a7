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

from typing import TYPE_CHECKING, Generic, TypeVar

from keepalive.base.timer_queue import TimerQueue

from .flow import Flow

if TYPE_CHECKING:
    from collections.abc import Iterator


M = TypeVar("M", bound=Flow)


class Expiry(Generic[M]):
    """Who expires when."""

    def __init__(
        self, min_expire: float, max_expire: float, max_pending: float, ping_expire: float = 0.0
    ) -> None:
        self._min = min_expire
        self._span = max_expire - min_expire
        self._max_pending = max_pending
        self._ping_expire = ping_expire
        self._quiet: TimerQueue[M] = TimerQueue()  # by when they were last heard; the limit comes on top
        self._spared: TimerQueue[M] = TimerQueue()  # by when to look at them again
        self.count = 0
        """How many connections there are; the formula's n."""

    @property
    def limit(self) -> float:
        """Seconds of quiet that a connection may have now."""
        return self._min + self._span / max(1, self.count)

    def add(self, one: M) -> None:
        """Watch a connection; `heard` must be set."""
        self.count += 1
        one.spared = False
        self._quiet.enter(one, one.heard)

    def remove(self, one: M) -> None:
        """Watch it no more."""
        self.count -= 1
        (self._spared if one.spared else self._quiet).withdraw(one)

    def settled(self, one: M) -> None:
        """Note that a reason is gone for which one was spared."""
        self._spared.withdraw(one)
        one.spared = False
        self._quiet.enter(one, one.heard)

    def next(self) -> float:
        """Return when `due` may find something, or `NEVER`."""
        return min(self._quiet.next() + self.limit, self._spared.next())

    def due(self, now: float) -> Iterator[M]:
        """Yield those whose time has come, by the limit as it is at the beginning; remove each at once."""
        limit = self.limit
        while self._quiet.next() + limit <= now:
            yield from self._judge(self._quiet, now, limit)
        while self._spared.next() <= now:
            yield from self._judge(self._spared, now, limit)

    def _judge(self, timers: TimerQueue[M], now: float, limit: float) -> Iterator[M]:
        """Look at the first one: it goes, or gets another time."""
        one = next(timers.pop_due(timers.next()))
        until = self._until(one)
        one.spared = until > now
        if one.spared:
            self._spared.enter(one, until)
        else:
            self._quiet.enter(one, one.heard)  # where `remove` finds it
            if one.heard + limit <= now:
                yield one

    def _until(self, one: M) -> float:
        """Return until when one is spared."""
        until = one.kept_until
        if one.pending:
            until = max(until, one.heard + self._max_pending)
        if one.pings:
            until = max(until, one.heard + self._ping_expire)
        return until
