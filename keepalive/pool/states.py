"""The words of the pool: states and their legal transitions, failures, effects, limits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from keepalive.base.types import NEVER

if TYPE_CHECKING:
    from keepalive.base.types import Key


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

    next: tuple[WaiterState, ...]
    """What may follow; see the table below."""


class SlotState(Enum):
    """Where a connection is in its life."""

    OPENING = "opening"
    """An attempt is under way."""
    RESERVED = "reserved"
    """Given to a request that has not fetched it yet."""
    LENT = "lent"
    """In a user's hands."""
    SHARED = "shared"
    """Requests hold shares of it, or none of them may: see `shares`."""
    RESETTING = "resetting"
    """Given back, and made fit for its next user."""
    CHECKING = "checking"
    """Was idle for long: somebody sees whether it still serves."""
    IDLE = "idle"
    """Waits for the next request of its key."""
    CLOSING = "closing"
    """Says goodbye, or an aborted attempt whose resources are not yet gone; it still counts."""
    GONE = "gone"
    """Closed, or never opened: the end."""

    next: tuple[SlotState, ...]
    """What may follow; see the table below."""


S = TypeVar("S", WaiterState, SlotState)


class Stateful(Protocol[S]):
    """A record whose state the table rules."""

    state: S


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
SHARED: Final = SlotState.SHARED
RESETTING: Final = SlotState.RESETTING
CHECKING: Final = SlotState.CHECKING
IDLE: Final = SlotState.IDLE
CLOSING: Final = SlotState.CLOSING
GONE: Final = SlotState.GONE

# The table of legal transitions; `move` allows no other.
QUEUED.next = (SERVED, FAILED, CANCELLED)
SERVED.next = (CLAIMED, QUEUED, FAILED, CANCELLED)  # QUEUED again: what was reserved died before the claim
CLAIMED.next = FAILED.next = CANCELLED.next = ()
OPENING.next = (RESERVED, SHARED, IDLE, CLOSING, GONE)
RESERVED.next = (LENT, RESERVED, IDLE, CLOSING, GONE)  # RESERVED again: its request went, the next one has it
LENT.next = (RESERVED, RESETTING, IDLE, CLOSING, GONE)
SHARED.next = (IDLE, CLOSING, GONE)
RESETTING.next = CHECKING.next = (RESERVED, IDLE, CLOSING, GONE)
IDLE.next = (RESERVED, SHARED, CHECKING, CLOSING, GONE)
CLOSING.next = (GONE,)
GONE.next = ()


class IllegalTransition(RuntimeError):
    """An input that the table does not allow in the present state: a bug in the caller."""


def move(record: Stateful[S], to: S) -> None:
    """Change a record's state, if the table allows that.

    :raises IllegalTransition: it does not
    """
    if to not in record.state.next:
        raise illegal(record, to)
    record.state = to


def illegal(record: Stateful[S], to: S) -> IllegalTransition:
    """Return the error for a transition that the table does not allow."""
    return IllegalTransition(f"{record} is {record.state.value}, and cannot become {to.value}")


def unexpected(record: Stateful[S], state: S) -> IllegalTransition:
    """Return the error for an input that wants another state than there is."""
    return IllegalTransition(f"{record} is {record.state.value}, not {state.value}")


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
    SETUP_TIMEOUT = "setup_timeout"
    """The same, since its life cycle took longer than `setup_timeout` to set it up."""
    PAUSED = "paused"
    """Its key's attempts had failed several times in a row, and nothing of the key was open."""
    SHUTDOWN = "shutdown"
    """The manager ended."""


class Effect(Enum):
    """What the driver is asked to carry out, in this order, after an input."""

    OPEN = "open"
    """Start the attempt of this slot."""
    ABORT = "abort"
    """Give this attempt up; answer with `aborted` when its resources are gone."""
    RECALL = "recall"
    """Close all sockets but one of this attempt now, and give back the extra slots they had."""
    CLOSE = "close"
    """Close this slot's link now."""
    GOODBYE = "goodbye"
    """Say goodbye on this slot's link; answer with `hooks.gone` when that is done."""
    CHECK = "check"
    """See whether this slot's link still serves; answer with `hooks.ready` or `hooks.failed`."""
    RESET = "reset"
    """Make this slot's link fit for its next user; answer alike."""
    VALIDATE = "validate"
    """This slot is idle and was never used: see whether its peer has spoken or gone before that."""
    WAKE = "wake"
    """This waiter's state has changed: wake whoever awaits it."""
    SHORT = "short"
    """Requests of this key wait, and its fleet allows no more connections: ask for places."""
    NOTIFY = "notify"
    """Tell the observer this event; only asked for when there is one."""


OPEN: Final = Effect.OPEN
ABORT: Final = Effect.ABORT
RECALL: Final = Effect.RECALL
CLOSE: Final = Effect.CLOSE
GOODBYE: Final = Effect.GOODBYE
CHECK: Final = Effect.CHECK
RESET: Final = Effect.RESET
VALIDATE: Final = Effect.VALIDATE
WAKE: Final = Effect.WAKE
SHORT: Final = Effect.SHORT
NOTIFY: Final = Effect.NOTIFY


class Effects(deque[tuple[Effect, Any]]):
    """What the driver has to carry out, the oldest first.

    :ivar observed: whether anybody wants to be told of transitions
    """

    def __init__(self, *, observed: bool) -> None:
        super().__init__()
        self.observed = observed

    def notify(self, event: str, *details: object) -> None:
        """Ask for the observer's method of this name to be called, if there is an observer."""
        if self.observed:
            self.append((NOTIFY, (event, details)))


@dataclass(slots=True)
class Limits:
    """The bounds of one pool, which all its parts share. Seconds are floats, `NEVER` means unlimited."""

    max_per_host: float = 4
    max_open: float = 128
    max_idle: float = NEVER
    keep_alive: float = 15.0
    connect_timeout: float = NEVER
    resolve_timeout: float = NEVER
    tls_timeout: float = NEVER
    setup_timeout: float = NEVER
    check_timeout: float = 5.0
    max_waiting: float = NEVER
    max_uses: float = NEVER
    spare_for: float = 10.0
    pause_after: float = NEVER
    max_pause: float = 30.0


@dataclass(slots=True)
class KeyLimits:
    """The bounds of one key, and which hooks its connections have. Seconds are floats.

    :ivar check_after: seconds for which an idle connection is trusted; `NEVER` without a check
    :ivar resets: whether a connection is reset between two users
    :ivar says_goodbye: whether it says goodbye at its end
    :ivar shared: whether its connections may be lent to many at once
    :ivar open_when: another one is opened when more than this part of each one's shares is lent
    :ivar own: what `max_per_host` is where a fleet does not allow less
    :ivar leased: whether it does
    """

    max_per_host: float
    keep_alive: float
    max_uses: float
    max_lifetime: float = NEVER
    min_idle: float = 0
    check_after: float = NEVER
    resets: bool = False
    says_goodbye: bool = False
    shared: bool = False
    open_when: float = 1.0
    own: float = NEVER
    leased: bool = False


class LimitsOf(Protocol):
    """What tells the bounds of a key."""

    def __call__(self, key: Key, limits: Limits) -> KeyLimits:
        """Return what holds for this key, where these hold for all."""


def plain_limits(key: Key, limits: Limits) -> KeyLimits:
    """Return the same bounds for every key, and no hooks."""
    return KeyLimits(limits.max_per_host, limits.keep_alive, limits.max_uses)
