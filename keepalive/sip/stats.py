"""What a pool tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .core.flow import CONNECTING, HANDSHAKE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .engine import Engine

__all__ = ("ConnectionInfo", "SipStats")


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection of a pool, at one moment.

    :ivar state: "connecting", "handshake", "open" or "draining"
    :ivar inbound: whether the peer called us
    :ivar queued: bytes of messages that are not all with the kernel
    :ivar idle: seconds since something came from the peer, or one of its requests was answered
    :ivar transactions: requests, received or sent on it, whose final response is awaited
    :ivar pongs: answers that the peer gave to pings of ours (CR LF CR LF, RFC 5626 4.4.1)
    """

    addr: str
    port: int
    proto: str
    state: str
    inbound: bool
    queued: int
    idle: float
    transactions: int
    pongs: int = 0


@dataclass(frozen=True, slots=True)
class SipStats:
    """The counts of a pool.

    Now: ``connections``, of these ``connecting`` (handshakes of callers included); bytes ``queued``;
    messages in the ``inbox``. In all: messages ``received`` and ``sent``, sends that ``failed``, by reason;
    connections ``accepted``, ``opened`` by us, ``refused`` because of a limit or of `dst`, and ``closed`` by
    reason; ``flaws`` of what arrived, by reason; ``pings`` received and answered, and ``pongs``, the answers
    to ours.
    """

    connections: int = 0
    connecting: int = 0
    queued: int = 0
    inbox: int = 0
    received: int = 0
    sent: int = 0
    accepted: int = 0
    opened: int = 0
    refused: int = 0
    pings: int = 0
    pongs: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, int] = field(default_factory=dict)
    flaws: Mapping[str, int] = field(default_factory=dict)


def connections_of(engine: Engine) -> list[ConnectionInfo]:
    """Tell of the connections; see `SocketPool.connections`."""
    now = engine.clock()
    return [
        ConnectionInfo(
            flow.peer_address[0],
            flow.peer_address[1],
            flow.proto,
            flow.state.value,
            flow.inbound,
            flow.queued,
            now - flow.last_received,
            len(flow.unanswered or ()) + len(flow.awaited or ()),
            flow.pongs,
        )
        for flow in engine.flows.all
    ]


def stats_of(engine: Engine) -> SipStats:
    """Tell the counts; see `SocketPool.stats`."""
    flows, counts, completions = list(engine.flows.all), engine.counts, engine.completions
    return SipStats(
        connections=len(flows),
        connecting=sum(flow.state in (CONNECTING, HANDSHAKE) for flow in flows),
        queued=sum(flow.queued for flow in flows),
        inbox=len(engine.inbox.messages),
        sent=completions.sent,
        **{name: counts[name] for name in ("received", "accepted", "opened", "refused", "pings", "pongs")},
        failed=dict(completions.failed),
        closed=dict(engine.flows.closed_by),
        flaws=dict(engine.flaws),
    )
