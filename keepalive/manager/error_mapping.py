"""How a request's failure is told to its owner."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from keepalive.base.failure import DialFailure
from keepalive.base.types import NEVER, Phase
from keepalive.errors import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    KeepaliveError,
    ManagerClosed,
    RequestCancelled,
    ResolveError,
    SetupError,
    TLSError,
)
from keepalive.pool.states import Failure, WaiterState

if TYPE_CHECKING:
    from keepalive.base.types import Key
    from keepalive.pool.pool import Pool
    from keepalive.pool.records import Slot, Waiter

    from .fleet import Seat

_BY_PHASE: dict[str, type[AllocateError]] = {
    Phase.RESOLVE: ResolveError,
    Phase.TLS: TLSError,
    Phase.SETUP: SetupError,
}

WAITING = (Phase.QUEUE, Phase.FLEET)
"""No attempt stands for a request then."""

_LATE = {
    Failure.CONNECT_TIMEOUT: "connection",
    Failure.RESOLVE_TIMEOUT: "address",
    Failure.TLS_TIMEOUT: "handshake",
    Failure.SETUP_TIMEOUT: "set-up",
}


def numbers(waiter: Waiter, pool: Pool) -> str:
    """Tell how full the pool is, for messages. O(1): under overload every request may get one."""
    per_key = waiter.per_key
    return (
        f"{pool.capacity.total} of {pool.limits.max_open} connections open, "
        f"{per_key.count} of {per_key.limits.max_per_host} for this key, "
        f"{pool.requests.uncovered} requests queued"
    )


def explain(waiter: Waiter, pool: Pool, context: object, seat: Seat | None = None) -> KeepaliveError:
    """Make the exception for a request that ended without a connection."""
    key = waiter.per_key.key
    if waiter.state is WaiterState.CANCELLED:
        return RequestCancelled(f"request {waiter.id} for {key} was cancelled")
    if waiter.failure is Failure.SHUTDOWN:
        return ManagerClosed(f"the manager was shut down before request {waiter.id} for {key} was served")
    if waiter.failure is Failure.ATTEMPT:
        return attempt_error(key, waiter.phase, waiter.error, request=waiter.id, context=context)
    if waiter.failure is Failure.PAUSED:
        return _paused(waiter, context)
    if waiter.failure in _LATE:
        name = waiter.failure.value
        text = f"no {_LATE[waiter.failure]} within {name}={getattr(pool.limits, name):g} s"
    elif waiter.phases is not None and waiter.deadline < waiter.phases[0]:
        name, seconds = (
            ("queue_timeout", waiter.phases[1])
            if waiter.phase in WAITING
            else ("open_timeout", waiter.phases[2])
        )
        text = f"no connection within {name}={seconds:g} s, which began with that phase"
    elif waiter.deadline == NEVER or waiter.deadline <= waiter.since:
        text = "no idle connection and no time to wait for one"
    else:
        text = f"no connection within timeout={waiter.deadline - waiter.since:g} s{_last_part(waiter)}"
    if waiter.phase == Phase.FLEET and seat is not None:
        text = f"{text}; {seat.fleet.waits_for(key)}"
    text = f"{text}; {numbers(waiter, pool)}"
    return AllocateTimeout(key, waiter.phase, errno.ETIMEDOUT, text, request_id=waiter.id, context=context)


def _last_part(waiter: Waiter) -> str:
    """Say how much of a request's time went into its last phase, unless all did."""
    if waiter.phase in WAITING:
        return ""
    last, all_of_it = waiter.deadline - waiter.phase_since, waiter.deadline - waiter.since
    return f" ({waiter.phase}: {last:.2g} s)" if 0 < last < all_of_it * 0.99 else ""


def attempt_error(
    key: Key,
    phase: str,
    failure: Exception | None,
    more: str = "",
    *,
    request: int = 0,
    context: object = None,
) -> AllocateError:
    """Make the exception for what failed an attempt; `more` is added to its text."""
    if not isinstance(failure, DialFailure):
        text = "it took too long" if failure is None else str(failure)
        failure = DialFailure(phase, errno.ETIMEDOUT if failure is None else None, text)
    kind = _BY_PHASE.get(failure.phase, ConnectError)
    error = kind(key, failure.phase, failure.number, failure.text + more, request_id=request, context=context)
    error.__cause__ = failure.__cause__
    return error


def preconnect_error(slot: Slot, failure: Exception | None, pool: Pool) -> AllocateError | None:
    """Make the exception for an attempt of a preconnect; None if it was merely given up."""
    if failure is not None:
        return attempt_error(slot.per_key.key, slot.phase, failure)
    limits = pool.limits
    seconds = getattr(limits, slot.overdue.value)
    if pool.closed or seconds == NEVER or not slot.was_overdue:
        return None
    text = f"no {_LATE[slot.overdue]} within {slot.overdue.value}={seconds:g} s"
    return AllocateTimeout(slot.per_key.key, slot.phase, errno.ETIMEDOUT, text)


def _paused(waiter: Waiter, context: object) -> AllocateError:
    """Make the exception for a request that came while its key was left alone after failures."""
    per_key = waiter.per_key
    more = f"; no new attempt for a while, after {per_key.failures} failures in a row"
    return attempt_error(per_key.key, waiter.phase, waiter.error, more, request=waiter.id, context=context)
