"""The values that users and all parts of the package share: keys, reasons, phases."""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

NEVER: Final = inf
"""A time that does not come."""


class Key(NamedTuple):
    """What makes two connections interchangeable.

    ``scheme, addr, port`` say where to connect; the ``for_*`` parts say what lies behind it when
    that is a proxy, and equal the first three otherwise.
    """

    scheme: str
    addr: str
    port: int
    for_scheme: str
    for_addr: str
    for_port: int

    def __str__(self) -> str:
        near = f"{self.scheme}://{self.addr}:{self.port}"
        if self[:3] == self[3:]:
            return near
        return f"{self.for_scheme}://{self.for_addr}:{self.for_port} via {near}"


class Reuse(StrEnum):
    """How a used connection reached its request. A new one has ``None`` in this place."""

    IMMEDIATE = "immediate"
    """It was idle when the request came."""
    DEFERRED = "deferred"
    """The request waited, then somebody gave the connection back."""


class CloseReason(StrEnum):
    """Why a connection was closed; the keys of ``stats().closed``."""

    EXPIRED = "expired"
    """Idle for `keep_alive` (or `keep_for`) seconds."""
    EVICTED = "evicted"
    """Made room for a request that needed its place."""
    PEER = "peer"
    """The peer closed it while it was idle, or had done so when it was given back."""
    UNREAD = "unread"
    """It held bytes that nobody asked for."""
    DISCARDED = "discarded"
    """Its user closed it, or left its block by an exception."""
    DROPPED = "dropped"
    """Its handle was garbage-collected in use."""
    BUSY = "busy"
    """Given back while a task was inside its receive or send, or after an error or send_eof."""
    SURPLUS = "surplus"
    """More were idle than `max_idle`, and it had been idle longest."""
    LIFETIME = "lifetime"
    """Reached `max_lifetime`."""
    USES = "uses"
    """Reached `max_uses`."""
    LIMIT = "limit"
    """The limits were lowered below what was open."""
    CHECK = "check"
    """Its life cycle's check failed, or took longer than `check_timeout`."""
    RESET = "reset"
    """The same for its reset."""
    ENDED = "ended"
    """It was shared, and its life cycle's `run` has ended: its peer has gone, or an error."""
    RETIRED = "retired"
    """`evict` named it, or its address had left what its name stands for."""
    SHUTDOWN = "shutdown"
    """The manager ended."""


class Phase(StrEnum):
    """What a request or an attempt was doing; `AllocateError.function` has one of these values."""

    QUEUE = "queue"
    FLEET = "fleet"
    RESOLVE = "resolve"
    BIND = "bind"
    CONNECT = "connect"
    PROXY = "proxy"
    TLS = "tls"
    SETUP = "setup"
    CHECK = "check"
    RESET = "reset"


IMMEDIATE: Final = Reuse.IMMEDIATE
DEFERRED: Final = Reuse.DEFERRED
