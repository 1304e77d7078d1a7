"""The world outside the pool: a peer that counts sockets, and users who own what they were given.

The world learns of the pool's decisions only by effects, as the shell does. It keeps its own books from
them, never looks for a connection in the pool's books, and after every input holds what it sees against
the rules of the preface of `keepalive.pool.pool`. A link is a number.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from typing import TYPE_CHECKING, Any

from keepalive.base.types import NEVER, CloseReason, Reuse
from keepalive.pool.pool import Pool
from keepalive.pool.states import (
    CLOSING,
    GONE,
    IDLE,
    LENT,
    OPENING,
    QUEUED,
    RESERVED,
    SERVED,
    Effect,
    Failure,
    WaiterState,
)

from . import rules
from .rules import Violation, need
from .seen import TOLD, Ask, Link, Place, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.types import Key
    from keepalive.pool.records import Slot, Waiter
    from keepalive.pool.states import Limits, SlotState


class World:
    """Owns all connections and requests, drives a pool, and judges it."""

    def __init__(
        self,
        limits: Limits,
        *,
        observed: bool = False,
        prompt: bool = False,
        make: Callable[..., Pool] = Pool,
    ) -> None:
        self.pool = make(limits, observed=observed)
        self.prompt = prompt  # nothing is left of an attempt when ABORT is carried out
        self.limits = limits
        self.lowered = False
        self.now = 0.0
        self.total = 0
        self.aborting = 0
        self.places: dict[Key, Place] = {}
        self.links: dict[int, Link] = {}
        self.asks: dict[int, Ask] = {}
        self.cold: dict[Link, None] = {}  # all idle ones, the coldest first
        self.trace: list[tuple[Any, ...]] = []
        self.effects: list[tuple[Any, ...]] = []
        self.tally: Counter[str] = Counter()
        self.told: dict[int, SlotState] = {}
        self.step = Step("begin")

    # -- what users do ----------------------------------------------------------------------------

    def submit(self, key: Key, timeout: float, *, fresh: bool = False) -> Ask:
        self._begin("submit", None, key, timeout, fresh)
        waiter = self.pool.submit(key, self.now, self.now + timeout, fresh=fresh)
        place = self.places.setdefault(key, Place(key))
        ask = Ask(waiter.id, waiter, key, self.now + timeout, fresh)
        need(waiter.id == self.pool.requests.last_id, "not the newest number")
        self.asks[ask.number] = ask
        self.tally["requests"] += 1
        if waiter.state is SERVED:
            self._serve(ask)
        else:
            place.queue.append(ask)
        self._finish()
        need(timeout > 0 or ask.state is not QUEUED or ask.number in self.step.ended, "waits with no time to")
        bare = sum(max(0, len(place.queue) - place.dialing) for place in self.places.values())
        need(self.pool.requests.uncovered == bare, "requests without an attempt")
        beyond = place.head() is not None and ask is place.queue[-1]
        need(self.pool.overfull(waiter) == (beyond and bare > self.limits.max_waiting), "max_waiting")
        return ask

    def refuse(self, ask: Ask) -> None:
        need(self.pool.overfull(ask.waiter), "refused without need")
        self._begin("refuse", ask, ask.number)
        self.pool.refuse(ask.waiter, self.now)
        self._finish()

    def claim(self, ask: Ask) -> Link:
        self._begin("claim", ask, ask.number)
        slot = self.pool.claim(ask.waiter, self.now)
        link = ask.link
        assert link is not None
        need(slot is link.slot, "claimed another connection than the reserved one")
        link.where, link.uses = LENT, link.uses + 1
        need((slot.uses, slot.link) == (link.uses, slot.id), "not what was opened, or its uses")
        self.tally[ask.waiter.reuse or "new"] += 1
        self._end(ask, WaiterState.CLAIMED)
        self._finish()
        return link

    def cancel(self, ask: Ask) -> None:
        self._begin("cancel", ask, ask.number)
        self._take_back(ask)
        need(self.pool.cancel(ask.waiter, self.now), "a pending request can be cancelled")
        self.tally["cancelled"] += 1
        self._end(ask, WaiterState.CANCELLED)
        need(not self.pool.cancel(ask.waiter, self.now), "cancelled twice")
        self._finish()
        need(ask.number in self.step.woken, "whoever awaits a cancelled request was not woken")

    def release(self, link: Link, keep_for: float = NEVER) -> None:
        self._begin("release", link, link.slot.id, keep_for)
        link.since = self.now
        link.expires = min(self.now + min(self.limits.keep_alive, keep_for), link.dies)
        self._into_hand(link)
        self.pool.release(link.slot, self.now, keep_for)
        self._finish()

    def discard(self, link: Link) -> None:
        self._begin("discard", link, link.slot.id)
        self._into_hand(link)
        self.pool.discard(link.slot, self.now, CloseReason.DISCARDED)
        self._finish()

    # -- what the network does --------------------------------------------------------------------

    def resolved(self, link: Link) -> None:
        self._begin("resolved", link, link.slot.id)
        if link.where is OPENING:
            link.gives_up = self.now + self.limits.connect_timeout
        self.pool.limit(link.slot, self.now + self.limits.connect_timeout)
        self._finish()

    def opened(self, link: Link, lifetime: float = NEVER) -> None:
        self._begin("opened", link, link.slot.id, lifetime)
        self.places[link.key].dialing -= 1
        link.dies, link.gives_up = self.now + lifetime, NEVER
        link.since = self.now
        link.expires = min(self.now + self.limits.keep_alive, link.dies)
        self._into_hand(link)
        place = self.places[link.key]
        place.failures, place.pauses_until = 0, None
        self.tally["opened"] += 1
        self.pool.opened(link.slot, link.slot.id, self.now, lifetime)
        need(link.slot.opened_at == self.now, "not told when it was opened")
        self._finish()

    def open_failed(self, link: Link) -> None:
        self._begin("open_failed", link, link.slot.id)
        self._vanish(link)
        place = self.places[link.key]
        place.dialing -= 1
        pauses = place.pauses_until is None and place.fail(self.now, self.limits) and not self.pool.closed
        self.pool.open_failed(link.slot, OSError("refused"), self.now)
        pause = self.pool.keys.states[link.key].pause if link.key in self.pool.keys.states else None
        need((pause is not None) == (pauses or place.pauses_until is not None), "pauses, or does not")
        if pauses and pause is not None and pause.timer is not None:
            place.pauses_until = pause.timer[0]
            longest = min(self.limits.max_pause, 0.1 * 2 ** (place.failures - self.limits.pause_after))
            need(0.75 * longest <= place.pauses_until - self.now <= longest, "pauses for another time")
        self._finish()

    def borrow(self, link: Link) -> None:
        """Try to get a place for one more socket of an attempt."""
        self._begin("borrow", link, link.slot.id)
        place = self.places[link.key]
        room = place.count < self.limits.max_per_host and self.total < self.limits.max_open
        got = self.pool.take_extra(link.slot)
        need(got == (room and link.where is OPENING), "lent a place that is not free, or refused one that is")
        need(not self.pool.effects, "something is done for a borrowed place")
        if got:
            self._count(link, 1)
        self._finish()

    def repay(self, link: Link) -> None:
        """Close one of the further sockets of an attempt."""
        self._begin("repay", link, link.slot.id)
        self._count(link, -1)
        self.pool.give_back_extra(link.slot, self.now)
        self._finish()

    def warm(self, key: Key, ready: int) -> None:
        """Start a warm-up."""
        self._begin("warm", None, key, ready)
        place = self.places.setdefault(key, Place(key))
        expected = rules.to_warm_up(self, place, ready)
        started = self.pool.preconnect(self.pool.keys.of(key), ready, self.now)
        need(len(started) == expected, "warmed up for more or less than asked")
        if started:
            place.warming = max(0, place.dialing + len(started) - len(place.queue))
            place.spare_since = self.now
        self._finish()

    def retire(self, links: list[Link]) -> None:
        """Retire some connections."""
        self._begin("retire", None, [link.slot.id for link in links])
        for link in links:
            if link.where in (IDLE, LENT, RESERVED):
                link.dies = link.expires = -NEVER
        closed = self.pool.retire([link.slot for link in links], self.now)
        need(closed == sum(link.where is IDLE for link in links), "retired another number of idle ones")
        self._finish()

    def aborted(self, link: Link) -> None:
        self._begin("aborted", link, link.slot.id)
        self._aborted(link)
        self._finish()

    def _aborted(self, link: Link) -> None:
        self._vanish(link)
        self.aborting -= 1
        self.pool.aborted(link.slot, self.now)

    def lost(self, link: Link) -> None:
        """Report a connection dead that is idle or reserved."""
        self._begin("lost", link, link.slot.id)
        ask = next((ask for ask in self.asks.values() if ask.link is link), None)
        if ask is None:
            self._unshelve(link)
        self._into_hand(link)
        self.pool.lost(link.slot, self.now, CloseReason.PEER)
        if ask is not None:
            ask.link, ask.state = None, QUEUED
            if ask.waiter.state is SERVED:
                self._serve(ask)
            else:
                insort(self.places[ask.key].queue, ask)
        self._finish()

    # -- time, limits, the end --------------------------------------------------------------------

    def tick(self) -> None:
        self._begin("tick", None)
        for ask in list(self.asks.values()):
            if ask.state is SERVED and ask.deadline <= self.now:
                self._take_back(ask)
        for place in self.places.values():
            if place.pauses_until is not None:
                self.step.paused.add(place.key)
                if place.pauses_until <= self.now:
                    place.pauses_until = None
        late = [link for link in self.links.values() if link.gives_up <= self.now and link.where is OPENING]
        self.step.late.update(link.key for link in late)
        self.pool.tick(self.now)
        self._finish()
        rules.after_tick(self)

    def set_limits(self, limits: Limits) -> None:
        self._begin("set_limits", None, limits)
        self.limits = limits
        self.lowered = True
        self.pool.set_limits(limits, self.now)
        self._finish()

    def shutdown(self) -> None:
        self._begin("shutdown", None)
        for place in self.places.values():
            place.failures, place.pauses_until = 0, None
        for ask in self.asks.values():
            if ask.state is SERVED:
                self._take_back(ask)
        self.pool.shutdown(self.now)
        self._finish()
        need(not self.asks, "a request outlived the end")

    # -- the steps' common part -------------------------------------------------------------------

    def _begin(self, what: str, subject: Link | Ask | None, *details: object) -> None:
        self.trace.append((what, self.now, *details))
        self.step = Step(what, subject)

    def _finish(self) -> None:
        effects = self.pool.effects
        while effects:
            do, what = effects.popleft()
            if do is Effect.WAKE:
                self.effects.append((do, what.id, what.state))
                self._wake(what)
            elif do is Effect.NOTIFY:
                self.effects.append((do, str(what)))
                event, details = what
                if event in TOLD:
                    self.told[details[1]] = TOLD[event]
            else:
                self.effects.append((do, what.id))
                self._carry_out(do, what)
        self._shelve_rest()
        for ask in self.asks.values():
            if ask.waiter.state is not ask.state:
                raise Violation(f"request {ask.number} is {ask.waiter.state}, and was not woken")
        for link in self.links.values():
            slot = link.slot
            if slot.extra != link.extra:
                raise Violation("another number of borrowed places than of sockets in them")
            if slot.state is not link.where:
                raise Violation(f"link {slot.id} is {slot.state}, not {link.where}")
            if self.told and link.where is not RESERVED:
                need(self.told[slot.id] is link.where, "the observer was not told")
        rules.check(self)

    def _carry_out(self, do: Effect, slot: Slot) -> None:
        if do is Effect.OPEN:
            key = slot.per_key.key
            need(slot.id not in self.links, "opened twice")
            self.links[slot.id] = link = Link(slot, key)
            place = self.places[key]
            place.count, place.dialing, self.total = place.count + 1, place.dialing + 1, self.total + 1
            need(place.count <= self.limits.max_per_host, "more than max_per_host, as the peer counts")
            need(self.total <= self.limits.max_open, "more than max_open, as the peer counts")
            need(not self.pool.closed, "opened after the end")
            self.step.opened.append(link)
            return
        link = self.links[slot.id]
        if do is Effect.VALIDATE:
            need(not slot.uses, "looked at what has been in use")  # it may have left the shelf again
        elif do is Effect.RECALL:
            need(link.where is OPENING and link.extra, "called back what was not borrowed")
            self.step.recalled.append(link)
            while link.extra:
                self._count(link, -1)
                self.pool.give_back_extra(slot, self.now)  # its effects come after those that are there
        elif do is Effect.ABORT:
            need(link.where is OPENING, "aborted what is not an attempt")
            need(not link.extra, "aborted an attempt that has more than its own place")
            self._move(link, CLOSING)
            self.places[link.key].dialing -= 1
            self.aborting += 1
            self.step.aborted.append(link)
            if self.prompt:
                self._aborted(link)
        else:
            rules.may_close(self, link)
            if link.where is IDLE:
                self._unshelve(link)
            self._vanish(link)
            need(slot.state is GONE, "closed, but not gone")

    def _wake(self, waiter: Waiter) -> None:
        ask = self.asks.get(waiter.id)
        self.step.woken.add(waiter.id)
        if ask is None:
            need(waiter.id in self.step.ended, f"request {waiter.id} was answered twice")
            return
        need(waiter.state in ask.state.next, "an illegal move of a request")
        if waiter.state is SERVED:
            self.places[ask.key].queue.remove(ask)
            self._serve(ask)
        else:
            need(waiter.state is WaiterState.FAILED, "woken without a change")
            if ask.state is QUEUED:
                self.places[ask.key].queue.remove(ask)
            self.step.failed.append(ask)
            self._end(ask, WaiterState.FAILED)

    def _serve(self, ask: Ask) -> None:
        slot = ask.waiter.slot
        assert slot is not None
        link = self.links.get(slot.id)
        need(link is not None and link.where in (None, IDLE), "a request got what is not free")
        assert link is not None
        need(link.key == ask.key, "a connection of another key")
        direct = link.where is None
        if link.where is IDLE:
            rules.may_take(self, ask, link)
            self._unshelve(link)
        else:
            self.step.in_hand.remove(link)
        self._move(link, RESERVED)
        ask.state, ask.link = SERVED, link
        self.step.served.append((ask, link, direct))
        reuse = ask.waiter.reuse
        late: Reuse = Reuse.DEFERRED if direct else Reuse.IMMEDIATE
        expected = (late if self.step.what != "lost" else reuse) if link.uses else None
        need(reuse is expected and (reuse is None) == (not link.uses), "not told how it was served")

    def _end(self, ask: Ask, state: WaiterState) -> None:
        need(ask.waiter.state is state, "ended otherwise")
        if ask.state is QUEUED and state is WaiterState.CANCELLED:
            self.places[ask.key].queue.remove(ask)
        del self.asks[ask.number]
        self.step.ended.add(ask.number)
        if state is WaiterState.FAILED:
            late = ask.waiter.failure in (Failure.TIMEOUT, Failure.CONNECT_TIMEOUT)
            self.tally["timeouts" if late else "failed"] += 1

    # -- the world's own books --------------------------------------------------------------------

    def _count(self, link: Link, change: int) -> None:
        """Note that an attempt has a socket more or less, in a borrowed place."""
        link.extra, self.total, place = link.extra + change, self.total + change, self.places[link.key]
        place.extra, place.count = place.extra + change, place.count + change

    def _move(self, link: Link, to: SlotState) -> None:
        if link.where is not None:
            need(to in link.where.next, "an illegal move of a connection")
        link.where = to

    def _into_hand(self, link: Link) -> None:
        link.where = None
        self.step.in_hand.append(link)

    def _take_back(self, ask: Ask) -> None:
        """Let go of what a request that ends in this step had reserved."""
        if ask.link is not None:
            self._into_hand(ask.link)
            ask.link = None

    def _unshelve(self, link: Link) -> None:
        place = self.places[link.key]
        (place.idle if link.uses else place.unused).remove(link)
        del self.cold[link]

    def _vanish(self, link: Link) -> None:
        if link.where is None:
            self.step.in_hand.remove(link)
        del self.links[link.slot.id]
        self.told.pop(link.slot.id, None)
        self.places[link.key].count -= 1
        self.total -= 1

    def _shelve_rest(self) -> None:
        """What the pool took, and neither gave to anybody nor closed, must be idle."""
        rest = self.step.in_hand
        if len(rest) > 1:  # only in one tick: then the pool's word counts for their order
            order = {slot: n for n, slot in enumerate(self.pool.idle.line)}
            rest.sort(key=lambda link: order.get(link.slot, -1))
        for link in rest:
            need(link.expires > self.now, "kept idle beyond its time")
            link.where = IDLE
            place = self.places[link.key]
            (place.idle if link.uses else place.unused).append(link)
            self.cold[link] = None
