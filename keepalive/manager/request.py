"""A request for a connection, as its owner holds it."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from anyio.lowlevel import checkpoint_if_cancelled

from keepalive.pool.states import QUEUED, SERVED

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from keepalive.pool.records import Waiter
    from keepalive.transport.reactor import Reactor

    from .connection import Connection

__all__ = ("Request",)


class Server(Protocol):
    """What a request needs of whoever serves it."""

    reactor: Reactor

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""

    def check_serving(self) -> None:
        """Refuse these, and a forked child's copy."""

    def hurry(self) -> bool:
        """Take in what the kernel had connected at once; False if there is nothing."""

    def fetch(self, waiter: Waiter, context: object) -> Connection | None:
        """Hand over what a request has been served with; None if it must (still) wait."""

    def withdraw(self, waiter: Waiter) -> bool:
        """Cancel a request; False if it had ended."""

    def orphan(self, record: Waiter) -> None:
        """Note that nobody holds it any more; from any thread, at any moment."""


class Request:
    """What `ConnectionManager.allocate` returns: already entered, not yet answered.

    ``await request`` gives the `Connection`. ``async with request as conn`` does so, and gives the
    connection back at the end of the block. A request may be awaited once. If the awaiting task is
    cancelled, so is the request; a request that is dropped unawaited is cancelled; one that was
    served but is not fetched gives its connection back when its timeout has passed.

    Awaiting switches tasks only if no connection is there yet.
    """

    __slots__ = ("_awaited", "_conn", "_driver", "_waiter", "context")

    _conn: Connection
    """What `__aenter__` returned; set by it."""

    def __init__(self, driver: Server, waiter: Waiter, context: object) -> None:
        self._driver = driver
        self._waiter = waiter
        self._awaited = False
        self.context = context

    @property
    def id(self) -> int:
        """The request's number, > 0, for `ConnectionManager.deallocate`."""
        return self._waiter.id

    def __await__(self) -> Generator[Any, Any, Connection]:
        """Wait for the connection.

        :raises AllocateError: its sub-classes say what failed; `AllocateTimeout` when time ran out
        :raises RequestCancelled: somebody cancelled the request
        :raises ManagerClosed: the manager was shut down
        :raises RuntimeError: the request was awaited before, or in another event loop
        """
        if self._awaited:
            msg = f"request {self._waiter.id} was awaited before"
            raise RuntimeError(msg)
        driver = self._driver
        reactor = driver.reactor
        if get_ident() != reactor.thread or not reactor.running():
            driver.check_serving()
        self._awaited = True
        waiter, context = self._waiter, self.context
        conn = None
        while (waiter.state is QUEUED and not driver.hurry()) or (
            conn := driver.fetch(waiter, context)
        ) is None:
            parked = waiter.waker = driver.reactor.park()
            try:
                yield from parked.__await__()
                if driver.reactor.cancel_met():
                    # The loops let a wake-up win that meets with the cancellation of a scope. Here the
                    # cancellation does, and the connection goes to the next in line.
                    yield from checkpoint_if_cancelled().__await__()  # awaited here
            except GeneratorExit:
                # The waiting coroutine is being thrown away, perhaps by the garbage collector: any thread,
                # any moment, as in `__del__`.
                driver.orphan(waiter)
                raise
            except BaseException:
                driver.withdraw(waiter)
                raise
            finally:
                waiter.waker = None
        return conn

    def cancel(self) -> bool:
        """Cancel the request, whatever it waits for; its awaiter gets `RequestCancelled`.

        :return: whether there was something to cancel: the request was pending, or served but not yet
            fetched
        :raises RuntimeError: called from another event loop or thread
        """
        self._driver.check_here()
        return self._driver.withdraw(self._waiter)

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
        # Any thread, any moment, inside the manager's own code too: only leave a note.
        if not self._awaited:
            state = self._waiter.state
            if state is QUEUED or state is SERVED:
                self._driver.orphan(self._waiter)

    def __repr__(self) -> str:
        return f"<Request {self._waiter.id} for {self._waiter.per_key.key}: {self._waiter.state.value}>"
