"""The words of a client of many connections: states, callbacks, errors."""

from __future__ import annotations

from asyncio.exceptions import CancelledError
from dataclasses import dataclass
from enum import Enum, StrEnum
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from keepalive.errors import KeepaliveError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.transport.runtime import Parking

    from .peer import Peer

__all__ = ("ClientClosed", "EndReason", "OutputFull", "PeerState")

NEVER: Final = inf
MISTAKES: Final = (Exception, CancelledError)
"""What a callback may raise at its peer's cost: also what it got from asyncio's future of somebody else."""


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

MOVES: Final[dict[PeerState, frozenset[PeerState]]] = {
    INITIALISING: frozenset({CONNECTING, FLUSHING, CLOSED}),
    CONNECTING: frozenset({CONNECTED, FLUSHING, CLOSED}),
    CONNECTED: frozenset({FLUSHING, CLOSED}),
    FLUSHING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}


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


@dataclass(slots=True)
class Callbacks:
    """What a user wants to be told; None for what not."""

    on_initialize: Callable[[Peer], object] | None = None
    on_success: Callable[[Peer], object] | None = None
    on_failure: Callable[[Peer, str, int, str], object] | None = None
    on_input: Callable[[Peer, Any], object] | None = None
    on_error: Callable[[Peer, str, int, str], object] | None = None
    on_timeout: Callable[[Peer], object] | None = None
    on_flushed: Callable[[Peer], object] | None = None
    on_disconnected: Callable[[Peer], object] | None = None


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


class Wire(Protocol):
    """A connection, as the desk sees it; `keepalive.transport.link.Link` is one."""

    readable: bool
    eof: bool
    eof_sent: bool

    @property
    def layered(self) -> bool:
        """Whether it may hold bytes, read or to be sent, that the kernel does not know of."""

    @property
    def unsent(self) -> bool:
        """Whether bytes that `try_send` took wait below."""

    def try_receive(self, max_bytes: int, /) -> bytes | None:
        """Return what is there, b"" at the end, None if there is nothing yet."""

    def try_send(self, data: bytes | memoryview, /) -> int:
        """Send what can be sent; return how much that was."""

    def attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Return anyio's typed attributes."""

    def send_eof(self) -> None:
        """Close the sending direction."""


class Hands(Protocol):
    """What the desk has done for it: sockets, time, the log. None of it calls the desk back at once."""

    @property
    def park(self) -> Callable[[], Parking]:
        """Return a maker of places for a task to wait at."""

    def check_here(self) -> None:
        """Refuse a command from another event loop or thread."""

    def open(self, peer: Peer) -> bool:
        """Start an attempt; its outcome comes as `Desk.connected`, `Desk.failed` or `Desk.no_room`.

        :return: False if there is no free descriptor for it
        """

    def shut(self, peer: Peer) -> bool:
        """Abort an attempt, or close a connection.

        :return: False if its descriptor is closed later only; `Desk.freed` is called then
        """

    def want_room(self, peer: Peer) -> None:
        """Call `Desk.writable` when there is room to send."""

    def hurry(self, peer: Peer) -> None:
        """Have small pieces sent at once from now on (TCP_NODELAY)."""

    def soon(self) -> None:
        """Call `Desk.catch_up` in the next turn of the loop."""

    def wake_at(self, when: float) -> None:
        """Call `Desk.tick` at this time, and not when that was asked for before."""

    def report(self, name: str, peer: Peer, exc: BaseException) -> None:
        """Log that a callback raised."""
