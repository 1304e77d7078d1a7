"""What a borrower has released and keeps for a moment, in case that it needs the same again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from keepalive.base.types import NEVER

if TYPE_CHECKING:
    from typing import Any

LONGEST = 1.0
"""Seconds after which a loan goes back at its next release, however warm it is kept: the pool's own rules
(`max_lifetime`, `max_uses`, an `evict`) must get their turn."""


class Place(Protocol):
    """What is kept of one key.

    :ivar kept: released and not returned, the newest last
    :ivar waiting: how many of the borrower's own requests the agent has
    """

    kept: list[Any]
    waiting: int


class Keepable(Protocol):
    """A loan as its borrower sees it.

    :ivar recalled: it goes back when it is released
    :ivar lent_at: when it came
    :ivar until: when it goes back by itself
    """

    recalled: bool
    lent_at: float
    until: float

    @property
    def per_key(self) -> Place:
        """Where loans of the same key are kept."""


L = TypeVar("L", bound=Keepable)


class Kept(Generic[L]):
    """The loans that nobody uses at the moment.

    :param sticky: seconds that one is kept; 0 keeps none
    :ivar earliest: when to look for those whose time is over; not later than need be
    """

    __slots__ = ("_loans", "earliest", "sticky")

    def __init__(self, sticky: float) -> None:
        self.sticky = sticky
        self.earliest = NEVER
        self._loans: dict[L, None] = {}

    def __len__(self) -> int:
        return len(self._loans)

    def keep(self, loan: L, keep_for: float, now: float) -> bool:
        """Keep a released loan; False if it must go back now."""
        seconds = min(self.sticky, keep_for)
        place = loan.per_key
        if not seconds or loan.recalled or place.waiting or now - loan.lent_at > LONGEST:
            return False
        loan.until = until = now + seconds
        if until < self.earliest:
            self.earliest = until
        place.kept.append(loan)
        self._loans[loan] = None
        return True

    def take(self, place: Place) -> L:
        """Take the one of a key that was released last; there must be one."""
        loan: L = place.kept.pop()
        del self._loans[loan]
        return loan

    def remove(self, loan: L) -> bool:
        """Take this one out; False if it is not kept."""
        if loan not in self._loans:
            return False
        del self._loans[loan]
        loan.per_key.kept.remove(loan)
        return True

    def recall(self, loan: L) -> bool:
        """Note that somebody else waits for it; True if it is only kept, and so goes back now."""
        loan.recalled = True
        return self.remove(loan)

    def expired(self, now: float) -> list[L]:
        """Take out those whose time is over."""
        late = [loan for loan in self._loans if loan.until <= now]
        for loan in late:
            self.remove(loan)
        self.earliest = min((loan.until for loan in self._loans), default=NEVER)
        return late

    def clear(self) -> list[L]:
        """Take all out."""
        every = list(self._loans)
        for loan in every:
            self.remove(loan)
        return every
