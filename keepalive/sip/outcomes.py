"""What became of messages, on its way to those who sent them: once each, in order, in a turn of its own."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.reactor import Reactor

    from .errors import SendError
    from .outgoing import Outgoing

logger = logging.getLogger("keepalive.sip")


class Outcomes:
    """The outcomes of one pool's sends.

    :ivar sent: messages that are with the kernel
    :ivar failed: those that will not be, by reason
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._told: deque[tuple[Callable[[SendError | None], object], SendError | None]] = deque()
        self._scheduled = False
        self.sent = 0
        self.failed: Counter[str] = Counter()

    def finish(self, out: Outgoing, error: SendError | None) -> None:
        """Give a message its outcome; a second one is not told."""
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
            self.soon(callback, error)

    def soon(self, callback: Callable[[SendError | None], object], error: SendError | None) -> None:
        """Call back in a turn of its own, after all that came before."""
        self._told.append((callback, error))
        if not self._scheduled:
            self._scheduled = True
            self._reactor.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._scheduled = False
        self._call(len(self._told))  # what these lead to has a turn of its own

    def _call(self, count: int) -> None:
        for _ in range(min(count, len(self._told))):
            callback, error = self._told.popleft()
            try:
                callback(error)
            except Exception:
                logger.exception("callback %r raised", callback)

    def tell_all(self) -> None:
        """Call back with everything now: there will be no further turn."""
        while self._told:
            self._call(len(self._told))
