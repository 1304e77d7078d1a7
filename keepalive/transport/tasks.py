"""Waiting until nothing is under way any more, at an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable


class Lull:
    """Tells all who wait when nothing is under way. What starts anew meanwhile is waited for too."""

    __slots__ = ("_busy", "_event")

    def __init__(self, busy: Callable[[], object]) -> None:
        """Start; `busy` says whether something is under way."""
        self._busy = busy
        self._event = anyio.Event()

    def look(self) -> None:
        """Wake who waits if nothing is under way; to be called whenever something has ended."""
        if not self._busy():
            self._event.set()

    async def wait(self) -> None:
        """Wait for it, whatever is cancelled meanwhile."""
        with anyio.CancelScope(shield=True):
            while self._busy():
                if self._event.is_set():
                    self._event = anyio.Event()  # else another one waits for the same
                await self._event.wait()
