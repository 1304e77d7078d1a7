"""An observer that remembers and can be waited for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio

from keepalive import Observer
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive import CloseReason, Key, Reuse


class Recorder(Observer):
    """Remember all events, as (name, details...); let tests wait for a state without looking at a clock.

    :ivar closed_at: when connections were closed, in real time
    :ivar most_connecting: how many attempts there were at most at a time
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.closed_at: list[float] = []
        self.connecting = 0
        self.most_connecting = 0
        self._bells: list[anyio.Event] = []

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        if event[0] == "opening":
            self.connecting += 1
            self.most_connecting = max(self.connecting, self.most_connecting)
        elif event[0] in ("opened", "attempt_failed", "attempt_aborted"):
            self.connecting -= 1
        elif event[0] == "closed":
            self.closed_at.append(time.monotonic())
        bells, self._bells = self._bells, []
        for bell in bells:
            bell.set()

    def queued(self, key: Key, request_id: int) -> None:
        self._note("queued", key, request_id)

    def opening(self, key: Key, connection_id: int) -> None:
        self._note("opening", key, connection_id)

    def opened(self, key: Key, connection_id: int) -> None:
        self._note("opened", key, connection_id)

    def attempt_failed(self, key: Key, connection_id: int, error: Exception) -> None:
        self._note("attempt_failed", key, connection_id, error)

    def attempt_aborted(self, key: Key, connection_id: int) -> None:
        self._note("attempt_aborted", key, connection_id)

    def lent(self, key: Key, connection_id: int, request_id: int, reuse: Reuse | None, waited: float) -> None:
        self._note("lent", key, connection_id, request_id, reuse, waited)

    def idle(self, key: Key, connection_id: int) -> None:
        self._note("idle", key, connection_id)

    def closed(self, key: Key, connection_id: int, reason: CloseReason) -> None:
        self._note("closed", key, connection_id, reason)

    def failed(self, key: Key, request_id: int, failure: str, phase: str) -> None:
        self._note("failed", key, request_id, failure, phase)

    def cancelled(self, key: Key, request_id: int) -> None:
        self._note("cancelled", key, request_id)

    def names(self) -> list[str]:
        """List the names of all events so far."""
        return [event[0] for event in self.events]

    def reasons(self) -> list[str]:
        """List why connections were closed."""
        return [str(event[3]) for event in self.events if event[0] == "closed"]

    async def until(self, predicate: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until the predicate holds; it is asked again at every event."""
        with anyio.fail_after(patience):
            while not predicate():
                bell = anyio.Event()
                self._bells.append(bell)
                await bell.wait()
