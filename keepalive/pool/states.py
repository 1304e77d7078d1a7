"""The words of the pool: keys, states and their legal moves, reasons, effects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from keepalive.base.types import NEVER


class WaiterState(Enum):
    """Where a request is in its life."""

    QUEUED = "queued"
    """Waits in its key's queue."""
    SERVED = "served"
    """A connection is reserved for it, but was not fetched yet."""
    CLAIMED = "claimed"
    """It has its connection: the end."""
    FAILED = "failed"
    """It was answered by an error: the end."""
    CANCELLED = "cancelled"
    """It went away unanswered: the end."""


class SlotState(Enum):
    """Where a connection is in its life."""

    OPENING = "opening"
    """An attempt is under way."""
    RESERVED = "reserved"
    """Given to a request that has not fetched it yet."""
    LENT = "lent"
    """In a user's hands."""
    IDLE = "idle"
    """Waits for the next request of its key."""
    CLOSING = "closing"
    """An aborted attempt whose resources are not yet gone; it still counts."""
    GONE = "gone"
    """Closed, or never opened: the end."""


# A name of a module costs a tenth of a look-up in an Enum class (CPython 3.11), and these are looked up
# several times per request.
QUEUED: Final = WaiterState.QUEUED
SERVED: Final = WaiterState.SERVED
CLAIMED: Final = WaiterState.CLAIMED
FAILED: Final = WaiterState.FAILED
CANCELLED: Final = WaiterState.CANCELLED
OPENING: Final = SlotState.OPENING
RESERVED: Final = SlotState.RESERVED
LENT: Final = SlotState.LENT
IDLE: Final = SlotState.IDLE
CLOSING: Final = SlotState.CLOSING
GONE: Final = SlotState.GONE

WAITER_MOVES: Final[dict[WaiterState, frozenset[WaiterState]]] = {
    QUEUED: frozenset({SERVED, FAILED, CANCELLED}),
    # back to QUEUED: the reserved connection died before it was fetched
    SERVED: frozenset({CLAIMED, QUEUED, FAILED, CANCELLED}),
    CLAIMED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}

SLOT_MOVES: Final[dict[SlotState, frozenset[SlotState]]] = {
    OPENING: frozenset({RESERVED, IDLE, CLOSING, GONE}),
    # RESERVED to RESERVED: its request went away and the next one has it
    RESERVED: frozenset({LENT, RESERVED, IDLE, GONE}),
    LENT: frozenset({RESERVED, IDLE, GONE}),
    IDLE: frozenset({RESERVED, GONE}),
    CLOSING: frozenset({GONE}),
    GONE: frozenset(),
}


class Failure(Enum):
    """Why a request failed."""

    TIMEOUT = "timeout"
    """Its own timeout ran out."""
    ATTEMPT = "attempt"
    """An attempt of its key failed and it was the oldest in line."""
    CONNECT_TIMEOUT = "connect_timeout"
    """The same, since the attempt took longer than `connect_timeout`."""
    RESOLVE_TIMEOUT = "resolve_timeout"
    """The same, since its look-ups took longer than `resolve_timeout`."""
    TLS_TIMEOUT = "tls_timeout"
    """The same, since its handshake took longer than `tls_timeout`."""
    PAUSED = "paused"
    """Its key's attempts had failed several times in a row, and nothing of the key was open."""
    SHUTDOWN = "shutdown"
    """The manager ended."""


class Do(Enum):
    """What the shell is asked to do, in this order, after an input."""

    OPEN = "open"
    """Start the attempt of this slot."""
    ABORT = "abort"
    """Give this attempt up; answer with `aborted` when its resources are gone."""
    RECALL = "recall"
    """Close all sockets but one of this attempt now, and repay the places it had borrowed."""
    CLOSE = "close"
    """Close this slot's link now."""
    LOOK = "look"
    """This slot is idle and was never used: see whether its peer has spoken or gone before that."""
    WAKE = "wake"
    """This waiter's state has changed: wake whoever awaits it."""
    TELL = "tell"
    """Tell the observer this event; only asked for when there is one."""


OPEN: Final = Do.OPEN
ABORT: Final = Do.ABORT
RECALL: Final = Do.RECALL
CLOSE: Final = Do.CLOSE
LOOK: Final = Do.LOOK
WAKE: Final = Do.WAKE
TELL: Final = Do.TELL


class IllegalMove(RuntimeError):
    """An input that the machine's table does not allow in the present state: a bug in the caller."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one pool. Numbers of seconds are floats, `NEVER` means unlimited."""

    max_per_host: float = 4
    max_open: float = 128
    max_idle: float = NEVER
    keep_alive: float = 15.0
    connect_timeout: float = NEVER
    resolve_timeout: float = NEVER
    tls_timeout: float = NEVER
    max_waiting: float = NEVER
    max_uses: float = NEVER
    spare_for: float = 10.0
    pause_after: float = NEVER
    max_pause: float = 30.0
