"""When each peer's patience ends. Pure.

A timer belongs to its peer and is told by two of its fields: when it was started, and how long it runs.
All that an incoming unit does is to set the first. The agenda has at most one entry per peer, for a time
not later than the true one; when it surfaces too early, it is entered again for the true time. So ten
thousand peers that time out after 300 seconds cost one look at each every 300 seconds, and a unit costs
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.timer_queue import TimerQueue

from .types import CONNECTED, CONNECTING, FLUSHING, NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .peer import Peer
    from .types import Hands, Limits


class Timers:
    """The timers of all peers of a client."""

    __slots__ = ("_agenda", "_armed", "_hands", "_limits", "retry")

    def __init__(self, limits: Limits, hands: Hands) -> None:
        self._limits = limits
        self._hands = hands
        self._agenda: TimerQueue[Peer] = TimerQueue()
        self._armed = NEVER  # when the hands call `Desk.tick`
        self.retry = NEVER  # when to look for free descriptors

    def end_of(self, peer: Peer) -> float:
        """Return when a peer's patience ends, as things are now."""
        state = peer._state
        if state is FLUSHING:
            limit = self._limits.shutdown_timeout
            end = peer._since + limit if limit else NEVER
        elif state is CONNECTED or (state is CONNECTING and peer._attempt):
            end = peer._since + peer._timeout if peer._timeout else NEVER
            if state is CONNECTED and peer._outbox is not None and self._limits.write_timeout:
                end = min(end, peer._stuck + self._limits.write_timeout)
        else:
            return NEVER
        return min(end, peer._ends)

    def arm(self, peer: Peer) -> None:
        """See to it that a peer is looked at when its patience ends, or before."""
        self.look_by(peer, self.end_of(peer))

    def look_by(self, peer: Peer, end: float) -> None:
        """See to it that a peer is looked at at this time, or before."""
        entry = peer.timer
        if end < (NEVER if entry is None else entry[0]):
            self._agenda.enter(peer, end)
            self._wake_by(end)

    def retry_at(self, when: float) -> None:
        """Set the time at which `Desk.tick` looks for free descriptors."""
        self.retry = when
        self._wake_by(when)

    def _wake_by(self, end: float) -> None:
        if end < self._armed:
            self._armed = end
            self._hands.wake_at(end)

    def withdraw(self, peer: Peer) -> None:
        """Forget a peer."""
        self._agenda.withdraw(peer)

    def due(self, now: float) -> Iterator[Peer]:
        """Yield the peers whose patience has ended; to be followed by `set`."""
        self._armed = -NEVER  # until then nobody needs to be woken
        for peer in self._agenda.pop_due(now):
            end = self.end_of(peer)
            if end <= now:
                yield peer
            else:
                self._agenda.enter(peer, end)

    def set(self) -> None:
        """Have the hands call for the first one that is left."""
        self._armed = min(self._agenda.next(), self.retry)
        if self._armed != NEVER:
            self._hands.wake_at(self._armed)

    def __len__(self) -> int:
        """Return the number of entries, withdrawn ones included (for memory tests)."""
        return len(self._agenda)
