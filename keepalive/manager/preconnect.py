"""Connections that are opened before anybody asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from .error_mapping import preconnect_error

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from keepalive.errors import AllocateError
    from keepalive.pool.pool import Pool
    from keepalive.pool.records import Slot

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


class Preconnects:
    """Which attempts were started by which call of `ConnectionManager.preconnect`."""

    def __init__(self) -> None:
        self._of: dict[Slot, WarmUp] = {}

    def began(self, slots: Iterable[Slot], warm_up: WarmUp) -> None:
        """Note the attempts of a call."""
        self._of.update(dict.fromkeys(slots, warm_up))

    def opened(self, slot: Slot) -> None:
        """Note that an attempt succeeded."""
        warm_up = self._of.pop(slot, None)
        if warm_up is not None:
            warm_up.note(None, opened=True)

    def failed(self, slot: Slot, failure: Exception | None, pool: Pool) -> None:
        """Note that an attempt failed, or was given up (None)."""
        warm_up = self._of.pop(slot, None)
        if warm_up is not None:
            warm_up.note(preconnect_error(slot, failure, pool), opened=False)
