"""How peers end, and what user code is told, at once or later. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from keepalive.base.failure import MISTAKES
from keepalive.base.text import printable

from .places import Places
from .states import CLOSED, FLUSHING, ClientClosed, EndReason
from .timers import PeerTimers

if TYPE_CHECKING:
    from collections.abc import Callable

    from .states import Callbacks, Effects, Limits, Record


class Deferred:
    """Calls to be made in the next turn of the loop, in order."""

    __slots__ = ("_asked", "_calls", "_effects")

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asked = False  # `run` will be called

    def add(self, what: Callable[..., object], *args: Any) -> None:
        """Have something called when no user code is running, with the time then as its last argument."""
        self._calls.append((what, args))
        if not self._asked:
            self._asked = True
            self._effects.call_soon()

    def run(self, now: float) -> None:
        """Make the calls; what is added meanwhile is for the next time, so that others have their turn."""
        calls = self._calls
        try:
            for _ in range(len(calls)):
                what, args = calls.popleft()
                what(*args, now)
        finally:
            self._asked = bool(calls)
            if calls:
                self._effects.call_soon()

    def clear(self) -> None:
        """Forget them."""
        self._calls.clear()

    def __len__(self) -> int:
        return len(self._calls)


class Lifecycle:
    """The peers there are, and what waits for its turn; it ends them, and calls user code.

    :ivar empty: an event, set when the last peer has gone
    :ivar held: peers that have input, which nobody can take
    :ivar to_read: peers that will be read from in the next turn
    :ivar emptied: peers that are to be told that all was sent
    """

    def __init__(self, callbacks: Callbacks, limits: Limits, effects: Effects) -> None:
        self.on = callbacks
        self.effects = effects
        self.deferred = Deferred(effects)
        self.timers = PeerTimers(limits, effects)
        self.places = Places(limits, effects, self.timers)
        self.records: dict[int, Record] = {}
        self.empty: Any = None
        self.held: OrderedDict[Record, None] = OrderedDict()
        self.to_read: set[Record] = set()
        self.emptied: dict[Record, None] = {}

    # -- the end of a peer --------------------------------------------------------------------------

    def close(self, record: Record, reason: EndReason) -> None:
        """Close a peer, and tell nobody."""
        record.state = CLOSED
        record.reason = reason
        del self.records[record.id]
        if not self.records and self.empty is not None:
            self.empty.set()
        places = self.places
        held = record.attempting or record.link is not None
        places.leave(record)
        self.timers.withdraw(record)
        self.held.pop(record, None)
        self.emptied.pop(record, None)
        self.to_read.discard(record)
        if held:
            places.shortage_over()
        if self.effects.close(record) and held:
            places.taken -= 1
        if record.inbox:
            record.inbox.clear()  # a filter may remember it
        record.link = record.inbox = record.outbox = None
        self.wake(record)

    def end(self, record: Record, reason: EndReason, name: str, args: tuple[Any, ...], now: float) -> None:
        """Close a peer and tell why, but for one that was being shut down, which just ends."""
        quiet = record.state is FLUSHING
        self.close(record, reason)
        if not quiet:
            self.call(name, record, args, now)
        self.disconnected(record, now)
        self.places.start_next(now)

    def finish(self, record: Record, reason: EndReason, now: float) -> None:
        """Close a peer, whose user knows why."""
        if record.state is not CLOSED:
            self.close(record, reason)
            self.disconnected(record, now)
            self.places.start_next(now)

    def broken(self, record: Record, operation: str, exc: Exception, now: float) -> None:
        """End a peer whose connection broke."""
        cause = exc.__cause__ if isinstance(exc.__cause__, OSError) else None
        number = (cause.errno if cause else None) or 0
        text = (cause.strerror if cause else None) or text_of(exc.__cause__ or exc)
        self.end(record, EndReason.ERROR, "on_error", (operation, number, text), now)

    def disconnected(self, record: Record, now: float) -> None:
        """Tell the end. Nothing follows it, so what user code was given is let go."""
        if self.on.on_disconnected is not None:
            self.call("on_disconnected", record, (), now)
        record.peer = None

    # -- callbacks ----------------------------------------------------------------------------------

    def call(self, name: str, record: Record, args: tuple[Any, ...], now: float) -> None:
        """Call user code."""
        callback = getattr(self.on, name)
        if callback is not None:
            try:
                callback(record.peer, *args)
            except MISTAKES as exc:
                self.misbehaved(name, record, exc, now)

    def misbehaved(self, name: str, record: Record, exc: BaseException, now: float) -> None:
        """Deal with a callback that raised: it ends its own peer, and nobody else notices."""
        if not isinstance(exc, ClientClosed):  # who opens the next connection when one ends need not ask
            self.effects.log_error(name, record, exc)
        if name in ("on_error", "on_disconnected"):
            return
        was_open = record.state is not CLOSED
        if was_open:
            self.close(record, EndReason.ERROR)
        args = name, 0, text_of(exc)
        if name == "on_initialize":  # within a command: nothing is told before that has ended
            if was_open:
                self.deferred.add(self.call, "on_error", record, args)
                self.deferred.add(self.disconnected, record)
            return
        self.call("on_error", record, args, now)
        if was_open:
            self.disconnected(record, now)
            self.places.start_next(now)

    def wake(self, record: Record) -> None:
        """Let the tasks go that wait until nothing waits to be sent."""
        drainers = record.drainers
        if drainers is not None:
            for parked in drainers:
                if not parked.done():
                    parked.set_result(None)


def text_of(exc: BaseException) -> str:
    """Say for people what went wrong."""
    return printable(str(exc)) or type(exc).__name__
