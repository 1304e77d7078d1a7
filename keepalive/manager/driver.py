"""The driver of one manager: carries out what its pool decides, and tells the pool what happens.

Every entry from outside follows one pattern: tell the pool, then `act`. `act` carries out the
effects in order and moves the timer; it never awaits. Attempts and look-ups run in tasks of their own.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from keepalive.base.types import IMMEDIATE, NEVER, CloseReason
from keepalive.connect.deadlines import Timeouts
from keepalive.connect.opener import Opener
from keepalive.connect.sockets import Net
from keepalive.errors import ManagerClosed
from keepalive.pool.pool import Pool
from keepalive.pool.records import Slot, Waiter
from keepalive.pool.states import (
    ABORT,
    CHECK,
    CLOSE,
    GOODBYE,
    IDLE,
    LENT,
    OPEN,
    QUEUED,
    RECALL,
    RESERVED,
    RESET,
    SERVED,
    SHORT,
    VALIDATE,
    WAKE,
    Effect,
)
from keepalive.resolve.service import Names
from keepalive.transport.reactor import Reactor
from keepalive.transport.sessions import Sessions

from .address_watch import AddressWatch
from .attempts import Attempts
from .connection import Connection
from .error_mapping import explain
from .fleet import Seat
from .key_settings import LimitsByKey
from .lifecycles import Lifecycles
from .preconnect import Preconnects, WarmUp
from .shares import SharedConnection
from .upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.types import Key
    from keepalive.pool.records import KeyState
    from keepalive.pool.states import Limits
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Runtime

    from .options import Options

logger = logging.getLogger("keepalive")

FAIR_RUN = 16
"""So many new connections that are ready at once are handed out in a row, then others may run."""


class Driver:
    """All that lives between a manager's entry and its end."""

    def __init__(self, limits: Limits, options: Options, runtime: Runtime) -> None:
        self.limits_of = limits_of = LimitsByKey(
            options.settings, options.lifecycles, options.max_lifetime, options.check_after
        )
        self.seat = None if options.fleet is None else Seat(options.fleet, limits_of)
        bounds = limits_of if self.seat is None else self.seat.limits_of
        self.pool = Pool(
            limits, limits_of=bounds, observed=options.observer is not None, seed=random.random()
        )
        self.reactor = reactor = Reactor(runtime, self._unread, self._abandoned)
        self.now = reactor.clock
        self.running = reactor.running
        self.serves = reactor.thread  # the thread whose requests it takes; 0 when it has ended, or in a fork
        self.sessions = Sessions()
        self._poll = reactor.poller.poll
        self.names = Names(options.resolver, reactor)
        self.opener = self._make_opener(limits, options)
        self._preconnects = Preconnects()
        self._lifecycles = Lifecycles(self, options.lifecycles)
        self._attempts = Attempts(self, self.opener, options.connectors, self._preconnects, self._lifecycles)
        self._reuse_dropped = options.reuse_dropped
        self._observer = options.observer
        self._timer = reactor.timer(self._ring)
        self.armed = NEVER  # when the timer rings
        self.address_watch = (
            AddressWatch(self.pool, reactor, self.names, self.retire_slots) if options.retire_moved else None
        )
        self._upkeep = Upkeep(self, limits_of)
        self._acting = False
        self._quick = FAIR_RUN
        self._orphans: deque[Waiter | Slot] = deque()
        self._empty: list[anyio.Event] = []

    def _make_opener(self, limits: Limits, options: Options) -> Opener:
        reactor = self.reactor
        net = Net(
            reactor.poller,
            reactor.clock,
            options.bind_address,
            options.stagger,
            make_room=self._make_room,
        )
        return Opener(reactor, net, self.names, self.sessions, _timeouts(limits))

    async def begin(self) -> None:
        """Join the fleet, if there is one, then open what is to be kept ready."""
        if self.seat is not None:
            await self.seat.begin(self)
        self._upkeep.look()

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread. A forked child's copy does nothing anyway."""
        self.reactor.check_here("a manager and what it hands out belong")

    def check_serving(self) -> None:
        """Refuse these calls, and to serve requests from a forked child's copy."""
        self.check_here()
        if self.reactor.forked:
            msg = "this process is a fork: its copy of the manager is closed"
            raise ManagerClosed(msg)

    # -- requests and connections -------------------------------------------------------------------

    def refuse(self, waiter: Waiter) -> None:
        """Take a request that is one too many out again."""
        self.pool.refuse(waiter, self.now())
        self.act()

    def fetch(self, waiter: Waiter, context: object) -> Connection | None:
        """Hand over what a request has been served with; None if it must (still) wait.

        This is the moment of the hand-out: what the kernel knows of a used connection counts now.
        """
        pool = self.pool
        slot = waiter.slot
        if slot is not None and (slot.was_idle or slot.uses):
            events = self._poll()
            if events:
                self.reactor.poller.sort(events)  # it may turn out to be dead; the request then waits again
            if slot.shares is not None and slot.link is not None and slot.link.hung:
                self._refuse_hung(waiter)
        if waiter.state is SERVED:
            reuse = waiter.reuse
            now = waiter.since if reuse is IMMEDIATE else self.now()
            slot = pool.claim(waiter, now)
            link: Link = slot.link
            link.touched, link.deadline = False, NEVER
            if pool.effects:
                self.act()
            if slot.shares is None:
                return Connection(self, slot, link, context, reuse, now)
            conn = SharedConnection(self, slot, link, context, reuse, now)
            if slot.shares.lent > 1:
                conn.idle_for = 0.0  # somebody had it all the time
            return conn
        if waiter.state is QUEUED:
            return None
        raise explain(waiter, pool, context, self.seat)

    def _refuse_hung(self, waiter: Waiter) -> None:
        """Pass shared connections whose peer has gone: they end, but not for those who read them still."""
        while (slot := waiter.slot) is not None and slot.shares is not None and slot.link.hung:
            self.pool.sharing.refuse(waiter, self.now())
        self.act()

    def hurry(self) -> bool:
        """Take in what the kernel had connected at once, without a turn of the loop; False: not this time."""
        if not self.opener.ready:
            return False
        if not self._quick:
            self._quick = FAIR_RUN
            return False
        self._quick -= 1
        self.reactor.poller.harvest()
        return True

    def withdraw(self, waiter: Waiter) -> bool:
        """Cancel a request; False if it had ended."""
        if self.reactor.forked:
            return False
        found = self.pool.cancel(waiter, self.now())
        self.act()
        return found

    def take_back(self, slot: Slot, link: Link, keep_for: float) -> None:
        """Take a connection back for reuse, if it is fit for that.

        What the kernel has for it and nobody has harvested yet is found before anybody can see a
        difference: at the next hand-out, the next look at the numbers, or the next turn of the loop.
        """
        if slot.state is not LENT:
            return
        reason = link.reuse_blocker()
        if reason is CloseReason.UNREAD:
            reason = self._lifecycles.hear(slot, link)
        if reason is not None:
            self.throw_away(slot, reason)
            return
        pool = self.pool
        pool.release(slot, self.now(), keep_for)
        if pool.effects or pool.timers.earliest < self.armed:
            self.act()

    def give_back_share(self, slot: Slot, keep_for: float) -> None:
        """Take a share of a connection back."""
        pool = self.pool
        pool.sharing.give_back(slot, self.now(), keep_for)
        if pool.effects or pool.timers.earliest < self.armed:
            self.act()

    def throw_away(self, slot: Slot, reason: CloseReason) -> None:
        """Close a lent connection."""
        if slot.state is LENT:
            self.pool.discard(slot, self.now(), reason)
            self.act()

    def orphan(self, record: Waiter | Slot) -> None:
        """Note that nobody holds this any more. Called by finalisers: from any thread, at any moment."""
        if self.reactor.forked:
            return  # the parent's loop is not to be woken
        self._orphans.append(record)
        try:
            self.reactor.call_soon_threadsafe(self.reap)
        except RuntimeError:
            # The loop has ended without the manager: nothing but the descriptor is left to be saved.
            if isinstance(record, Slot) and record.link is not None:
                record.link.drop()

    def reap(self) -> None:
        """Give back what finalisers have left."""
        while self._orphans and not self.reactor.forked:
            record = self._orphans.popleft()
            if isinstance(record, Waiter):
                self.pool.cancel(record, self.now())
                self.act()
            elif record.shares is not None:
                self.give_back_share(record, NEVER)
            elif record.state is LENT:
                if self._reuse_dropped or not record.link.touched:
                    self.take_back(record, record.link, NEVER)
                else:
                    self.throw_away(record, CloseReason.DROPPED)

    def preconnect(self, per_key: KeyState, ready: int) -> WarmUp:
        """Open connections for nobody, until so many are ready."""
        slots = self.pool.preconnect(per_key, ready, self.now())
        warm_up = WarmUp(len(slots))
        self._preconnects.began(slots, warm_up)
        self.act()
        return warm_up

    def retire(self, concerned: Callable[[Key], bool]) -> int:
        """Close the idle ones of the keys concerned, and let the lent ones close when given back.

        Their TLS sessions go too: a resumed handshake would go by the certificates of before.
        """
        self.sessions.forget(concerned)
        links = list(self.reactor.poller.links.values())
        slots = [link.slot for link in links if link.slot is not None and concerned(link.slot.per_key.key)]
        return self.retire_slots(slots)

    def retire_slots(self, slots: list[Slot]) -> int:
        """Close those that are idle, let lent ones close when given back; say how many were idle."""
        closed = self.pool.retire(slots, self.now())
        self.act()
        return closed

    def set_limits(self, changed: dict[str, float]) -> None:
        """Change some of the pool's limits, by name, and what single keys have."""
        limits = replace(self.pool.limits, **changed)
        self.pool.set_limits(limits, self.now())
        self.act()
        self._upkeep.look()

    def _unread(self, root: Link) -> None:
        """Look at a link that has become readable while nobody reads it."""
        slot = root.slot
        if slot is None or slot.link is None or slot.shares is not None:
            return  # an attempt's, or a resident's
        if slot.state is not IDLE and slot.state is not RESERVED:
            return  # its user will read
        if not slot.uses and not slot.was_idle:
            return  # just opened for a request: what its peer does with it is the user's (or VALIDATE's)
        reason = slot.link.look()
        unread = reason is CloseReason.UNREAD
        if unread and self._lifecycles.hears(slot):
            reason = self._lifecycles.hear(slot, slot.link)
            unread = False  # it has been read, also if it was refused
        if reason is None or (unread and not slot.uses and not root.hung):
            return  # session tickets, a false alarm, or a server's greeting for the first user
        self.pool.lost(slot, self.now(), reason)
        self.act()

    # -- effects ------------------------------------------------------------------------------------

    def act(self) -> None:
        """Carry out what the pool wants, then set the timer for its next deadline."""
        pool = self.pool
        effects = pool.effects
        while effects and not self._acting:
            effect, what = effects.popleft()
            if effect is WAKE:
                waker = what.waker
                if waker is not None and not waker.done():
                    waker.set_result(None)
                continue
            self._acting = True  # an observer or a connector's link may call back
            try:
                self._carry_out(effect, what)
            finally:
                self._acting = False
        if pool.timers.earliest < self.armed:
            self.armed = pool.timers.earliest
            self._timer.move(max(0.0, self.armed - self.now()))
        if self.seat is not None and self.seat.beyond and not self._acting:
            self.seat.look()
        if self._empty and not pool.capacity.total:
            for event in self._empty:
                event.set()

    def _carry_out(self, effect: Effect, what: Any) -> None:
        if effect is CLOSE:
            self._close(what)
        elif effect is OPEN:
            self._attempts.open(what)
        elif effect is ABORT:
            self._attempts.abort(what)
        elif effect is RECALL:
            self._attempts.recall(what)
        elif effect is CHECK:
            self._lifecycles.check(what)
        elif effect is RESET:
            self._lifecycles.reset(what)
        elif effect is GOODBYE:
            self._lifecycles.say_goodbye(what)
        elif effect is VALIDATE:
            if what.state is IDLE:
                self._unread(what.link)
        elif effect is SHORT and self.seat is not None:
            self.seat.fleet.wanted(what.key)
        else:
            self._notify(*what)

    def _close(self, slot: Slot) -> None:
        link, slot.link = slot.link, None
        self._lifecycles.closed(slot, link)
        try:
            link.close()
        except Exception:
            logger.exception("closing a connection to %s", slot.per_key.key)

    def _notify(self, event: str, details: tuple[object, ...]) -> None:
        try:
            getattr(self._observer, event)(*details)
        except Exception:
            logger.exception("observer %r raised in %s%r", self._observer, event, details)

    def _ring(self) -> None:
        self.armed = NEVER
        self.pool.tick(self.now())
        self.act()

    # -- the end ------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Fail what waits, abort what opens, close what is idle. Lent ones stay."""
        if not self.pool.closed:
            self.serves = 0
            self.pool.shutdown(self.now())
            self.act()
            self.names.close()  # those that refresh an answer have no asker who would go

    async def drain(self, grace: float) -> None:
        """Wait until nothing is open any more, for `grace` seconds at most."""
        if self.pool.capacity.total:
            event = anyio.Event()
            self._empty.append(event)
            try:
                with anyio.move_on_after(None if grace == NEVER else grace):
                    await event.wait()
            finally:
                self._empty.remove(event)

    async def close(self) -> None:
        """End everything: cut what is still lent, and wait for the tasks that were told to end."""
        for link in list(self.reactor.poller.links.values()):
            if link.slot is not None:
                self.throw_away(link.slot, CloseReason.SHUTDOWN)
                self.pool.sharing.lost(link.slot, self.now(), CloseReason.SHUTDOWN)
        self.act()
        self.names.close()
        if self.seat is not None:
            await self.seat.end()
        try:
            await self.reactor.wait_for_tasks()
        finally:
            # A second cancellation may come through the shield; sockets and watches end all the same.
            self._timer.cancel()
            self._upkeep.cancel()
            if self.address_watch is not None:
                self.address_watch.cancel()
            self.sessions.forget()
            await self.reactor.aclose()

    def _make_room(self) -> bool:
        """Close an idle connection for the sake of its descriptor, if a request waits for one."""
        evicted = self.pool.evict_coldest(self.now())
        self.act()
        return evicted

    def _abandoned(self) -> None:
        """Empty this copy after a fork; its descriptors are closed already."""
        self.serves = 0
        self.seat = None
        self.pool = Pool(self.pool.limits)
        self.pool.shutdown(0.0)
        self._orphans.clear()


def _timeouts(limits: Limits) -> Timeouts | None:
    timeouts = Timeouts(
        limits.connect_timeout, limits.resolve_timeout, limits.tls_timeout, limits.setup_timeout
    )
    return None if timeouts == Timeouts() else timeouts
