"""What the owner of connections needs of its event loop, once for all: manager, multi client and SIP pool.

A reactor is made in the loop that it works for and ends with `aclose`. It has the poller of all sockets, the
clock, timers, and tasks that are waited for at the end. In a forked child it abandons itself: the child's
copies of all descriptors are closed, and nothing of the parent's loop is touched.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

import anyio

from . import fork
from .deadlines import Deadlines
from .poller import new_poller

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .link import Link
    from .runtime import Cancellable, Runtime, Timer


class Reactor:
    """The event loop as seen by one owner of connections.

    :param runtime: the loop's; see `loops.current_runtime`
    :param unread: called for each link that has something to read while nobody reads it
    :param abandoned: called in a forked child, when the descriptors have been closed there
    :param rounds: how often the kernel is asked for events in one turn of the loop, while there are some
    :ivar clock: seconds; the clock of all times given to timers
    :ivar park: returns a place where the calling task waits until it is woken
    :ivar cancel_met: whether the calling task, just woken, may have been cancelled too
    :ivar thread: the loop's thread; 0 in a forked child, so that no call counts as made there
    :ivar running: whether it is this loop that runs, asked in its thread
    :ivar tasks: how many have not ended, cancelled ones included
    :ivar forked: this copy is a forked child's
    """

    def __init__(
        self,
        runtime: Runtime,
        unread: Callable[[Link], None],
        abandoned: Callable[[], None],
        *,
        rounds: int = 1,
    ) -> None:
        self.clock = runtime.clock
        self.park = runtime.park
        self.cancel_met = runtime.cancel_met
        self.thread = runtime.thread
        self.running = runtime.running
        self.forked = False
        self._runtime = runtime
        self._abandoned = abandoned
        self.tasks = 0
        self._no_task = anyio.Event()
        self.poller = new_poller(runtime, unread, rounds)
        self._deadlines = self.poller.deadlines = Deadlines(self.clock, self.timer)
        fork.watch(self)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self.poller.closed

    def here(self) -> bool:
        """Say whether the caller runs in this event loop. Hot paths ask the same inline."""
        return get_ident() == self.thread and self.running()

    def check_here(self, what: str) -> None:
        """Refuse calls from another event loop or thread. A forked child's copy does nothing anyway.

        :param what: whose calls these are, for the message: "a manager belongs"
        :raises RuntimeError: called from elsewhere
        """
        if not self.here() and not self.forked:
            msg = f"{what} to the event loop it was entered in"
            raise RuntimeError(msg)

    # -- tasks and timers -----------------------------------------------------------------------------

    def spawn(
        self, func: Callable[[], Coroutine[Any, Any, None]], done: Callable[[], object], name: str
    ) -> Cancellable:
        """Start a task from a plain function; `done` is called when it has ended, even if it never ran.

        `func` must not raise anything but the loop's cancellation. `wait_for_tasks` waits for it.
        """

        def ended() -> None:
            try:
                done()
            finally:
                self.tasks -= 1
                if not self.tasks:
                    self._no_task.set()

        self.tasks += 1
        try:
            return self._runtime.spawn(func, ended, name)
        except BaseException:
            self.tasks -= 1
            raise

    async def wait_for_tasks(self) -> None:
        """Wait until no task runs, whatever is cancelled meanwhile; those started meanwhile count too."""
        with anyio.CancelScope(shield=True):
            while self.tasks:
                if self._no_task.is_set():
                    self._no_task = anyio.Event()  # else another one waits for the same
                await self._no_task.wait()

    def timer(self, ring: Callable[[], None]) -> Timer:
        """Return an alarm that calls `ring` in the loop; never in a forked child."""

        def in_this_process() -> None:
            if not self.forked:
                ring()

        return self._runtime.timer(in_this_process)

    def call_soon_threadsafe(self, func: Callable[[], None]) -> None:
        """Call `func` in the loop soon; from any thread. Raises RuntimeError if the loop has ended."""
        self._runtime.call_soon_threadsafe(func)

    # -- the end --------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close all links, and wait until timers and watches have gone. Timers must have been cancelled."""
        for link in list(self.poller.links.values()):
            link.close()
        self.poller.close()
        self._deadlines.cancel()
        fork.forget(self)
        with anyio.CancelScope(shield=True):
            await self._runtime.aclose()

    def end_after_loop(self) -> bool:
        """Close all links if the event loop has ended without them; return whether this has ended."""
        if not self.closed:
            try:
                self.call_soon_threadsafe(_nothing)
            except RuntimeError:
                fork.forget(self)
                self.abandon()
        return self.closed

    def abandon(self) -> None:
        """Empty this copy after a fork: the parent's connections and event loop stay untouched."""
        self.forked = True
        self.thread = 0
        self.poller.abandon()
        self._abandoned()


def _nothing() -> None:
    """Be called, if there is a loop to call it."""
