"""What became of connections that a hook of their life cycle was at work on: the inputs.

A connection that is checked, or reset, is on its way to the next request as an attempt is: it stands for the
oldest one that nothing else stands for. When the hook is done it serves whoever is oldest then. When the hook
fails that is no request's failure: the connection is closed, and the requests are served otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import CloseReason

from .states import CHECKING, CLOSING, RESETTING

if TYPE_CHECKING:
    from .assignment import Assignment
    from .connections import Connections
    from .records import Slot


class Hooks:
    """The inputs for connections that are checked, reset, or say goodbye."""

    def __init__(self, assignment: Assignment, connections: Connections) -> None:
        self._assignment = assignment
        self._connections = connections

    def ready(self, slot: Slot, now: float) -> None:
        """Note that a check or reset is done: the connection serves the next request, or waits idle."""
        if slot.state is not CHECKING and slot.state is not RESETTING:
            return
        if slot.state is RESETTING:  # its time as an idle one begins now
            slot.expires = min(slot.expires + now - slot.idle_since, slot.retires_at)
            slot.idle_since = now
        slot.trusted_until = min(slot.expires, now + slot.per_key.limits.check_after)
        self._connections.leave_preparing(slot)
        self._assignment.assign(slot, now)
        self._assignment.reconcile(slot.per_key, now)

    def failed(self, slot: Slot, now: float) -> None:
        """Note that a check or reset failed, or took too long."""
        if slot.state is CHECKING or slot.state is RESETTING:
            reason = CloseReason.CHECK if slot.state is CHECKING else CloseReason.RESET
            self._connections.close(slot, reason)
            self._assignment.reconcile(slot.per_key, now)

    def gone(self, slot: Slot, now: float) -> None:
        """Note that a goodbye was said, or took too long."""
        if slot.state is CLOSING and slot.link is not None:
            self._connections.end_goodbye(slot)
            self._assignment.reconcile(slot.per_key, now)
