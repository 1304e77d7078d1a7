"""The I/O shell of one manager: carries out what its pool decides, and tells the pool what happens.

Every entry from outside follows one pattern: tell the pool, then `act`. `act` carries out the
effects in order and moves the timer; it never awaits. Attempts and look-ups run in tasks of their own.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import replace
from threading import get_ident
from typing import TYPE_CHECKING, Any

import anyio

from keepalive.base.types import IMMEDIATE, NEVER, CloseReason
from keepalive.connect.sockets import Net
from keepalive.errors import ManagerClosed
from keepalive.pool.pool import Pool
from keepalive.pool.records import Slot, Waiter
from keepalive.pool.states import (
    ABORT,
    CLOSE,
    IDLE,
    LENT,
    LOOK,
    OPEN,
    QUEUED,
    RECALL,
    RESERVED,
    SERVED,
    WAKE,
    Do,
)
from keepalive.resolve.service import Names
from keepalive.transport import fork as _fork
from keepalive.transport.poller import new_poller
from keepalive.transport.sessions import Sessions
from keepalive.transport.tasks import Lull

from .address_watch import Moved
from .attempts import Attempts
from .connection import Connection
from .error_mapping import explain, warm_up_error
from .preconnect import WarmUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.abc import Connector, Observer, Resolver
    from keepalive.base.types import Key
    from keepalive.connect.sockets import BindAddresses
    from keepalive.pool.records import HostState
    from keepalive.pool.states import Limits
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Runtime

logger = logging.getLogger("keepalive")

FAIR_RUN = 16
"""So many new connections that are ready at once are handed out in a row, then others may run."""


class Engine:
    """All that lives between a manager's entry and its end."""

    def __init__(
        self,
        limits: Limits,
        runtime: Runtime,
        resolver: Resolver,
        connectors: dict[str, Connector],
        *,
        bind_address: BindAddresses | None,
        stagger: float,
        retire_moved: bool,
        max_lifetime: float,
        reuse_dropped: bool,
        observer: Observer | None,
    ) -> None:
        self.pool = Pool(limits, observed=observer is not None, seed=random.random())
        self.clock = runtime.clock
        self.thread = runtime.thread
        self.running = runtime.running
        self.park = runtime.park
        self.cancel_met = runtime.cancel_met
        self.poller = new_poller(runtime, self._unread)
        self.poll = self.poller.poll
        self.sessions = Sessions()
        self.forked = False
        self._runtime = runtime
        self._names = Names(resolver, runtime, self.task_ended)
        self._lull = Lull(lambda: self._attempts.running or self._names.tasks)
        self._attempts = Attempts(
            self,
            runtime,
            Net(self.poller, self.clock, bind_address, stagger),
            self._names,
            connectors,
            max_lifetime,
        )
        self._reuse_dropped = reuse_dropped
        self._observer = observer
        self._warm_ups: dict[Slot, WarmUp] = {}
        self._timer = runtime.timer(self._ring)
        self._moved = Moved(self, self._names, runtime) if retire_moved else None
        self.armed = NEVER  # when the timer rings
        self._acting = False
        self._quick = FAIR_RUN
        self.ready = 0  # connections that were made at once, and wait to be taken in
        self._orphans: deque[Waiter | Slot] = deque()
        self._empty: list[anyio.Event] = []
        _fork.watch(self)

    def here(self) -> bool:
        """Say whether the caller runs in this manager's event loop. Hot paths ask the same inline."""
        return get_ident() == self.thread and self.running()

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread. A forked child's copy does nothing anyway."""
        if not self.here() and not self.forked:
            msg = "a manager and what it hands out belong to the event loop it was entered in"
            raise RuntimeError(msg)

    def check_not_forked(self) -> None:
        """Refuse to serve requests from a forked child's copy."""
        if self.forked:
            msg = "this process is a fork: its copy of the manager is closed"
            raise ManagerClosed(msg)

    # -- requests and connections -------------------------------------------------------------------

    def fetch(self, waiter: Waiter, context: object) -> Connection | None:
        """Hand over what a request has been served with; None if it must (still) wait.

        This is the moment of the hand-out: what the kernel knows of a used connection counts now.
        """
        pool = self.pool
        slot = waiter.slot
        if slot is not None and (slot.shelved or slot.uses):
            events = self.poll()
            if events:
                self.poller.sort(events)  # it may turn out to be dead; the request then waits again
        if waiter.state is SERVED:
            reuse = waiter.reuse
            now = waiter.since if reuse is IMMEDIATE else self.clock()
            slot = pool.claim(waiter, now)
            conn = Connection()
            conn._link = link = slot.link
            link.touched = False
            conn._engine = self
            conn._slot = slot
            conn.context = context
            conn.from_cache = reuse
            conn.uses = slot.uses
            conn.idle_for = now - slot.idle_since
            if pool.effects:
                self.act()
            return conn
        if waiter.state is QUEUED:
            return None
        raise explain(waiter, pool, context)

    def hurry(self) -> bool:
        """Take in what the kernel had connected at once, without a turn of the loop; False: not this time."""
        if not self._quick:
            self._quick = FAIR_RUN
            return False
        self._quick -= 1
        self.poller.harvest()
        return True

    def withdraw(self, waiter: Waiter) -> bool:
        """Cancel a request; False if it had ended."""
        if self.forked:
            return False
        found = self.pool.cancel(waiter, self.clock())
        self.act()
        return found

    def take_back(self, slot: Slot, link: Link, keep_for: float) -> None:
        """Take a connection back for reuse, if it is fit for that.

        What the kernel has for it and nobody has harvested yet is found before anybody can see a
        difference: at the next hand-out, the next look at the numbers, or the next turn of the loop.
        """
        if slot.state is not LENT:
            return
        reason = link.unfit()
        if reason is not None:
            self.throw_away(slot, reason)
            return
        pool = self.pool
        pool.release(slot, self.clock(), keep_for)
        if pool.effects or pool.earliest < self.armed:
            self.act()

    def throw_away(self, slot: Slot, reason: CloseReason) -> None:
        """Close a lent connection."""
        if slot.state is LENT:
            self.pool.discard(slot, self.clock(), reason)
            self.act()

    def orphan(self, record: Waiter | Slot) -> None:
        """Note that nobody holds this any more. Called by finalisers: from any thread, at any moment."""
        if self.forked:
            return  # the parent's loop is not to be woken
        self._orphans.append(record)
        try:
            self._runtime.call_soon_threadsafe(self.reap)
        except RuntimeError:
            # The loop has ended without the manager: nothing but the descriptor is left to be saved.
            if isinstance(record, Slot) and record.link is not None:
                record.link.drop()

    def reap(self) -> None:
        """Give back what finalisers have left."""
        while self._orphans and not self.forked:
            record = self._orphans.popleft()
            if isinstance(record, Waiter):
                self.pool.cancel(record, self.clock())
                self.act()
            elif record.state is LENT:
                if self._reuse_dropped or not record.link.touched:
                    self.take_back(record, record.link, NEVER)
                else:
                    self.throw_away(record, CloseReason.DROPPED)

    def warm(self, host: HostState, ready: int) -> WarmUp:
        """Open connections for nobody, until so many are ready."""
        slots = self.pool.warm(host, ready, self.clock())
        warm_up = WarmUp(len(slots))
        self._warm_ups.update(dict.fromkeys(slots, warm_up))
        self.act()
        return warm_up

    def note_warmed(self, slot: Slot, failure: Exception | None = None, *, opened: bool = False) -> None:
        warm_up = self._warm_ups.pop(slot, None)
        if warm_up is not None:
            error = None if opened else warm_up_error(slot, failure, self.pool)
            warm_up.note(error, opened=opened)

    def retire(self, concerned: Callable[[Key], bool]) -> int:
        """Close the idle ones of the keys concerned, and let the lent ones close when given back.

        Their TLS sessions go too: a resumed handshake would go by the certificates of before.
        """
        self.sessions.forget(concerned)
        links = list(self.poller.links.values())
        slots = [link.slot for link in links if link.slot is not None and concerned(link.slot.host.key)]
        return self.retire_slots(slots)

    def forget_names(self, host: str | None) -> None:
        """Have the addresses of a host, or of all, asked for anew."""
        self._names.forget(host)

    def retire_slots(self, slots: list[Slot]) -> int:
        """Close those that are idle, let lent ones close when given back; say how many were idle."""
        closed = self.pool.retire(slots, self.clock())
        self.act()
        return closed

    def set_limits(self, max_per_host: float, max_open: float, max_idle: float) -> None:
        """Change the pool's limits."""
        limits = replace(self.pool.limits, max_per_host=max_per_host, max_open=max_open, max_idle=max_idle)
        self.pool.set_limits(limits, self.clock())
        self.act()

    def _unread(self, root: Link) -> None:
        """Look at a link that has become readable while nobody reads it."""
        slot = root.slot
        if slot is None or slot.link is None:
            return  # an attempt's
        if slot.state is not IDLE and slot.state is not RESERVED:
            return  # its user will read
        if not slot.uses and not slot.shelved:
            return  # just opened for a request: what its peer does with it is the user's to see (or LOOK)
        reason = slot.link.look()
        if reason is None or (reason is CloseReason.UNREAD and not slot.uses and not root.hung):
            return  # session tickets, a false alarm, or a server's greeting for the first user
        self.pool.lost(slot, self.clock(), reason)
        self.act()

    # -- effects ------------------------------------------------------------------------------------

    def act(self) -> None:
        """Carry out what the pool wants, then set the timer for its next deadline."""
        pool = self.pool
        effects = pool.effects
        while effects and not self._acting:
            do, what = effects.popleft()
            if do is WAKE:
                waker = what.waker
                if waker is not None and not waker.done():
                    waker.set_result(None)
                continue
            self._acting = True  # an observer or a connector's link may call back
            try:
                self._carry_out(do, what)
            finally:
                self._acting = False
        if pool.earliest < self.armed:
            self.armed = pool.earliest
            self._timer.move(max(0.0, self.armed - self.clock()))
        if self._empty and not pool.total:
            for event in self._empty:
                event.set()

    def _carry_out(self, do: Do, what: Any) -> None:
        if do is CLOSE:
            self._close(what)
        elif do is OPEN:
            self._attempts.open(what)
        elif do is ABORT:
            self._attempts.abort(what)
        elif do is RECALL:
            self._attempts.recall(what)
        elif do is LOOK:
            if what.state is IDLE:
                self._unread(what.link)
        else:
            self._tell(*what)

    def _close(self, slot: Slot) -> None:
        link, slot.link = slot.link, None
        try:
            link.close()
        except Exception:
            logger.exception("closing a connection to %s", slot.host.key)

    def _tell(self, event: str, details: tuple[object, ...]) -> None:
        try:
            getattr(self._observer, event)(*details)
        except Exception:
            logger.exception("observer %r raised in %s%r", self._observer, event, details)

    def _ring(self) -> None:
        if self.forked:
            return
        self.armed = NEVER
        self.pool.tick(self.clock())
        self.act()

    # -- the end ------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Fail what waits, abort what opens, close what is idle. Lent ones stay."""
        if not self.pool.closed:
            self.pool.shutdown(self.clock())
            self.act()
            self._names.close()  # those that refresh an answer have no asker who would go

    async def drain(self, grace: float) -> None:
        """Wait until nothing is open any more, for `grace` seconds at most."""
        if self.pool.total:
            event = anyio.Event()
            self._empty.append(event)
            try:
                with anyio.move_on_after(None if grace == NEVER else grace):
                    await event.wait()
            finally:
                self._empty.remove(event)

    def task_ended(self) -> None:
        """Note that a task of an attempt or look-up has ended."""
        self._lull.look()

    async def close(self) -> None:
        """End everything: cut what is still lent, and wait for the tasks that were told to end."""
        for link in list(self.poller.links.values()):
            if link.slot is not None:
                self.throw_away(link.slot, CloseReason.SHUTDOWN)
        self._names.close()
        try:
            await self._lull.wait()
        finally:
            # A second cancellation may come through the shield; sockets and watches end all the same.
            for link in list(self.poller.links.values()):
                link.close()
            self._timer.cancel()
            if self._moved is not None:
                self._moved.cancel()
            self.sessions.forget()
            self.poller.close()
            _fork.forget(self)
        with anyio.CancelScope(shield=True):
            await self._runtime.aclose()

    def abandon(self) -> None:
        """Empty this copy after a fork: the parent's connections, queue and event loop stay untouched."""
        self.forked = True
        self.thread = 0  # nobody's: all calls take the way that asks more questions
        self.poller.abandon()
        self.pool = Pool(self.pool.limits)
        self.pool.closed = True
        self._orphans.clear()
