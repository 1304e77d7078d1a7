"""What the shell needs of an event loop, and nothing more: asyncio (uvloop too) or trio.

anyio covers most of what differs between the loops; the five things here are what the hot path and
a *plain* `allocate` need below it: the clock, parking a task, starting one from a plain function,
one timer that can be moved, and watching one descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ("Cancellable", "Parking", "Runtime", "Timer", "Wakeable")


class Wakeable(Protocol):
    """Who is told, once or again and again, that something is ready."""

    def done(self) -> bool:
        """Say whether it was woken or its task was cancelled."""

    def set_result(self, result: None, /) -> None:
        """Wake it; only while not `done`."""


class Parking(Wakeable, Protocol):
    """A place where one task waits to be woken. An asyncio future is one."""

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait. Raises the loop's cancellation; one that met with the wake-up is raised later."""


class Cancellable(Protocol):
    """A task or watch that can be ended."""

    def cancel(self) -> object:
        """End it; harmless when it has ended."""


class Timer(Protocol):
    """One alarm that can be moved at will."""

    def move(self, delay: float) -> None:
        """Ring `delay` seconds from now, and not when it was set for before."""

    def cancel(self) -> object:
        """Never ring again."""


class Runtime(Protocol):
    """One event loop, seen from one manager."""

    clock: Callable[[], float]
    """Seconds, monotonic, counting on while the machine sleeps where the system offers that."""
    park: Callable[[], Parking]
    """Returns a new place for the calling task to wait at."""
    cancel_met: Callable[[], bool]
    """Says whether the calling task, just woken, may have been cancelled too; quick when it was not."""
    thread: int
    """The loop's thread, as `threading.get_ident` tells it."""

    def running(self) -> bool:
        """Say, when called in that thread, whether it is this very loop that runs there."""

    def spawn(
        self, func: Callable[[], Coroutine[Any, Any, None]], done: Callable[[], object], name: str
    ) -> Cancellable:
        """Start a task from a plain function; `done` is called when it has ended, even if it never ran.

        It has none of the caller's context variables, nor have timers and watches: what is done for
        everybody must not keep alive what the first one who asked happened to have.
        `func` must not raise anything but the loop's cancellation.
        """

    def timer(self, ring: Callable[[], None]) -> Timer:
        """Return an alarm that calls `ring` in the loop."""

    def watch(self, fd: int, ready: Callable[[], None]) -> Cancellable:
        """Call `ready` in the loop whenever the descriptor is readable."""

    def call_soon_threadsafe(self, func: Callable[[], None]) -> None:
        """Call `func` in the loop soon; from any thread. Raises RuntimeError if the loop has ended."""

    async def aclose(self) -> None:
        """Wait until the cancelled timers and watches have gone."""
