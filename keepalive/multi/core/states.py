"""What the core of a client knows of its peers, in which words, and what it has done for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from keepalive.base.types import NEVER
from keepalive.errors import KeepaliveError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.base.addresses import BindAddresses
    from keepalive.base.timer_queue import Entry

    from .filters import Filter

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
INITIALISING, CONNECTING, CONNECTED, FLUSHING, CLOSED = PeerState


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


class Connection(Protocol):
    """A connection, as the core sees it; `keepalive.transport.link.Link` is one."""

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


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """One peer. Times are the loop's; durations are seconds, and 0 is no limit."""

    id: int
    scheme: str
    addr: str
    port: int
    input_filter: Filter
    output_filter: Filter
    timeout: float  # that its phase may take
    input_timeout: float
    lifetime: float = 0.0  # of each attempt and what comes of it
    behind: tuple[str, str, int] | None = None  # for_scheme, for_addr, for_port, if they differ
    bind_addresses: BindAddresses | None = None
    address: str | None = None
    peer: Any = None  # what user code is given for it; None when its end has been told
    state: PeerState = INITIALISING
    reason: EndReason | None = None
    timer: Entry | None = None  # its place in the timer queue
    since: float = 0.0  # when the timer of its phase was started
    progress_at: float = 0.0  # when bytes of the outbox were last taken
    ends: float = NEVER  # when its lifetime is over
    attempting: bool = False  # one of the `max_connecting` attempts is its own
    link: Connection | None = None
    inbox: bytearray | None = None  # has come, but is no unit yet
    outbox: bytearray | None = None  # waits to be sent
    drainers: list[Any] | None = None  # parked tasks that wait until nothing waits to be sent
    sends: int = 0  # 1 after the first, 2 after more or much


@dataclass(slots=True)
class Callbacks:
    """What a user wants to be told, of which peer; None for what not."""

    on_initialize: Callable[[Any], object] | None = None
    on_success: Callable[[Any], object] | None = None
    on_failure: Callable[[Any, str, int, str], object] | None = None
    on_input: Callable[[Any, Any], object] | None = None
    on_error: Callable[[Any, str, int, str], object] | None = None
    on_timeout: Callable[[Any], object] | None = None
    on_flushed: Callable[[Any], object] | None = None
    on_disconnected: Callable[[Any], object] | None = None


class Effects(Protocol):
    """Sockets, the loop's timer, the log. None of these calls the core back at once."""

    def open(self, record: Record) -> bool:
        """Start an attempt; its outcome comes as `Dispatch.connected`, `failed` or `no_room`.

        :return: False if there is no free descriptor for it
        """

    def close(self, record: Record) -> bool:
        """Abort an attempt, or close a connection.

        :return: False if its descriptor is closed later only; `Dispatch.freed` is called then
        """

    def watch_writable(self, record: Record) -> None:
        """Call `Dispatch.writable` when there is room to send."""

    def set_no_delay(self, record: Record) -> None:
        """Have small pieces sent at once from now on (TCP_NODELAY)."""

    def call_soon(self) -> None:
        """Call `Dispatch.run_deferred` in the next turn of the loop."""

    def wake_at(self, when: float) -> None:
        """Call `Dispatch.tick` at this time, and not when that was asked for before."""

    def log_error(self, name: str, record: Record, exc: BaseException) -> None:
        """Log that a callback raised."""
