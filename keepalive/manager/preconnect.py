"""A warm-up: connections that are opened before anybody asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Generator

    from keepalive.errors import AllocateError

__all__ = ("WarmUp",)


class WarmUp:
    """What `ConnectionManager.preconnect` returns. Nobody needs to await it; whoever does learns the end.

    :ivar started: how many attempts it has started; fewer than asked for if connections were idle or on
        their way already, or if the limits leave no room
    :ivar opened: how many of them have succeeded so far
    """

    def __init__(self, started: int) -> None:
        self.started = self._pending = started
        self.opened = 0
        self._error: AllocateError | None = None
        self._ended = anyio.Event()
        if not started:
            self._ended.set()

    def note(self, error: AllocateError | None, *, opened: bool) -> None:
        """Note the end of one attempt; for the manager."""
        self._pending -= 1
        self.opened += opened
        self._error = self._error or error
        if not self._pending:
            self._ended.set()

    def __await__(self) -> Generator[Any, Any, int]:
        """Wait until all attempts have ended; return how many succeeded. Cancelling ends the waiting only.

        :raises AllocateError: attempts were started, and none of them succeeded; the first one's error.
            Those that were given up, for want of a user or of room, are no error
        """
        yield from self._ended.wait().__await__()
        if self._error is not None and not self.opened:
            raise self._error
        return self.opened

    def __repr__(self) -> str:
        return f"<WarmUp: {self.opened} of {self.started} opened, {self._pending} pending>"
