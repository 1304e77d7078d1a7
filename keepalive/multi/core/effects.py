"""What the core of a client has done for it, and whom it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .record import Record


@dataclass(slots=True)
class Callbacks:
    """What a user wants to be told, of which peer; None for what not."""

    on_initialize: Callable[[Any], object] | None = None
    on_success: Callable[[Any], object] | None = None
    on_failure: Callable[[Any, str, int, str], object] | None = None
    on_input: Callable[[Any, Any], object] | None = None
    on_error: Callable[[Any, str, int, str], object] | None = None
    on_timeout: Callable[[Any], object] | None = None
    on_flushed: Callable[[Any], object] | None = None
    on_disconnected: Callable[[Any], object] | None = None


class Effects(Protocol):
    """Sockets, the loop's timer, the log. None of these calls the core back at once."""

    def open(self, record: Record) -> bool:
        """Start an attempt; its outcome comes as `Dispatch.connected`, `failed` or `no_room`.

        :return: False if there is no free descriptor for it
        """

    def close(self, record: Record) -> bool:
        """Abort an attempt, or close a connection.

        :return: False if its descriptor is closed later only; `Dispatch.freed` is called then
        """

    def watch_writable(self, record: Record) -> None:
        """Call `Dispatch.writable` when there is room to send."""

    def set_no_delay(self, record: Record) -> None:
        """Have small pieces sent at once from now on (TCP_NODELAY)."""

    def call_soon(self) -> None:
        """Call `Dispatch.run_deferred` in the next turn of the loop."""

    def wake_at(self, when: float) -> None:
        """Call `Dispatch.tick` at this time, and not when that was asked for before."""

    def log_error(self, name: str, record: Record, exc: BaseException) -> None:
        """Log that a callback raised."""
