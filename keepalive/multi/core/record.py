"""One peer, as the core knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from keepalive.base.types import NEVER

from .states import INITIALISING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.base.addresses import BindAddresses
    from keepalive.base.timer_queue import Entry

    from .filters import Filter
    from .states import EndReason


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


class Record:
    """The state of one peer.

    :ivar peer: what user code is given for it; None when its end has been told
    :ivar behind: for_scheme, for_addr, for_port, if they differ from the first three
    :ivar timer: its place in the timer queue
    :ivar timeout: seconds that its phase may take; 0 is no limit
    :ivar lifetime: seconds, of each attempt and what comes of it
    :ivar ends: when that is over
    :ivar attempting: one of the `max_connecting` attempts is its own
    :ivar link: the connection, while there is one
    :ivar inbox: has come, but is no unit yet
    :ivar outbox: waits to be sent
    :ivar drainers: parked tasks that wait until nothing waits to be sent
    :ivar sends: 0, 1, or 2 for more or much
    :ivar since: when the timer of its phase was started
    :ivar stuck: when bytes of the outbox were last taken
    """

    __slots__ = (
        "addr",
        "address",
        "attempting",
        "behind",
        "bind_addresses",
        "drainers",
        "ends",
        "id",
        "inbox",
        "input_filter",
        "input_timeout",
        "lifetime",
        "link",
        "outbox",
        "output_filter",
        "peer",
        "port",
        "reason",
        "scheme",
        "sends",
        "since",
        "state",
        "stuck",
        "timeout",
        "timer",
    )

    def __init__(
        self, number: int, target: tuple[str, str, int], codec: Filter, timeouts: tuple[float, float]
    ) -> None:
        self.id = number
        self.scheme, self.addr, self.port = target
        self.behind: tuple[str, str, int] | None = None
        self.bind_addresses: BindAddresses | None = None
        self.peer: Any = None
        self.address: str | None = None
        self.state = INITIALISING
        self.reason: EndReason | None = None
        self.timer: Entry | None = None
        self.input_filter = self.output_filter = codec
        self.timeout, self.input_timeout = timeouts
        self.lifetime = 0.0
        self.ends = NEVER
        self.attempting = False
        self.link: Connection | None = None
        self.inbox: bytearray | None = None
        self.outbox: bytearray | None = None
        self.drainers: list[Any] | None = None
        self.sends = 0
        self.since = 0.0
        self.stuck = 0.0
