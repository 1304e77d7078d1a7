"""What a borrower has in hand: connections in use, and those that it keeps for a moment."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

from . import wire
from .core.kept import Kept
from .loan import Asked, LoanLink, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive import CloseReason
    from keepalive.transport.link import Link
    from keepalive.transport.reactor import Reactor

    from .line import Line


class Holdings:
    """The connections of a borrower; to a `Connection` it is what a manager's driver would be.

    :param withdraw: cancels a request
    :param arm: has `expire` called at a time
    :param emptied: called when nothing is in use any more
    :ivar tickets: the loans of this session, kept ones too, by number
    :ivar held: how many connections are in use
    :ivar closed: nothing is kept any more
    """

    def __init__(
        self,
        reactor: Reactor,
        line: Line,
        sticky: float,
        withdraw: Callable[[Asked], object],
        arm: Callable[[float], None],
        emptied: Callable[[], None],
    ) -> None:
        self.reactor = reactor
        self.now = reactor.clock
        self.kept: Kept[Ticket] = Kept(sticky)
        self.tickets: dict[int, Ticket] = {}
        self.held = 0
        self.closed = False
        self._line = line
        self._withdraw = withdraw
        self._arm = arm
        self._emptied = emptied
        self._armed = NEVER
        self._orphans: deque[Asked | Ticket] = deque()

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""
        self.reactor.check_here("a manager and what it hands out belong")

    def take_back(self, slot: Ticket, link: Link, keep_for: float) -> None:
        """Take a connection back: keep it for a moment, or return it to the agent."""
        if link.closed:
            return
        self.let_go(slot)
        if link.reuse_blocker() is not None:
            self.finish(slot, fit=False)
            return
        if slot.session == self._line.session and not self.closed:
            slot.idle_since = now = self.now()
            if self.kept.keep(slot, keep_for, now):
                if self.kept.earliest < self._armed:
                    self._armed = self.kept.earliest
                    self._arm(self._armed)
                return
        self.finish(slot, fit=True, keep_for=keep_for)

    def throw_away(self, slot: Ticket, reason: CloseReason) -> None:
        """Close a connection for good."""
        if not slot.link.closed:
            self.let_go(slot)
            self.finish(slot, fit=False)

    def let_go(self, ticket: Ticket) -> None:
        """Count a connection that is in use no more."""
        ticket.per_key.lent -= 1
        self.held -= 1
        if not self.held:
            self._emptied()

    def finish(self, ticket: Ticket, *, fit: bool, keep_for: float = NEVER) -> None:
        """Close the copy here, then tell the agent: when it acts, the peer sees one holder at most."""
        ticket.link.close()
        if ticket.session == self._line.session and self.tickets.pop(ticket.number, None) is not None:
            if fit:
                kept = None if keep_for == NEVER else min(keep_for, 1e9)
                self._line.post(wire.Release(ticket.number, kept))
            else:
                self._line.post(wire.Discard(ticket.number))

    def orphan(self, record: Asked | Ticket) -> None:
        """Note that nobody holds this any more. Called by finalisers: from any thread, at any moment."""
        if self.reactor.forked:
            return
        self._orphans.append(record)
        try:
            self.reactor.call_soon_threadsafe(self._reap)
        except RuntimeError:
            if isinstance(record, Ticket):
                record.link.drop()

    def _reap(self) -> None:
        while self._orphans and not self.reactor.forked:
            record = self._orphans.popleft()
            if isinstance(record, Asked):
                self._withdraw(record)
            elif not record.link.closed:
                self.let_go(record)
                fit = not record.link.touched and record.link.reuse_blocker() is None
                self.finish(record, fit=fit)

    def look(self, ticket: Ticket) -> None:
        """Look at a link that has become readable while nobody reads it."""
        if self.kept.remove(ticket):
            if ticket.link.look() is None:
                self.kept.keep(ticket, ticket.until - self.now(), self.now())  # a false alarm
            else:
                self.finish(ticket, fit=False)

    def return_kept(self) -> None:
        """Return all that is only kept."""
        for ticket in self.kept.clear():
            self.finish(ticket, fit=True)

    def expire(self, now: float) -> float:
        """Return what has been kept for long enough; say when to come again."""
        if self.kept.earliest <= now:
            for ticket in self.kept.expired(now):
                self.finish(ticket, fit=True)
        self._armed = self.kept.earliest
        return self._armed

    def cut(self, number: int) -> Ticket | None:
        """Close a connection that the agent has cut; None if that is no news."""
        ticket = self.tickets.pop(number, None)
        if ticket is None or ticket.link.closed:
            return None
        if not self.kept.remove(ticket):
            self.let_go(ticket)
        ticket.link.close()
        return ticket

    def line_lost(self) -> None:
        """Go on without an agent: what is in use stays so, and is closed when it is released."""
        self.tickets.clear()
        for ticket in self.kept.clear():
            ticket.link.close()

    def close(self) -> None:
        """Cut what is in use."""
        for link in list(self.reactor.poller.links.values()):
            if isinstance(link, LoanLink):
                self.finish(link.slot, fit=False)
        self.held = 0

    def abandon(self) -> None:
        """Empty this copy after a fork."""
        self.closed = True
        self.tickets.clear()
        self.kept = Kept(0.0)
