"""Who is told what a manager does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keepalive.base.types import CloseReason, Key, Reuse


class Observer:
    """Told of every transition as it happens. Subclass it and override what you want to know.

    The methods are plain and run inside the manager: they must be quick. They may call the manager.
    One that raises is logged and changes nothing. Connections and requests have numbers of their own.
    """

    def queued(self, key: Key, request_id: int) -> None:
        """Note that a request could not be served at once."""

    def opening(self, key: Key, connection_id: int) -> None:
        """Note that an attempt to open a connection starts."""

    def opened(self, key: Key, connection_id: int) -> None:
        """Note that an attempt succeeded."""

    def attempt_failed(self, key: Key, connection_id: int, error: Exception) -> None:
        """Note that an attempt failed."""

    def attempt_aborted(self, key: Key, connection_id: int) -> None:
        """Note that an attempt was given up: nobody needs it, or it took too long."""

    def lent(self, key: Key, connection_id: int, request_id: int, reuse: Reuse | None, waited: float) -> None:
        """Note that a request has its connection, after so many seconds; `reuse` None means a new one."""

    def idle(self, key: Key, connection_id: int) -> None:
        """Note that a connection waits for its next use."""

    def closed(self, key: Key, connection_id: int, reason: CloseReason) -> None:
        """Note that an open connection was closed."""

    def failed(self, key: Key, request_id: int, failure: str, phase: str) -> None:
        """Note that a request failed, in a phase.

        `failure` is "timeout", "attempt", "connect_timeout", "resolve_timeout", "tls_timeout", "paused" or
        "shutdown".
        """

    def paused(self, key: Key, failures: int, seconds: float) -> None:
        """Note that a key's attempts have failed so many times in a row: it is left alone for a while."""

    def cancelled(self, key: Key, request_id: int) -> None:
        """Note that a request was cancelled, deallocated or dropped."""
