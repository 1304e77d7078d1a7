"""What one member of a fleet does: it holds places by lease, gives them out locally, and gives them back.

Theory. All that a member holds is under one lease, which each call renews. The lease counts from before the
call was sent, on the member's own monotonic clock, and a tenth of it is not used (`MARGIN`): so it has ended
here before the store, which began later, gives the places to others. What a call no longer claims is not used
from the moment the call is made; what an answer grants may be used when it is here. Calls carry numbers: a
late or second copy of one changes nothing at the store.

How many connections there are and who waits is the pool's business: `usage` is asked for it when a call is
made. The pool is told how many places a key has (PLACES); it closes idle connections beyond that. Those in
use beyond it are cut (CUT) only if the lease under which they were opened ends.

Invariants: a key's places never exceed what the store counts for this member. One call is under way at a
time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

from .states import Do, State
from .words import ALL, MARGIN, Call, Claim, Reply, Row, Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from .states import Usage


BLOCK: Final = 16
"""So many places at most are leased beforehand, where more than needed are free."""


@dataclass(slots=True)
class Holding:
    """What a member has of one key.

    :ivar limit: the most of the fleet, as this member was given it
    :ivar known: the most of the fleet, as the store says it
    :ivar held: places that the store counts for it
    :ivar target: what it is to come down to
    :ivar cap: what it must have come down to at `cap_at`
    """

    limit: float
    known: float
    held: int = 0
    target: float = inf
    places: float = 0  # as the pool was told
    cap: float = inf
    cap_at: float = inf
    contended: bool = False
    said: int = 0  # what it needs, as the store was told
    waits: bool = False  # as the store was told
    refused: bool = False  # the store knows of all that waits, and will tell
    unused: int = 0  # renewals at which nothing of it was there
    total: int = 0  # of the fleet, when it last said


class Member:
    """One member. Inputs are plain methods with the time as an argument; `effects` says what is to be done.

    :param name: no other member's
    :param usage: what the pool has of a key now
    :ivar due: when `tick` is wanted
    """

    def __init__(self, name: str, terms: Terms, usage: Callable[[str], Usage]) -> None:
        self.name = name
        self.terms = terms
        self.effects: deque[tuple[Do, Any, Any]] = deque()
        self.state = State.JOINING
        self.keys: dict[str, Holding] = {}
        self.fence = 0
        self.members = 0
        self.ends = -inf  # the lease; or the fallback, while that counts
        self.quiet_until = -inf  # the store grants nothing new before
        self.all = Row(ALL, 0, 0, False, False, terms.max_open, 0)
        self.due = -inf
        self._usage = usage
        self._seq = 0
        self._base = 0
        self._whole = True
        self._recount = False  # the needs of all keys are to be told anew
        self._sent: tuple[int, float, dict[str, Claim]] | None = None  # the call under way
        self._renew_at = -inf
        self._retry = 0
        self._dirty: dict[str, None] = {}  # keys to be told at once
        self._caps: dict[str, None] = {}

    # -- inputs ---------------------------------------------------------------------------------------

    def join(self, now: float) -> None:
        """Begin."""
        self._renew_at = now
        self._step(now)

    def wanted(self, key: str, limit: float, now: float) -> None:
        """Note that a request waits for a place of this key."""
        holding = self.keys.get(key)
        if holding is None:
            holding = self.keys[key] = Holding(limit, limit)
            if self.state is State.FALLBACK and self.terms.fallback == "local":
                self._set_places(key, holding)
        if not holding.refused:
            self._dirty[key] = None
            self._step(now)

    def freed(self, key: str, now: float) -> None:
        """Note that there are no more connections of this key than it has places."""
        if key in self.keys:
            self._dirty[key] = None
            self._step(now)

    def told(self, key: str, now: float) -> None:
        """Take in the store's word that there is something new for a key."""
        if key == ALL:
            for other, holding in self.keys.items():
                if holding.waits or holding.refused:
                    self._dirty[other] = None
            self._recount = True
            self._renew_at = now
        elif key in self.keys:
            self._dirty[key] = None
        self._step(now)

    def answered(self, seq: int, reply: Reply, now: float) -> None:
        """Take the store's answer to the call of this number."""
        if self._sent is None or self._sent[0] != seq:
            return
        _, sent_at, claims = self._sent
        self._sent = None
        self._retry = 0
        if reply.status != "ok":
            self._whole = True
            self._renew_at = now
        elif self.state is not State.LEFT:
            self._take_in(reply, sent_at, claims)
        self._step(now)

    def failed(self, seq: int, now: float) -> None:
        """Note that this call was not answered; whether the store has taken it in is unknown."""
        if self._sent is None or self._sent[0] != seq:
            return
        self._sent = None
        self._whole = True
        self._retry += 1
        self._renew_at = now + min(self.terms.interval, self.terms.interval * 2.0 ** (self._retry - 6))
        self._step(now)

    def leave(self, now: float) -> Call | None:
        """Give everything back: all connections must be closed. Returns the last call, if one is owed."""
        if self.state is State.LEFT:
            return None
        self.state = State.LEFT
        self._sent = None
        self.due = inf
        return self._call([], leaves=True)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._step(now)

    # -- time -----------------------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        """Do all that is due, then make a call if there is a reason for one."""
        if self.state is State.LEFT:
            return
        for key in [key for key in self._caps if self.keys[key].cap_at <= now]:
            self._meet_cap(key, self.keys[key])
        if self.ends <= now:
            self._lapse(now)
        if self._sent is None and (
            now >= self._renew_at or (self._whole and self._dirty and not self._retry)
        ):
            self._renew(now)
        elif self._sent is None and self._dirty and not self._retry:
            self._tell(now)
        self.due = self.ends if self.ends > now else inf
        if self._sent is None:
            self.due = min(self.due, self._renew_at)
        for key in self._caps:
            self.due = min(self.due, self.keys[key].cap_at)

    def _meet_cap(self, key: str, holding: Holding) -> None:
        """Come down to what a key was told to have when the lease of before has ended."""
        cap = int(holding.cap)
        del self._caps[key]
        holding.held = min(holding.held, cap)
        holding.cap = holding.cap_at = inf
        self._set_places(key, holding)
        self.effects.append((Do.CUT, key, cap))
        self._dirty[key] = None

    def _lapse(self, now: float) -> None:
        """Come down to what counts when the lease, or the fallback, has ended."""
        terms = self.terms
        left: float = 0
        if self.state is State.LEASED and terms.fallback != "none":
            self.state = State.FALLBACK
            more = terms.fallback_for * (1 - MARGIN)
            self.ends = inf if terms.fallback == "local" else self.ends + more
            if self.ends > now:
                left = terms.max_open // max(1, self.members) if terms.max_open < inf else inf
                self.effects.append((Do.NEWS, "fallback", terms.fallback))
        if not left:
            if self.state is not State.JOINING:
                self.effects.append((Do.NEWS, "lapsed", None))
                self.state = State.BARE
            self.ends = inf
        self._caps.clear()
        self._whole = True  # the store may count more for it than it has now
        for key, holding in self.keys.items():
            share = min(left, holding.known // max(1, self.members) if holding.known < inf else inf)
            share = min(holding.held, share)
            left -= share
            holding.held = int(share)
            holding.cap = holding.cap_at = holding.target = inf
            self._set_places(key, holding)
            if holding.places < inf:
                self.effects.append((Do.CUT, key, holding.held))

    def _set_places(self, key: str, holding: Holding) -> None:
        """Tell the pool what it may have of a key, if that has changed."""
        places = min(holding.held, holding.target, holding.cap)
        if self.state is State.FALLBACK and self.terms.fallback == "local":
            places = inf
        if places != holding.places:
            holding.places = places
            self.effects.append((Do.PLACES, key, places))

    # -- calls ----------------------------------------------------------------------------------------

    def _renew(self, now: float) -> None:
        """Renew the lease; keys that are contended tell their need."""
        claims = []
        for key, holding in list(self.keys.items()):
            usage = self._usage(key)
            if usage.open or usage.waiting:
                holding.unused = 0
            else:
                holding.unused += 1
            holding.refused = False
            if holding.unused > 2:
                del self.keys[key]
                self._caps.pop(key, None)
                if holding.places:
                    self.effects.append((Do.PLACES, key, 0))
                if not self._whole:
                    claims.append(Claim(key, holding.limit, 0, 0, 0))
            elif (
                self._whole
                or holding.contended
                or holding.waits
                or usage.waiting
                or key in self._dirty
                or ((self._recount or self.all.contended) and usage.need != holding.said)
            ):
                claims.append(self._claim(key, holding, usage))
        self._recount = False
        self._send(claims, now)

    def _tell(self, now: float) -> None:
        """Tell the store of keys that have changed."""
        self._send(
            [self._claim(key, self.keys[key], self._usage(key)) for key in self._dirty if key in self.keys],
            now,
        )

    def _claim(self, key: str, holding: Holding, usage: Usage) -> Claim:
        """Say what it goes on holding of a key, and what it needs."""
        need = holding.said = usage.need
        if holding.target < holding.held:
            holding.held = int(min(holding.held, _kept(usage, holding.target)))
        if self.all.target < self.all.held:
            # Others wait for places of any key: what is idle here goes, as far as it is asked for.
            over = min(self.all.held - self.all.target, holding.held - need)
            if over > 0:
                self.all = self.all._replace(held=self.all.held - over)
                holding.held -= over
        holding.waits = need > holding.held
        ask = holding.held
        if holding.waits:
            ask = need + self._spare(holding, need)
        self._set_places(key, holding)
        return Claim(key, holding.limit, holding.held, need, ask)

    def _spare(self, holding: Holding, need: int) -> int:
        """Say how many places more than needed it asks for: a block, so that not each one costs a call."""
        members = max(1, self.members)
        block = 1 + need // 4
        if holding.known < inf:
            block = max(block, min(BLOCK, int(holding.known // members) - need))
        if self.terms.max_open < inf:
            block = min(block, int(self.terms.max_open // members - self.all.held) // 4)
        return max(0, block)

    def _send(self, claims: list[Claim], now: float) -> None:
        call = self._call(claims)
        self._dirty.clear()
        self._whole = False
        self._sent = call.seq, now, {claim.key: claim for claim in claims}
        self._renew_at = now + self.terms.interval
        self.effects.append((Do.SEND, call, None))

    def _call(self, claims: list[Claim], *, leaves: bool = False) -> Call:
        self._seq += 1
        return Call(
            self.name,
            self.fence,
            self._seq,
            self._base,
            self._whole,
            self.members,
            self.terms,
            claims,
            leaves,
        )

    # -- answers --------------------------------------------------------------------------------------

    def _take_in(self, reply: Reply, sent_at: float, claims: dict[str, Claim]) -> None:
        """Count the lease anew; take what was granted, see what is to be given back."""
        ends = sent_at + self.terms.lease * (1 - MARGIN)
        before = self.ends
        if self.state is not State.LEASED:
            self.effects.append((Do.NEWS, "leased", None))
        if self.state is not State.LEASED:
            before = sent_at  # what is not confirmed ends at once
        self.state = State.LEASED
        self.fence, self.members = reply.fence, reply.members
        self._base = self._seq
        self.ends = ends
        self.quiet_until = sent_at + reply.quiet if reply.quiet else -inf
        if reply.quiet:
            self._renew_at = min(self._renew_at, sent_at + reply.quiet)
        lacks = 0
        for row in reply.rows:
            if row.key == ALL:
                self.all = row
                continue
            holding = self.keys.get(row.key)
            if holding is not None:
                claim = claims.get(row.key)
                lacks += max(0, claim.need - row.held) if claim else 0
                self._take_row(row, holding, claim, before)
        if lacks and self.all.total >= self.all.limit:
            # Its own idle ones stand in its way, not only those of others.
            self.all = self.all._replace(target=min(self.all.target, self.all.held - lacks))
        if self.all.target < self.all.held:
            self._give_up_any()

    def _take_row(self, row: Row, holding: Holding, claim: Claim | None, before: float) -> None:
        """Take in what the store says of one key; `before` is when the lease of before ends."""
        if row.limit < holding.limit and row.limit != holding.known:
            self.effects.append((Do.NEWS, "limits", (row.key, holding.limit, row.limit)))
        holding.known, holding.total = row.limit, row.total
        holding.contended = row.contended
        holding.target = row.target if row.target < row.held else inf
        if row.held < holding.held:
            holding.cap, holding.cap_at = row.held, before
        elif row.hard and row.target < row.held:
            holding.cap, holding.cap_at = row.target, min(holding.cap_at, before)
        else:
            holding.cap = holding.cap_at = inf
        holding.held = min(row.held, holding.held) if claim is None else row.held
        if holding.cap < inf:
            self._caps[row.key] = None
        else:
            self._caps.pop(row.key, None)
        holding.refused = holding.waits and row.held < (claim.need if claim else inf)
        self._set_places(row.key, holding)
        if claim is None or _kept(self._usage(row.key), holding.target) < holding.held:
            self._dirty[row.key] = None

    def _give_up_any(self) -> None:
        """Others wait for places of any key: say of which keys some can go."""
        over = self.all.held - self.all.target
        for key, holding in self.keys.items():
            usage = self._usage(key)
            surplus = holding.held - usage.need
            if over > 0 and surplus > 0:
                over -= surplus
                self._dirty[key] = None
        if self._dirty:  # the same call may get places for what waits
            self._dirty.update((key, None) for key, holding in self.keys.items() if holding.refused)


def _kept(usage: Usage, target: float) -> float:
    """Return how many places of a key are still needed when it comes down to its target, or cannot yet.

    What is idle beyond the target closes. Below it nothing is given back: a request that waits may have a
    place that came just now.
    """
    return max(target, usage.busy)
