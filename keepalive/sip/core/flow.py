"""What is known of one stream connection. Pure: sockets are the business of who derives from it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from .identity import matches

if TYPE_CHECKING:
    from collections import deque

    from keepalive.base.timer_queue import Entry

    from .outgoing import Outgoing
    from .routes import Place


class FlowState(Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    """An attempt of ours is under way."""
    HANDSHAKE = "handshake"
    """Accepted; TLS is not done."""
    OPEN = "open"
    """Messages go both ways."""
    DRAINING = "draining"
    """It has been told why it ends; what it still sends is thrown away until it has read that."""
    CLOSED = "closed"
    """The end."""


CONNECTING: Final = FlowState.CONNECTING
HANDSHAKE: Final = FlowState.HANDSHAKE
OPEN: Final = FlowState.OPEN
DRAINING: Final = FlowState.DRAINING
CLOSED: Final = FlowState.CLOSED


class Due(Enum):
    """What a connection may be late with."""

    OPENING = 1
    CONSENT = 2
    """To refuse our certificate."""
    MESSAGE = 3
    """To complete a message."""
    ANSWER = 4
    DRAIN = 5
    """To read our last words."""


class Deadline:
    """A time by which something must have come on a connection.

    :ivar since: when what it limits has begun, if that may change
    """

    __slots__ = ("flow", "kind", "since", "timer")

    def __init__(self, flow: Flow, kind: Due, since: float) -> None:
        self.flow = flow
        self.kind = kind
        self.since = since
        self.timer: Entry | None = None


class Flow:
    """One connection; see `Routable` and `Mortal` for the fields that routes and expiry use.

    :ivar name: what the peer was verified to be when we called it with TLS, else None
    :ivar taken: messages that are all with the kernel, but whose completion waits for a sign that a TLS 1.3
        server has accepted our certificate, or the lack of one; None when there is nothing to wait for
    :ivar last: when it was last used
    :ivar heard: when something last came from the peer, or one of its requests was answered
    :ivar asked: since when the peer owes an answer and has said nothing at all, else None
    :ivar pings: the peer keeps the connection alive
    :ivar kept_until: when the peer's registration on it ends, by the pool's user
    :ivar broken: why nothing can be sent any more, while what the peer said before that is still to be read
    """

    __slots__ = (
        "aliases",
        "asked",
        "awaited",
        "broken",
        "deadline",
        "heard",
        "inbound",
        "kept_until",
        "last",
        "name",
        "patience",
        "peer",
        "pings",
        "proto",
        "queue",
        "queued",
        "spared",
        "state",
        "taken",
        "tids",
        "timer",
        "unanswered",
    )

    def __init__(
        self, proto: str, peer: Place, now: float, *, name: str | None, state: FlowState = CONNECTING
    ) -> None:
        self.proto = proto
        self.peer = peer
        self.name = name
        self.inbound = state is not CONNECTING
        self.state = state
        self.last = self.heard = now
        self.asked: float | None = None
        self.deadline: Deadline | None = None
        self.patience: Deadline | None = None
        self.pings = self.spared = False
        self.kept_until = 0.0
        self.timer: Entry | None = None
        self.aliases: tuple[Place, ...] = ()
        self.tids: list[bytes] | None = None
        self.unanswered: set[bytes] | None = None
        self.awaited: dict[bytes, None] | None = None
        self.queue: deque[Outgoing] | None = None
        self.queued = 0
        self.taken: list[Outgoing] | None = None
        self.broken: tuple[int | None, str] | None = None

    # -- what the outside knows ------------------------------------------------------------------------

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

    # -- what follows ----------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether messages may be given to it."""
        if self.state is OPEN:
            return self.broken is None and not self.hung
        return self.state is CONNECTING

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state is CLOSED or self.state is DRAINING

    @property
    def pending(self) -> bool:
        """Whether bytes or transactions wait on it, or it is not open yet, or has bytes that nobody takes."""
        if self.queue or self.unanswered or self.awaited or self.taken or self.state is not OPEN:
            return True
        return self.unread

    def leads_to(self, name: str | None) -> bool:
        """Say whether a request for this name may go out here; a caller's identity is its certificate."""
        if not self.usable:
            return False
        if self.proto != "tls" or name is None or name == self.name:
            return True
        return self.inbound and matches(self.certificate, name)
