"""One message on its way out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.sip.errors import SendError

    from .head import Head


class Waiter(Protocol):
    """Who waits for a message to be completed."""

    def done(self) -> bool:
        """Say whether it waits no more."""

    def set_result(self, _: None, /) -> None:
        """Let it go on."""


class Outgoing:
    """One message on its way out, and who wants to know what became of it.

    :ivar key: of its transaction, None for a keep-alive
    :ivar asks: the peer owes something for it: a response, or for two CR LFs one (RFC 5626 4.4.1)
    :ivar opens: its transaction has begun with it
    :ivar fresh: it goes on a connection of its own
    :ivar flow: the `Flow` it goes on, else None
    :ivar pings: how many of ours it is, each of which the peer may answer
    :ivar sent: bytes of it that the kernel (or TLS) has taken
    :ivar went: where it went, once all of it has (a `Source`)
    :ivar finished: it is completed
    :ivar spare: where it may go if nobody is to be found where it goes first (a `Target`)
    """

    __slots__ = (
        "asks",
        "callback",
        "data",
        "error",
        "finished",
        "flow",
        "fresh",
        "key",
        "opens",
        "parked",
        "pings",
        "sent",
        "spare",
        "went",
        "where",
    )

    def __init__(
        self,
        data: bytes,
        where: str = "",
        callback: Callable[[Any], object] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.data = data
        self.where = where
        self.callback = callback
        self.fresh = fresh
        self.key: bytes | None = None
        self.asks = self.opens = False
        self.parked: Waiter | None = None
        self.flow: object = None
        self.spare: Any = None
        self.went: Any = None
        self.sent = self.pings = 0
        self.finished = False
        self.error: SendError | None = None

    def read(self, head: Head | None) -> None:
        """Note what it is; None for a keep-alive."""
        if head is None:
            self.pings = len(self.data) // 4
            self.asks = self.pings > 0
        else:
            self.key = head.key
            self.asks = not head.code and head.method != b"ACK"

    @property
    def heeded(self) -> bool:
        """Whether somebody is told what becomes of it."""
        return self.callback is not None or self.parked is not None

    def check(self) -> None:
        """Raise what became of it, if that is an error."""
        if self.error is not None:
            raise self.error
