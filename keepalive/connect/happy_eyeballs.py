"""Which address to try when: RFC 8305 ("Happy Eyeballs"), as a machine without sockets or clock.

The families take turns, beginning with the family that the resolver put first. An attempt that has not
answered within `stagger` gets company; one that fails is followed by the next at once. If only the
less preferred family is known yet, the other has `RESOLUTION_DELAY` to arrive.

A second socket beside the first one needs a place of its own within the manager's limits. Where there is
none, the addresses are tried one after the other, each for `patience`: long enough for one lost SYN
(RFC 6298 2.1 repeats it after a second), short enough that a black hole leaves time for the others. The
last ones have all the time there is.

The shell asks `decide` what to do, does it, reports what became of it, and asks again.

Alternatives refused. A task per address: cancellation at each await, and no place where the state is
whole. Sockets beyond the limits "for a moment": the peer counts them. A place kept free for each race:
half of the limit would lie idle.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STAGGER = 0.25
"""Seconds until an attempt gets company (RFC 8305 5, "Connection Attempt Delay")."""
RESOLUTION_DELAY = 0.05
"""Seconds that the late family has (RFC 8305 3)."""
PATIENCE = 2.0
"""Seconds for one of several addresses where there is no place for two at a time."""


class Do(Enum):
    """What the shell is to do next."""

    START = "start"
    """Begin to connect to the address, in the place of the attempt."""
    BESIDE = "beside"
    """The same beside others: if there is a place for it, else report `refused`."""
    STOP = "stop"
    """Close the socket of this address; nothing is to be reported."""
    WAIT = "wait"
    """Wait until something happens, or until the time is there."""
    LOST = "lost"
    """Nothing is left to be tried."""


class Move(NamedTuple):
    """One decision: what, to which address, until when."""

    do: Do
    address: str = ""
    until: float = inf


class Race:
    """The addresses of one attempt.

    :ivar running: addresses being connected to, and since when; the oldest first
    """

    def __init__(
        self,
        *,
        stagger: float = STAGGER,
        patience: float = PATIENCE,
        suspect: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Start a race; `suspect` says of an address that it failed lately: it is tried last."""
        self.running: dict[str, float] = {}
        self._waiting: deque[str] = deque()
        self._stagger = stagger
        self._patience = patience if stagger == inf else max(patience, stagger)
        self._suspect = suspect
        self._seen: set[str] = set()
        self._first_family: bool | None = None  # True for IPv6
        self._last_family: bool | None = None
        self._late_until = inf  # until when the late family is waited for, while nothing has started
        self._more = False
        self._asked = -inf  # when a place was last refused
        self._due_now = False

    def add(self, addresses: Iterable[str], now: float, *, more: bool = False, early: bool = False) -> None:
        """Let addresses take part, in their order of preference; known ones are passed over.

        :param more: the other family is still being looked up
        :param early: these are of the less preferred family: the other one has a moment to arrive
        """
        fresh = [address for address in dict.fromkeys(addresses) if address not in self._seen]
        self._seen.update(fresh)
        self._more = more
        self._late_until = now + RESOLUTION_DELAY if more and early else -inf
        if fresh and self._first_family is None:
            self._first_family = (":" in fresh[0]) is not early
        waiting = [*self._waiting, *fresh]
        good = [address for address in waiting if not self._suspect(address)]
        bad = [address for address in waiting if self._suspect(address)]
        self._waiting = deque([*self._interleave(good), *self._interleave(bad)])

    def _interleave(self, addresses: list[str]) -> list[str]:
        """Let the families take turns (RFC 8305 4)."""
        turn = self._first_family if self._last_family is None else not self._last_family
        lines = {six: deque(a for a in addresses if (":" in a) == six) for six in (True, False)}
        found: list[str] = []
        while lines[True] or lines[False]:
            line = lines[bool(turn)] or lines[not turn]
            found.append(line.popleft())
            turn = ":" not in found[-1]
        return found

    def failed(self, address: str) -> None:
        """Note that an address failed: the next one is due at once."""
        del self.running[address]
        self._due_now = True

    def began(self, address: str, now: float) -> None:
        """Note that an address had to wait for its socket: its time counts from now."""
        self.running[address] = now

    def put_back(self, address: str, now: float) -> None:
        """Note that there was a place for a second socket, but no socket: it is tried again."""
        del self.running[address]
        self._waiting.appendleft(address)
        self.refused(now)

    def refused(self, now: float) -> None:
        """Note that there is no place for a second socket now."""
        self._asked = now
        self._due_now = False

    def recalled(self) -> list[str]:
        """Give back all places but one: return what is to be closed. It is tried again after the others.

        The youngest stays: the others had their time, and have not answered in it.
        """
        spent = list(self.running)[:-1]
        for address in spent:
            del self.running[address]
            self._waiting.append(address)
        return spent

    def overtaken(self, winner: str, now: float) -> list[str]:
        """Return those that had not answered when a later one won: they are slow at least."""
        return [
            address
            for address, since in self.running.items()
            if address != winner and now - since >= self._stagger
        ]

    def decide(self, now: float) -> Move:
        """Say what to do now. START and STOP pass for done; BESIDE wants `beside` or `refused`."""
        if not self.running:
            if not self._waiting:
                return Move(Do.WAIT) if self._more else Move(Do.LOST)
            if self._more and self._last_family is None and now < self._late_until:
                return Move(Do.WAIT, until=self._late_until)
            return self._start(Do.START, now)
        if not self._waiting:
            return Move(Do.WAIT)  # the last ones have all the time there is
        oldest, since = next(iter(self.running.items()))
        newest = next(reversed(self.running.values()))
        due = max(newest, self._asked) + self._stagger
        spent = since + self._patience
        if self._asked >= newest or self._stagger == inf:  # nobody beside it, for want of a place
            if now >= spent:
                del self.running[oldest]
                self._asked = -inf
                return Move(Do.STOP, oldest)
            if now < due:
                due = min(due, spent)
        if now >= due or self._due_now:
            return Move(Do.BESIDE, self._waiting[0])
        return Move(Do.WAIT, until=due)

    def beside(self, now: float) -> None:
        """Note that there was a place, and the address that BESIDE named is being connected to."""
        self._start(Do.BESIDE, now)

    def _start(self, do: Do, now: float) -> Move:
        address = self._waiting.popleft()
        self.running[address] = now
        self._last_family = ":" in address
        self._asked = -inf
        self._due_now = False
        return Move(do, address)
