"""What a pool tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

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
