"""What became of messages, told to who sent them: once each, in order, in a turn of its own. Pure."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keepalive.sip.errors import SendError

    from .outgoing import Outgoing

    Call = tuple[Callable[[Any], object], SendError | None]


class Completions:
    """The completions of one pool's messages.

    :param soon: effect: call `due` in a turn of its own
    :ivar sent: messages that are with the kernel
    :ivar failed: those that will not be, by reason
    """

    def __init__(self, soon: Callable[[], None]) -> None:
        self._soon = soon
        self._waiting: deque[Call] = deque()
        self._scheduled = False
        self.sent = 0
        self.failed: Counter[str] = Counter()

    def complete(self, out: Outgoing, error: SendError | None) -> None:
        """Complete a message; a second time is ignored. Who awaits it goes on at once, a callback waits."""
        if out.finished:
            return
        out.finished = True
        out.error = error
        out.flow = None
        if error is None:
            self.sent += 1
        else:
            self.failed[error.reason] += 1
        parked, callback = out.parked, out.callback
        out.parked = out.callback = None
        if parked is not None and not parked.done():
            parked.set_result(None)
        if callback is not None:
            self.call_soon(callback, error)

    def call_soon(self, callback: Callable[[Any], object], error: SendError | None) -> None:
        """Enter a callback behind all that came before."""
        self._waiting.append((callback, error))
        if not self._scheduled:
            self._scheduled = True
            self._soon()

    def due(self) -> Iterator[Call]:
        """Yield the callbacks of this turn; what they lead to has a turn of its own."""
        self._scheduled = False
        for _ in range(len(self._waiting)):
            if self._waiting:
                yield self._waiting.popleft()

    def rest(self) -> Iterator[Call]:
        """Yield all callbacks, and those that they lead to: there will be no further turn."""
        while self._waiting:
            yield self._waiting.popleft()
