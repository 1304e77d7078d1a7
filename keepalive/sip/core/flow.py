"""What is known of one stream connection. Pure: sockets are the business of who derives from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .identity import matches

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from keepalive.base.timer_queue import Entry

    from .outgoing import Outgoing

HostPort = tuple[str, int]
"""An address and a port."""


class FlowState(Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"  # an attempt of ours is under way
    HANDSHAKE = "handshake"  # accepted; TLS is not done
    OPEN = "open"  # messages go both ways
    DRAINING = "draining"
    """It has been told why it ends; what it still sends is thrown away until it has read that."""
    CLOSED = "closed"  # the end


CONNECTING: Final = FlowState.CONNECTING
HANDSHAKE: Final = FlowState.HANDSHAKE
OPEN: Final = FlowState.OPEN
DRAINING: Final = FlowState.DRAINING
CLOSED: Final = FlowState.CLOSED


@dataclass(slots=True, eq=False)
class Deadline:
    """A time by which something must have come on a connection."""

    flow: Flow
    on_expiry: Callable[[Any, float], None]  # called with the connection and the time when nothing has
    since: float  # when what it limits has begun, if that may change
    timer: Entry | None = None


@dataclass(slots=True, eq=False, repr=False)
class Flow:
    """One connection."""

    proto: str
    peer: HostPort
    last_received: float  # when something last came from the peer, or one of its requests was answered
    name: str | None = None  # what the peer was verified to be when we called it with TLS
    state: FlowState = CONNECTING
    inbound: bool = field(init=False)
    last_used: float = field(init=False)
    aliases: tuple[HostPort, ...] = ()  # further places whose requests may go out on it
    transaction_keys: list[bytes] | None = None  # of those whose request came in on it, the latest last
    unanswered: set[bytes] | None = None  # those of them whose final response is awaited
    awaited: dict[bytes, None] | None = None  # those whose request was sent on it, and no final response came
    queue: deque[Outgoing] | None = None
    queued: int = 0  # bytes in it
    # Messages that are all with the kernel, but wait for a sign that a TLS 1.3 server has accepted our
    # certificate, or the lack of one; None when there is nothing to wait for.
    unconfirmed: list[Outgoing] | None = None
    asked_since: float | None = None  # since when the peer owes an answer and has said nothing at all
    deadline: Deadline | None = None  # for opening it, for a message, or for what comes after its end
    response_deadline: Deadline | None = None
    timer: Entry | None = None
    keeps_alive: bool = False  # the peer does so, by pings or by answers to ours
    registered_until: float = 0.0  # when the peer's registration on it ends, in the past if there is none
    exempt: bool = False  # from the formula of expiry
    send_failure: tuple[int | None, str] | None = None  # while what the peer said before is still to be read

    def __post_init__(self) -> None:
        self.inbound = self.state is not CONNECTING
        self.last_used = self.last_received

    @property
    def hung(self) -> bool:
        """Whether the kernel knows that its peer has gone."""
        return False

    @property
    def unread(self) -> bool:
        """Whether there is something to read that it is not its turn or no room for."""
        return False

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate."""
        return None

    def read_again(self) -> None:
        """Read once more what the kernel has: after a turn that took long the poller has not told it yet.

        If it drains, throw that away.
        """

    def stop(self) -> None:
        """Stop its attempt, its sending and its reading: it ends."""

    def report_lost(self, reason: str, *, transactions: bool, stood: bool) -> None:
        """Tell the user of its end, if he wants to know of such a one.

        :param transactions: some are open on it, of which nobody else is told
        :param stood: it was open
        """

    def close(self) -> None:
        """Close its socket."""

    @property
    def usable(self) -> bool:
        """Whether messages may be given to it."""
        if self.state is OPEN:
            return self.send_failure is None and not self.hung
        return self.state is CONNECTING

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state is CLOSED or self.state is DRAINING

    @property
    def pending(self) -> bool:
        """Whether bytes or transactions wait on it, or it is not open yet, or has bytes that nobody takes."""
        if self.queue or self.unanswered or self.awaited or self.unconfirmed or self.state is not OPEN:
            return True
        return self.unread

    def serves(self, name: str | None) -> bool:
        """Say whether a request for this name may go out here; a caller's identity is its certificate."""
        if not self.usable:
            return False
        if self.proto != "tls" or name is None or name == self.name:
            return True
        return self.inbound and matches(self.certificate, name)


F = TypeVar("F", bound=Flow)
