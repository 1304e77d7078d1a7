"""A connection in the hands of its user."""

from __future__ import annotations

import warnings
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from anyio import ClosedResourceError
from anyio.lowlevel import checkpoint

from keepalive.base import arguments as settings
from keepalive.base.types import NEVER, CloseReason
from keepalive.transport.stream import LinkStream

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from keepalive.base.types import Key, Reuse
    from keepalive.pool.records import Slot
    from keepalive.transport.link import Link
    from keepalive.transport.reactor import Reactor


__all__ = ("Connection",)


class Lender(Protocol):
    """What a connection's handle needs of whoever lent it."""

    reactor: Reactor

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""

    def now(self) -> float:
        """Return the time."""

    def take_back(self, slot: Slot, link: Link, keep_for: float) -> None:
        """Take a connection back for reuse, if it is fit for that."""

    def throw_away(self, slot: Slot, reason: CloseReason) -> None:
        """Close a lent connection."""

    def give_back_share(self, slot: Slot, keep_for: float) -> None:
        """Take a share of a connection back."""

    def orphan(self, record: Slot) -> None:
        """Note that nobody holds it any more; from any thread, at any moment."""


class Connection(LinkStream):
    """A byte stream that goes back to its pool.

    An `anyio.abc.ByteStream`: `send`, `receive`, `send_eof`, `aclose` and typed attributes, raising only
    anyio's stream errors. ``async with conn`` releases it at the end of the block, or closes it if an
    exception (a cancellation too) leaves the block, since nobody knows then what its protocol expects
    next. A handle that is dropped without either is noticed by the garbage collector: a `ResourceWarning`
    is given, and the connection is closed unless nothing was sent or received on it.

    :ivar context: what the request was given as context
    :ivar from_cache: `Reuse.IMMEDIATE` if it was idle when the request came, `Reuse.DEFERRED` if the request
        waited for it, None for a new one
    :ivar uses: how many times it has been handed out, this time included
    :ivar idle_for: for how many seconds nobody had it before that
    """

    __slots__ = ("_driver", "_slot", "context", "from_cache", "idle_for", "uses")

    def __init__(
        self, driver: Lender, slot: Slot, link: Link, context: object, reuse: Reuse | None, now: float
    ) -> None:
        self._link = link
        self._driver = driver
        self._slot = slot
        self.context = context
        self.from_cache = reuse
        self.uses: int = slot.uses
        self.idle_for: float = now - slot.idle_since

    # -- what it is ---------------------------------------------------------------------------------

    @property
    def key(self) -> Key:
        """The pool key it was opened for."""
        return self._slot.per_key.key

    @property
    def scheme(self) -> str:
        """The scheme of the request."""
        return self.key.scheme

    @property
    def addr(self) -> str:
        """The host, or path, of the request."""
        return self.key.addr

    @property
    def port(self) -> int:
        """The port of the request."""
        return self.key.port

    @property
    def for_scheme(self) -> str:
        """The scheme behind a proxy; otherwise `scheme`."""
        return self.key.for_scheme

    @property
    def for_addr(self) -> str:
        """The host behind a proxy; otherwise `addr`."""
        return self.key.for_addr

    @property
    def for_port(self) -> int:
        """The port behind a proxy; otherwise `port`."""
        return self.key.for_port

    @property
    def is_new(self) -> bool:
        """Whether it was opened for this request, so that nobody had it before.

        `uses` does not tell: a handle that was dropped untouched counts as a use too.
        """
        return self.from_cache is None

    @property
    def state(self) -> Any:
        """What the scheme's life cycle made of the connection; it stays with it from user to user.

        None without a life cycle, and on a handle that has been given back. It may be set by whoever keeps
        something of his own with the connections of a scheme; hooks are then given that.

        :raises ClosedResourceError: set on a handle that has been given back
        """
        return None if self._link is None else self._link.state

    @state.setter
    def state(self, value: Any) -> None:
        link = self._given_back()
        if link is None:
            raise ClosedResourceError
        link.state = value

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return self._driver.now() - self._slot.opened_at

    def look_away(self) -> None:
        """Have this event loop told of nothing that arrives, since another process reads it now.

        For who passes the socket on. It ends with the release, at which the kernel is asked what has come.
        For connections without TLS only. A plain method.

        :raises ClosedResourceError: it was given back
        :raises ValueError: it is under TLS
        """
        link = self._link
        if link is None or link.closed:
            raise ClosedResourceError
        if link.layered:
            msg = "a connection under TLS cannot be passed on"
            raise ValueError(msg)
        link.look_away()

    # -- time limits --------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the time of the clock that `deadline` goes by, in seconds."""
        return self._driver.now()

    @property
    def deadline(self) -> float:
        """When a `receive` or `send` of this handle that waits raises `TimeoutError`; infinite at first.

        By the clock `time()`. It costs next to nothing, where a cancel scope around each call costs as much
        as the call. What a `receive` would have got is there for the next one; after a `send` that was cut
        the connection is not reused.
        """
        return NEVER if self._link is None else self._link.deadline

    @deadline.setter
    def deadline(self, when: float) -> None:
        if self._link is not None:
            self._link.deadline = when

    # -- giving it back -----------------------------------------------------------------------------

    def release(self, keep_for: float | None = None) -> None:
        """Give it back for reuse, at once and without switching tasks.

        It is closed instead if it is not fit for reuse: unread bytes, an end of stream, an error or
        `send_eof` on it, a task inside `receive` or `send`, `max_uses` or `max_lifetime` reached.
        Harmless on a handle that has been given back.

        :param keep_for: seconds it may stay idle, if that is less than the manager's `keep_alive`; a
            server's own keep-alive time, for example
        :raises RuntimeError: called from another event loop or thread
        """
        link = self._link
        if link is None or link.closed:
            return
        driver = self._driver
        reactor = driver.reactor
        if get_ident() != reactor.thread or not reactor.running():
            driver.check_here()
        kept = NEVER if keep_for is None else settings.seconds("keep_for", keep_for)
        self._link = None
        driver.take_back(self._slot, link, kept)

    def discard(self) -> None:
        """Close it for good, at once and without switching tasks. Harmless when given back already.

        :raises RuntimeError: called from another event loop or thread
        """
        if self._given_back() is None:
            return
        self._driver.check_here()
        self._link = None
        self._driver.throw_away(self._slot, CloseReason.DISCARDED)

    def _given_back(self) -> Link | None:
        """Return the link if the handle still has it. A manager's end or a fork takes it away too."""
        if self._link is not None and self._link.closed:
            self._link = None
        return self._link

    async def aclose(self) -> None:
        """Close it for good; its place is free before this switches tasks, as it then does once."""
        self.discard()
        await checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release it, or close it after an exception. Does not switch tasks."""
        if exc_type is None:
            self.release()
        elif exc_type is GeneratorExit:
            self._drop()  # the block's coroutine is being thrown away: see `__del__`
        else:
            self.discard()

    def _drop(self) -> bool:
        """Leave a note for the driver, from any thread, at any moment, inside the driver's code too."""
        if self._given_back() is None:
            return False
        self._link = None
        self._driver.orphan(self._slot)
        return True

    def __del__(self) -> None:
        if self._link is not None and self._drop():
            text = f"a connection to {self.key} was dropped without being given back"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        state = "given back" if self._link is None else "closed" if self._link.closed else "lent"
        return f"<Connection to {self.key}: {state}, use {self.uses}>"
