"""Carries out what a scheme's life cycle wants to be done with its connections.

The set-up is the last part of an attempt. Checks, resets and goodbyes are tasks that the pool asks for, one
per connection at most; a shared connection has a resident task for all of its life. A hook that fails, or
takes too long, ends its connection, and nothing else: requests never see its error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from anyio import BrokenResourceError

from keepalive.base.failure import MISTAKES, DialFailure, text_of
from keepalive.base.types import NEVER, CloseReason, Phase
from keepalive.connect.lifecycle import HookNames
from keepalive.connect.opener import check_link
from keepalive.transport.stream import LinkStream

from .shares import Hook, Resident, is_peers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from keepalive.connect.connector import Connector
    from keepalive.connect.dial import Dial
    from keepalive.connect.lifecycle import Lifecycle
    from keepalive.pool.records import Slot
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Cancellable

    from .pool_driver import PoolDriver

logger = logging.getLogger("keepalive")

GOODBYE_TIMEOUT = 1.0
"""Seconds that a goodbye may take."""
LONGEST_TALK = 16
"""So many pieces of what an idle connection's peer says are looked at in a row; then it talks too much."""


class Lifecycles:
    """The life cycles of one manager, by scheme, and their tasks.

    :ivar residents: of the shared connections, from their set-up to their end
    """

    def __init__(self, driver: PoolDriver, by_scheme: Mapping[str, Lifecycle[Any]]) -> None:
        self.residents: dict[Link, Resident] = {}
        self._driver = driver
        self._by_scheme = by_scheme
        self._names = {scheme: HookNames.of(lifecycle) for scheme, lifecycle in by_scheme.items()}
        self._tasks: dict[Slot, Cancellable] = {}

    def of(self, slot: Slot) -> Lifecycle[Any]:
        """Return the life cycle of a slot's scheme, which has one."""
        return self._by_scheme[slot.per_key.key.scheme]

    def hears(self, slot: Slot) -> bool:
        """Say whether the slot's protocol wants to see what comes while it is idle."""
        names = self._names.get(slot.per_key.key.scheme)
        return names is not None and names.received

    def connectors(self, connectors: dict[str, Connector], plain: Connector) -> None:
        """Let each life cycle set up what its scheme's connector opens."""
        for scheme, names in self._names.items():
            if names.opened or names.run:
                connectors[scheme] = SetUp(self, scheme, connectors.get(scheme, plain))

    # -- the set-up, inside an attempt --------------------------------------------------------------

    async def set_up(self, scheme: str, dial: Dial, link: Link) -> None:
        """Make a new connection ready for its first user."""
        lifecycle, names = self._by_scheme[scheme], self._names[scheme]
        stream = LinkStream.over(link)
        hook = "opened"
        try:
            link.state = await lifecycle.opened(stream, dial.key) if names.opened else None
            if not dial.has(link):
                msg = "it has closed the connection"
                raise ConnectionError(msg)
            hook = "shared"
            if not names.run or not lifecycle.shared(link.state):
                stream.detach()
                return
            hook = "run"
            resident = Resident(self._driver, scheme, lifecycle, stream, link, self._resident_ended)
            self.residents[link] = resident
            await resident.ready()
            if not dial.wanted or not dial.has(link):  # given up, or closed, while this was to be woken
                msg = "the attempt has ended"
                raise ConnectionError(msg)
        except Exception as exc:
            self._forget(link)
            number = exc.errno if isinstance(exc, OSError) else None
            msg = f"{hook} of the life cycle of {scheme!r}: {text_of(exc)}"
            raise DialFailure(Phase.SETUP, number, msg) from exc
        except BaseException:
            self._forget(link)
            raise

    def opened(self, slot: Slot, link: Link) -> int | None:
        """Join a new connection's resident to its slot; return how many may share it, None for one user."""
        resident = self.residents.get(link)
        if resident is None:
            return None
        resident.slot = slot
        return resident.capacity

    def _resident_ended(self, resident: Resident) -> None:
        """Close the connection of a resident that has ended by itself."""
        driver, slot = self._driver, resident.slot
        if slot is not None and not driver.reactor.forked:
            driver.pool.sharing.lost(slot, driver.reactor.clock(), CloseReason.ENDED, resident.failure())
            driver.act()

    # -- what the pool asks for ---------------------------------------------------------------------

    def check(self, slot: Slot) -> None:
        """See whether a connection still serves."""
        self._start(slot, "check", self.of(slot).check, self._prepared)

    def reset(self, slot: Slot) -> None:
        """Make a connection fit for its next user."""
        self._start(slot, "reset", self.of(slot).reset, self._prepared)

    def say_goodbye(self, slot: Slot) -> None:
        """Say goodbye; a resident has left before."""
        pool, now = self._driver.pool, self._driver.reactor.clock()
        pool.limit(slot, now + GOODBYE_TIMEOUT)
        resident = self.residents.pop(slot.link, None)

        async def goodbye(stream: LinkStream, state: Any) -> None:
            if resident is not None:
                await resident.leave()
            await self.of(slot).closing(stream, state)

        self._start(slot, "closing", goodbye, self._goodbye_said)

    def _goodbye_said(self, slot: Slot, _: bool) -> None:
        self._driver.pool.hooks.gone(slot, self._driver.reactor.clock())

    def _start(
        self,
        slot: Slot,
        hook: str,
        func: Callable[[LinkStream, Any], Awaitable[None]],
        ended: Callable[[Slot, bool], None],
    ) -> None:
        """Start a hook's task."""
        link: Link = slot.link
        link.deadline = NEVER  # its last user's
        stream, well = LinkStream.over(link), False

        async def work() -> None:
            nonlocal well
            try:
                await func(stream, link.state)
                well = True
            except Exception as exc:
                told = logger.debug if is_peers(exc) else logger.exception
                told("%s of the life cycle of %s raised: %s", hook, slot.per_key.key, text_of(exc))
            finally:
                stream.detach()

        def done() -> None:
            self._tasks.pop(slot, None)
            if not self._driver.reactor.forked:
                ended(slot, well)
                self._driver.act()

        try:
            name = f"keepalive {hook} of {slot.per_key.key}"
            self._tasks[slot] = Hook(self._driver.reactor, work, done, name)
        except Exception:  # the loop is at its end
            logger.debug("%s of %s could not be started", hook, slot.per_key.key, exc_info=True)
            ended(slot, False)

    def _prepared(self, slot: Slot, well: bool) -> None:
        pool, now = self._driver.pool, self._driver.reactor.clock()
        if well and slot.link is not None and self.quiet(slot, slot.link):
            pool.hooks.ready(slot, now)
        else:
            pool.hooks.failed(slot, now)

    # -- what an idle connection's peer says --------------------------------------------------------

    def quiet(self, slot: Slot, link: Link) -> bool:
        """Say whether a connection in nobody's use may be used again, after what its peer has said."""
        reason = link.reuse_blocker()
        return reason is None or (reason is CloseReason.UNREAD and self.hear(slot, link) is None)

    def hear(self, slot: Slot, link: Link) -> CloseReason | None:
        """Let the protocol answer what its peer says while idle; say why it must be closed, if it must."""
        if not self.hears(slot):
            return CloseReason.UNREAD
        for _ in range(LONGEST_TALK):
            try:
                data = link.try_receive(65536)
                if data is None:
                    return None
                if not data:
                    return CloseReason.PEER
                answer = self.of(slot).received(link.state, data)
                if answer is None:
                    return CloseReason.UNREAD
                size = memoryview(answer).nbytes  # refuses what is no bytes
                if size and (link.try_send(answer) != size or link.unsent):
                    return CloseReason.BUSY
            except BrokenResourceError:
                return CloseReason.PEER
            except MISTAKES:
                logger.exception("received of the life cycle of %s failed", slot.per_key.key)
                return CloseReason.UNREAD
        return CloseReason.UNREAD

    # -- the end ------------------------------------------------------------------------------------

    def closed(self, slot: Slot, link: Link) -> None:
        """End what is at work on a connection that is closed."""
        task = self._tasks.get(slot)
        if task is not None:
            task.cancel()
        self._forget(link)

    def _forget(self, link: Link) -> None:
        resident = self.residents.pop(link, None)
        if resident is not None:
            resident.cancel()


class SetUp:
    """A connector whose connections are set up by their scheme's life cycle."""

    def __init__(self, lifecycles: Lifecycles, scheme: str, connector: Connector) -> None:
        self._lifecycles = lifecycles
        self._scheme = scheme
        self._connector = connector

    async def connect(self, dial: Dial) -> Link:
        """Open a connection and set it up."""
        link = await self._connector.connect(dial)
        check_link(link)
        dial.begin_setup()
        await self._lifecycles.set_up(self._scheme, dial, link)
        return link
