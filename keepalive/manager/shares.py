"""A shared connection: the task that serves it for all of its life, and the handles of its borrowers."""

from __future__ import annotations

import logging
from threading import get_ident
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio import BrokenResourceError, ClosedResourceError, DelimiterNotFound, EndOfStream, IncompleteRead

from keepalive.base import arguments
from keepalive.base.failure import DialFailure, text_of
from keepalive.base.types import NEVER, Phase
from keepalive.pool.records import MANY

from .connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keepalive.connect.lifecycle import Lifecycle
    from keepalive.pool.records import Slot
    from keepalive.transport.link import Link
    from keepalive.transport.reactor import Reactor
    from keepalive.transport.stream import LinkStream

    from .pool_driver import PoolDriver

logger = logging.getLogger("keepalive")

_STREAM_ERRORS = (
    OSError,
    BrokenResourceError,
    ClosedResourceError,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
)
"""What a hook meets when the peer has gone, or speaks nonsense: nobody's mistake."""


def is_peers(exc: Exception) -> bool:
    """Say whether an error, or all of a group, are such."""
    if isinstance(exc, ExceptionGroup):
        return exc.split(_STREAM_ERRORS)[1] is None
    return isinstance(exc, _STREAM_ERRORS)


class Hook:
    """The task of a hook. Its cancellation lasts: who swallows it meets it again where he next waits."""

    def __init__(
        self,
        reactor: Reactor,
        func: Callable[[], Coroutine[Any, Any, None]],
        done: Callable[[], object],
        name: str,
    ) -> None:
        self._scope = anyio.CancelScope()

        async def run() -> None:
            with self._scope:
                await func()

        reactor.spawn(run, done, name)

    def cancel(self) -> None:
        """End it; harmless when it has ended."""
        self._scope.cancel()


class Resident:
    """The task inside `Lifecycle.run`; it is the `Shares` that `run` gets, too.

    :ivar slot: the connection's, once it belongs to the pool
    :ivar retired: whether it is to lend no more
    :ivar over: whether `run` has ended
    """

    def __init__(
        self,
        driver: PoolDriver,
        scheme: str,
        lifecycle: Lifecycle[Any],
        stream: LinkStream,
        link: Link,
        ended: Callable[[Resident], None],
    ) -> None:
        self.slot: Slot | None = None
        self.retired = False
        self.over = False
        self._capacity: int | None = None
        self._driver = driver
        self._scheme = scheme
        self._error: Exception | None = None
        self._ended = ended
        self._changed = anyio.Event()
        self._gone = anyio.Event()
        self._link = link

        async def run() -> None:
            try:
                await lifecycle.run(stream, link.state, self)
            except Exception as exc:
                self._error = exc
                if self.slot is not None:
                    told = logger.debug if is_peers(exc) else logger.exception
                    told("run of the life cycle of %s raised: %s", self.slot.per_key.key, text_of(exc))
            finally:
                self.over = True
                stream.detach()

        self._task = Hook(driver.reactor, run, self._done, f"keepalive run of {scheme}")

    @property
    def capacity(self) -> int:
        """How many requests may share the connection; see `Shares`."""
        return self._capacity or 0

    @capacity.setter
    def capacity(self, n: int) -> None:
        self._capacity = arguments.whole("capacity", n, least=0, most=MANY)
        self._changed.set()
        slot, driver = self.slot, self._driver
        if slot is not None and not (self.over or self.retired or driver.reactor.forked):
            driver.pool.sharing.set_capacity(slot, self._capacity, driver.reactor.clock())
            driver.act()

    @property
    def lent(self) -> int:
        """How many requests have a share now."""
        shares = None if self.slot is None else self.slot.shares
        return 0 if shares is None else shares.lent

    def retire(self) -> None:
        """Lend the connection no more; see `Shares`."""
        self.retired = True
        self._changed.set()
        slot, driver = self.slot, self._driver
        if slot is not None and not driver.reactor.forked:
            driver.pool.sharing.retire(slot, driver.reactor.clock())
            driver.act()

    async def ready(self) -> None:
        """Wait until `run` has said how many may share the connection; raise what ended it before."""
        await self._changed.wait()
        if self.over or self.retired:
            raise ConnectionError(self._why()) from self._error

    def failure(self) -> DialFailure:
        """Say for a request that was to be the first borrower why the connection has ended."""
        msg = f"run of the life cycle of {self._scheme!r}: {self._why()}"
        failure = DialFailure(Phase.SETUP, None, msg)
        failure.__cause__ = self._error
        return failure

    def _why(self) -> str:
        if self._error is not None and self._capacity is None:
            return text_of(self._error)
        did = "ended" if self.over else "retired the connection"
        before = "it set a capacity" if self._capacity is None else "anybody had a share"
        why = "" if self._error is None else f": {text_of(self._error)}"
        return f"it {did} before {before}{why}"

    async def leave(self) -> None:
        """Cancel it, and wait for its end."""
        self.cancel()
        await self._gone.wait()

    def cancel(self) -> None:
        """Tell it to end; nobody hears of its end then."""
        self._ended = _nobody
        if not self.over:
            self._task.cancel()

    def _done(self) -> None:
        self.over = True
        self._changed.set()
        self._gone.set()
        self._ended(self)


def _nobody(resident: Resident) -> None:
    """Hear the end of a resident that was told to end."""


class SharedConnection(Connection):
    """A share of a connection: its `state` is common to all who have one, its byte stream is nobody's.

    `release` and `discard` give the share back, and the connection goes on. When the connection ends, each
    handle is closed; who waits inside the protocol is told by it.
    """

    __slots__ = ()

    def release(self, keep_for: float | None = None) -> None:
        """Give the share back. A plain call; harmless on a handle that has been given back.

        :param keep_for: seconds the connection may stay idle if this was the last share
        :raises RuntimeError: called from another event loop or thread
        """
        link, driver = self._link, self._driver
        if link is None or link.closed:
            self._link = None
            return
        reactor = driver.reactor
        if get_ident() != reactor.thread or not reactor.running():
            driver.check_here()
        kept = NEVER if keep_for is None else arguments.seconds("keep_for", keep_for)
        self._link = None
        driver.give_back_share(self._slot, kept)

    def discard(self) -> None:
        """Give the share back; the connection goes on, as others may have shares of it."""
        self.release()

    @property
    def deadline(self) -> float:
        """Infinite: who waits for a share's answers waits inside the protocol."""
        return NEVER

    @deadline.setter
    def deadline(self, when: float) -> None:
        """Refuse: it would be the time limit of the life cycle's `run`."""
        _not_yours()

    async def receive(self, max_bytes: int = 65536) -> bytes:  # the base's signature
        """Refuse: the byte stream belongs to the life cycle's `run`."""
        _not_yours()

    async def send(self, item: bytes) -> None:  # the base's signature
        """Refuse: the byte stream belongs to the life cycle's `run`."""
        _not_yours()

    async def send_eof(self) -> None:
        """Refuse: the byte stream belongs to the life cycle's `run`."""
        _not_yours()


def _not_yours() -> NoReturn:
    raise ClosedResourceError
