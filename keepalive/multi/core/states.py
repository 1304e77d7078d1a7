"""The words of a client of many connections: states, reasons, limits, errors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from keepalive.base.types import NEVER
from keepalive.errors import KeepaliveError

__all__ = ("ClientClosed", "EndReason", "OutputFull", "PeerState")


class PeerState(Enum):
    """Where a connection is in its life. It only ever moves downwards in this list."""

    INITIALISING = "initialising"
    """Waits for its turn: `max_connecting` attempts are under way, or `max_open` places are taken."""
    CONNECTING = "connecting"
    """Its attempt is under way: name, address, handshake. Or it waits for a free descriptor, to try again."""
    CONNECTED = "connected"
    """Units go both ways."""
    FLUSHING = "flushing"
    """It was shut down, and what was given to `send` before is still on its way."""
    CLOSED = "closed"
    """The end."""


# Names of a module cost a tenth of a look-up in an Enum class (CPython 3.11).
INITIALISING: Final = PeerState.INITIALISING
CONNECTING: Final = PeerState.CONNECTING
CONNECTED: Final = PeerState.CONNECTED
FLUSHING: Final = PeerState.FLUSHING
CLOSED: Final = PeerState.CLOSED


class EndReason(StrEnum):
    """Why a connection is closed."""

    FAILURE = "failure"
    """It could not be opened."""
    ERROR = "error"
    """The connection ended or broke, a unit could not be read, or a callback raised."""
    CONNECT_TIMEOUT = "connect timeout"
    """No connection within `connect_timeout`."""
    INPUT_TIMEOUT = "input timeout"
    """No unit came within `input_timeout`."""
    WRITE_TIMEOUT = "write timeout"
    """The peer took nothing within `write_timeout`."""
    LIFETIME = "lifetime"
    """It was there for as long as `lifetime` allows."""
    SHUTDOWN = "shutdown"
    """`Peer.shutdown`, to its good end."""
    CUT = "cut"
    """`Peer.shutdown`, but the peer did not take everything, or did not close, in time."""
    CLOSE = "close"
    """`Peer.close`."""
    DIE = "die"
    """`MultiClient.die`, or the end of the client's block."""


class OutputFull(KeepaliveError):
    """More bytes would wait to be sent than `max_output` allows; nothing of this call is sent."""


class ClientClosed(KeepaliveError):
    """The client has died, or its block was left."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client's peers must keep to. A time of 0 is switched off."""

    connect_timeout: float = 30.0
    input_timeout: float = 300.0
    write_timeout: float = 300.0
    shutdown_timeout: float = 30.0
    max_connecting: float = 512
    max_output: float = 16 * 1024 * 1024
    max_open: float = NEVER
