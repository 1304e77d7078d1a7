"""One message on its way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.runtime import Parking

    from .core.head import Head
    from .errors import SendError
    from .flow import Flow
    from .source import Source, Target


class Outgoing:
    """One message on its way out, and who wants to know what became of it.

    :ivar key: of its transaction, None for a keep-alive
    :ivar asks: the peer owes something for it: a response, or for two CR LFs one (RFC 5626 4.4.1)
    :ivar opens: its transaction has begun with it
    :ivar fresh: it goes on a connection of its own
    :ivar flow: the connection it goes on
    :ivar pings: how many of ours it is, each of which the peer may answer
    :ivar sent: bytes of it that the kernel (or TLS) has taken
    :ivar went: where it went, once all of it has
    :ivar finished: it has had its outcome
    :ivar spare: where it may go if nobody is to be found where it goes first
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
        where: str,
        callback: Callable[[SendError | None], object] | None,
        *,
        fresh: bool = False,
    ) -> None:
        self.data = data
        self.where = where
        self.callback = callback
        self.fresh = fresh
        self.key: bytes | None = None
        self.asks = self.opens = False
        self.parked: Parking | None = None
        self.flow: Flow | None = None
        self.spare: Target | None = None
        self.went: Source | None = None
        self.sent = self.pings = 0
        self.finished = False
        self.error: SendError | None = None

    def read(self, head: Head | None) -> None:
        """Note what it is; None for a keep-alive."""
        if head is None:
            self.asks = len(self.data) >= 4
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
