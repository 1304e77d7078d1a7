"""A shared connection: the task that serves it for all of its life, and the handles of its borrowers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio import BrokenResourceError, ClosedResourceError, DelimiterNotFound, EndOfStream, IncompleteRead

from keepalive.base import arguments
from keepalive.base.failure import text_of
from keepalive.base.types import NEVER
from keepalive.pool.records import MANY

from .connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.connect.lifecycle import Lifecycle
    from keepalive.pool.records import Slot
    from keepalive.transport.link import Link
    from keepalive.transport.stream import LinkStream

    from .pool_driver import PoolDriver

logger = logging.getLogger("keepalive")

STREAM_ERRORS = (
    OSError,
    BrokenResourceError,
    ClosedResourceError,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
)
"""What a hook meets when the peer has gone, or speaks nonsense: nobody's mistake."""


class Resident:
    """The task inside `Lifecycle.run`; it is the `Shares` that `run` gets, too.

    :ivar slot: the connection's, once it belongs to the pool
    :ivar retired: whether it is to lend no more
    :ivar over: whether `run` has ended
    """

    def __init__(
        self,
        driver: PoolDriver,
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
        self._error: Exception | None = None
        self._ended = ended
        self._changed = anyio.Event()
        self._gone = anyio.Event()
        self._link = link

        async def run() -> None:
            try:
                await lifecycle.run(stream, link.state, self)
            except STREAM_ERRORS as exc:
                self._error = exc
            except Exception as exc:
                self._error = exc
                if self.slot is not None:
                    logger.exception("run of the life cycle of %s raised", self.slot.per_key.key)
            finally:
                stream.detach()

        self._task = driver.reactor.spawn(run, self._done, "keepalive resident of a shared connection")

    @property
    def capacity(self) -> int:
        """How many requests may share the connection; see `Shares`."""
        return self._capacity or 0

    @capacity.setter
    def capacity(self, n: int) -> None:
        self._capacity = arguments.whole("capacity", n, least=0, most=MANY)
        self._changed.set()
        slot, driver = self.slot, self._driver
        if slot is not None and not self.over and not self.retired:
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
        slot, driver = self.slot, self._driver
        if slot is not None:
            driver.pool.sharing.retire(slot, driver.reactor.clock())
            driver.act()

    async def ready(self) -> None:
        """Wait until `run` has said how many may share the connection; raise what ended it before."""
        await self._changed.wait()
        if self.over:
            why = "" if self._error is None else f": {text_of(self._error)}"
            msg = f"it ended before it set a capacity{why}"
            raise ConnectionError(msg) from self._error

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
        if self._given_back() is None:
            return
        self._driver.check_here()
        kept = NEVER if keep_for is None else arguments.seconds("keep_for", keep_for)
        self._link = None
        self._driver.give_back_share(self._slot, kept)

    def discard(self) -> None:
        """Give the share back; the connection goes on, as others may have shares of it."""
        self.release()

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
