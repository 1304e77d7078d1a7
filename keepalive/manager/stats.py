"""Snapshots of a pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from keepalive.pool.records import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepalive.base.types import Key
    from keepalive.pool.pool import Pool
    from keepalive.pool.records import KeyState
    from keepalive.transport.sessions import Sessions

__all__ = ("KeyStats", "Stats")


@dataclass(frozen=True, slots=True)
class KeyStats:
    """What one key has, and what happened to it.

    Now: ``open`` = ``connecting + lent + idle + closing`` connections; ``waiting`` requests that are not
    served, ``queued`` of these without an attempt. In all: ``requests``; those that ended with a
    connection as ``immediate``, ``deferred`` or ``new``, those that did not as ``timeouts``,
    ``cancelled`` or ``failed`` by phase; connections ``opened``, and ``closed`` by reason.
    """

    open: int = 0
    connecting: int = 0
    lent: int = 0
    idle: int = 0
    closing: int = 0
    waiting: int = 0
    queued: int = 0
    requests: int = 0
    immediate: int = 0
    deferred: int = 0
    new: int = 0
    opened: int = 0
    timeouts: int = 0
    cancelled: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stats(KeyStats):
    """The same for all keys together, and ``keys`` with each of them.

    Also TLS ``handshakes`` finished, and how many of these ``resumed`` a session.

    A key without connections or requests stays in ``keys`` until a thousand others have come to rest
    after it; its totals stay in these for ever.
    """

    handshakes: int = 0
    resumed: int = 0
    keys: Mapping[Key, KeyStats] = field(default_factory=dict)


def _gauges(per_key: KeyState) -> dict[str, int]:
    connecting, idle = (
        len(per_key.opening) + per_key.extra,
        sum(map(len, (per_key.idle, per_key.unused, per_key.unlendable))),
    )
    waiting = per_key.queue.waiting if per_key.queue is not None else 0
    return {
        "open": per_key.count,
        "connecting": connecting,
        "lent": per_key.count - connecting - idle - per_key.closing,
        "idle": idle,
        "closing": per_key.closing,
        "waiting": waiting,
        "queued": waiting - per_key.queue.covered if per_key.queue is not None else 0,
    }


def _totals(counters: Counters) -> dict[str, object]:
    names = ("requests", "immediate", "deferred", "new", "opened", "timeouts", "cancelled")
    totals: dict[str, object] = {name: getattr(counters, name) for name in names}
    totals["failed"] = MappingProxyType({str(phase): n for phase, n in counters.failed.items()})
    totals["closed"] = MappingProxyType({str(reason): n for reason, n in counters.closed.items()})
    return totals


def snapshot(pool: Pool, sessions: Sessions) -> Stats:
    """Take a snapshot of a pool. O(keys)."""
    everything = Counters()
    everything.add(pool.keys.past)
    sums: dict[str, int] = {}
    keys: dict[Key, KeyStats] = {}
    for key, per_key in pool.keys.states.items():
        gauges = _gauges(per_key)
        for name, n in gauges.items():
            sums[name] = sums.get(name, 0) + n
        everything.add(per_key.counters)
        keys[key] = KeyStats(**gauges, **_totals(per_key.counters))  # type: ignore[arg-type]  # by name
    totals = _totals(everything)
    totals |= {"handshakes": sessions.handshakes, "resumed": sessions.resumed}
    return Stats(**sums, **totals, keys=MappingProxyType(keys))  # type: ignore[arg-type]  # by name


def described(pool: Pool, sessions: Sessions, *, here: bool) -> str:
    """Tell in one line how a manager stands; `here`: from where nothing can change meanwhile."""
    state = "closed" if pool.closed else "open"
    if not here:
        return f"<ConnectionManager {state}: open={pool.capacity.total} requests={pool.requests.last_id}>"
    return describe(state, snapshot(pool, sessions))


def describe(state: str, now: Stats) -> str:
    """Tell a snapshot in one line."""
    return (
        f"<ConnectionManager {state}: open={now.open} connecting={now.connecting} lent={now.lent} "
        f"idle={now.idle} closing={now.closing} waiting={now.waiting} requests={now.requests}>"
    )
