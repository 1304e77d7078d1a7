"""What happens to peers as objects, for those who rather read a stream than be called."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from keepalive.base.types import NEVER

from .core.states import Callbacks

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.runtime import Parking

    from .core.dispatch import Dispatch
    from .peer import Peer

__all__ = (
    "Disconnected",
    "Error",
    "Event",
    "Failure",
    "Flushed",
    "Initialize",
    "Input",
    "Success",
    "Timeout",
)


@dataclass(slots=True)
class Initialize:
    """A peer was made by `MultiClient.connect`."""

    peer: Peer


@dataclass(slots=True)
class Success:
    """A peer is connected."""

    peer: Peer


@dataclass(slots=True)
class Failure:
    """A peer could not be connected."""

    peer: Peer
    operation: str
    number: int
    text: str


@dataclass(slots=True)
class Input:
    """A unit has come."""

    peer: Peer
    unit: Any


@dataclass(slots=True)
class Error:
    """A connection has ended or broken, or a unit could not be read."""

    peer: Peer
    operation: str
    number: int
    text: str


@dataclass(slots=True)
class Timeout:
    """A peer was too slow; `Peer.reason` says at what."""

    peer: Peer


@dataclass(slots=True)
class Flushed:
    """All that was given to `send` has gone to the kernel."""

    peer: Peer


@dataclass(slots=True)
class Disconnected:
    """The end of a peer, always the last that is heard of it."""

    peer: Peer


Event: TypeAlias = Initialize | Success | Failure | Input | Error | Timeout | Flushed | Disconnected


class EventQueue:
    """The events that nobody has taken yet.

    When `most` wait, nothing more is read and no attempt is started until half of them were taken. What is
    under way then may still end, so the true bound is `most` and a few for each open peer.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._low = most // 2
        self._events: deque[Event] = deque()
        self._takers: deque[Parking] = deque()
        self.ended = False
        self.core: Dispatch | None = None

    def callbacks(self) -> Callbacks:
        """Return callbacks that put events in here."""
        made = self._putter
        return Callbacks(
            made(Initialize), made(Success), made(Failure), made(Input),
            made(Error), made(Timeout), made(Flushed), made(Disconnected),
        )  # fmt: skip  # in the order of the fields

    def _putter(self, kind: Callable[..., Event]) -> Callable[..., None]:
        def put(peer: Peer, *args: Any) -> None:
            self._events.append(kind(peer, *args))
            if len(self._events) >= self._most and self.core is not None:
                self.core.pause()
            self._wake()

        return put

    def _wake(self) -> None:
        while self._takers and self._events:
            parked = self._takers.popleft()
            if not parked.done():
                parked.set_result(None)
                return

    def open_wide(self) -> None:
        """Take all that comes: who waits for the end of all peers takes no events meanwhile."""
        self._most = NEVER

    def end(self, _now: float = 0.0) -> None:
        """Let the takers go when they have taken everything."""
        self.ended = True
        for parked in self._takers:
            if not parked.done():
                parked.set_result(None)
        self._takers.clear()

    async def take(self, park: Callable[[], Parking], clock: Callable[[], float]) -> Event:
        """Return the next event; wait for it.

        :raises StopAsyncIteration: there will be none
        """
        while not self._events:
            if self.ended:
                raise StopAsyncIteration
            parked = park()
            self._takers.append(parked)
            try:
                await parked
            except BaseException:
                if parked in self._takers:
                    self._takers.remove(parked)
                self._wake()  # this one's wake-up is for somebody else
                raise
        event = self._events.popleft()
        core = self.core
        if core is not None and core.places.paused and len(self._events) <= self._low:
            core.resume(clock())
        return event
