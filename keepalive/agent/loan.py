"""What a borrower has: its requests, and the connections that they have led to."""

from __future__ import annotations

from enum import Enum, auto
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from anyio import BrokenResourceError
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.tls import TLSAttribute

from keepalive.transport.link import Link

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator
    from types import TracebackType

    from keepalive import Connection, Key, Reuse
    from keepalive.base.timer_queue import Entry
    from keepalive.transport.poller import Poller
    from keepalive.transport.reactor import Reactor
    from keepalive.transport.runtime import Parking

    from .wire import Allocate, Lent, Sealed

__all__ = ("Request",)


class PerKey:
    """What a borrower has of one key.

    :ivar kept: released, and not returned to the agent yet
    :ivar waiting: how many requests the agent has not answered
    :ivar lent: how many connections are in use
    """

    __slots__ = ("deferred", "failed", "immediate", "kept", "key", "lent", "new", "requests", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.kept: list[Ticket] = []
        self.waiting = self.lent = self.requests = self.immediate = self.deferred = self.new = 0
        self.failed: dict[str, int] = {}

    @property
    def at_rest(self) -> bool:
        """Whether nothing of it would be lost if it were forgotten, but numbers."""
        return not (self.kept or self.waiting or self.lent)


class Ticket:
    """One loan, as its borrower sees it; to a `Connection` it is what a pool's record would be.

    :ivar number: by which the agent knows it
    :ivar session: which of the agents that there have been has lent it
    :ivar link: the borrower's copy of the socket
    :ivar recalled: somebody else waits, so that it goes back when it is released
    :ivar until: when it goes back by itself, while it is kept
    """

    __slots__ = (
        "idle_since",
        "lent_at",
        "link",
        "number",
        "opened_at",
        "per_key",
        "recalled",
        "session",
        "until",
        "uses",
    )

    def __init__(self, per_key: PerKey, lent: Lent, session: int, link: LoanLink, now: float) -> None:
        self.per_key = per_key
        self.number = lent.number
        self.session = session
        self.link = link
        self.recalled = not lent.may_keep
        self.lent_at = now
        self.uses = lent.uses
        self.idle_since = now - lent.idle_for
        self.opened_at = now - lent.age
        self.until = 0.0


class LoanLink(Link):
    """A lent socket. Over TLS, which is the agent's, it is a relay's end of a socket pair.

    :ivar sealed: what was agreed for TLS; None without
    :ivar half_close: tells the agent that the end of what is sent is meant as such; None without TLS
    :ivar verdict: how a relayed stream has ended; None while it has not
    """

    minds_room = False

    __slots__ = ("_poller", "half_close", "sealed", "verdict")

    def __init__(self, sock: socket.socket, poller: Poller, sealed: Sealed | None) -> None:
        super().__init__(sock, poller)
        self._poller: Poller | None = poller
        self.sealed = sealed
        self.half_close: Callable[[], None] | None = None
        self.verdict: bool | None = None

    def try_receive(self, max_bytes: int) -> bytes | None:
        """Return what is there; see `Link`. The end of a relay is the peer's only if the agent says so."""
        data = super().try_receive(max_bytes)
        if data == b"" and self.sealed is not None and not self.verdict:
            if self.verdict is None:
                self.eof = False
                return None  # `judge` wakes who waits
            self.torn = True
            msg = "the agent's connection has failed"
            raise BrokenResourceError(msg)
        return data

    def try_send(self, data: bytes | memoryview) -> int:
        """Give the kernel as much as it takes; from the first time that it is too much it tells of room."""
        sent = super().try_send(data)
        if sent < len(data) and self._poller is not None:
            self._poller.mind_room(self, True)
            self._poller = None
        return sent

    def judge(self, clean: bool) -> None:
        """Take the agent's word for how a relayed stream ends."""
        self.verdict = clean
        self.readable = True
        reader = self.reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def send_eof(self) -> None:
        """Close the sending direction; see `Link`."""
        if self.half_close is not None:
            self.half_close()
        super().send_eof()

    def attributes(self) -> dict[Any, Callable[[], Any]]:
        """Return anyio's typed attributes of the socket, and what is known of the agent's TLS."""
        sealed = self.sealed
        if sealed is None:
            return super().attributes()
        return {
            **super().attributes(),
            TLSAttribute.alpn_protocol: lambda: sealed.alpn,
            TLSAttribute.cipher: lambda: sealed.cipher,
            TLSAttribute.server_side: lambda: False,
            TLSAttribute.standard_compatible: lambda: True,
            TLSAttribute.tls_version: lambda: sealed.version,
        }


class State(Enum):
    """How far a request has come."""

    WAITING = auto()
    SERVED = auto()
    ENDED = auto()


class Asked:
    """A request's record.

    :ivar message: what the agent is asked
    :ivar seconds: how long it may take
    :ivar since: when it was made
    :ivar ticket: what it was served with
    :ivar failure: why it was not
    """

    __slots__ = (
        "context",
        "failure",
        "message",
        "number",
        "per_key",
        "reuse",
        "seconds",
        "since",
        "state",
        "ticket",
        "timer",
        "waker",
    )

    def __init__(self, number: int, per_key: PerKey, context: object, since: float, seconds: float) -> None:
        self.number = number
        self.per_key = per_key
        self.context = context
        self.since = since
        self.seconds = seconds
        self.state = State.WAITING
        self.message: Allocate
        self.ticket: Ticket | None = None
        self.reuse: Reuse | None = None
        self.failure: Exception | None = None
        self.waker: Parking | None = None
        self.timer: Entry | None = None


class Server(Protocol):
    """What a request needs of whoever serves it."""

    reactor: Reactor

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""

    def fetch(self, asked: Asked) -> Connection | None:
        """Hand over what a request has been served with; None if it must (still) wait."""

    def withdraw(self, asked: Asked) -> bool:
        """Cancel a request; False if it had ended."""

    def orphan(self, record: Asked) -> None:
        """Note that nobody holds it any more; from any thread, at any moment."""


class Request:
    """What a borrower's `allocate` returns: already entered, not yet answered; as `keepalive.Request` is."""

    __slots__ = ("_asked", "_awaited", "_conn", "_server", "context")

    _conn: Connection

    def __init__(self, server: Server, asked: Asked) -> None:
        self._server = server
        self._asked = asked
        self._awaited = False
        self.context = asked.context

    @property
    def id(self) -> int:
        """The request's number, > 0, for `deallocate`."""
        return self._asked.number

    def __await__(self) -> Generator[Any, Any, Connection]:
        """Wait for the connection. Switches tasks unless one was kept for reuse.

        :raises AllocateError: its sub-classes say what failed; ``function`` is "agent" where the agent did
        :raises RequestCancelled: somebody cancelled the request
        :raises ManagerClosed: this manager, or the agent, was shut down
        :raises RuntimeError: the request was awaited before, or in another event loop
        """
        if self._awaited:
            msg = f"request {self.id} was awaited before"
            raise RuntimeError(msg)
        server, asked = self._server, self._asked
        reactor = server.reactor
        if get_ident() != reactor.thread or not reactor.running():
            server.check_here()
        self._awaited = True
        while (conn := server.fetch(asked)) is None:
            parked = asked.waker = reactor.park()
            try:
                yield from parked.__await__()
                if reactor.cancel_met():
                    yield from checkpoint_if_cancelled().__await__()  # awaited here
            except GeneratorExit:
                server.orphan(asked)
                raise
            except BaseException:
                server.withdraw(asked)
                raise
            finally:
                asked.waker = None
        return conn

    def cancel(self) -> bool:
        """Cancel the request; say whether there was something to cancel."""
        self._server.check_here()
        return self._server.withdraw(self._asked)

    async def __aenter__(self) -> Connection:
        """Wait for the connection; see `__await__`."""
        self._conn = await self
        return self._conn

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the connection back; after an exception, close it."""
        await self._conn.__aexit__(exc_type, exc, traceback)

    def __del__(self) -> None:
        if not self._awaited and self._asked.state is not State.ENDED:
            self._server.orphan(self._asked)

    def __repr__(self) -> str:
        return f"<Request {self.id} for {self._asked.per_key.key}: {self._asked.state.name.lower()}>"
