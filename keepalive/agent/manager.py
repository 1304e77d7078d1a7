"""The manager of a borrower, as its users see it."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from keepalive import Connection, KeyStats, Stats
from keepalive.base import arguments as settings
from keepalive.base.types import NEVER
from keepalive.errors import ManagerClosed
from keepalive.transport.loops import current_runtime

from .borrower import Borrower
from .errors import AgentError
from .line import LineState
from .loan import Asked, PerKey, Request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from keepalive.abc import Lifecycle

    from .wire import Numbers

__all__ = ("AgentManager", "connect")

OnLoss: TypeAlias = Literal["fail", "retry"]


class AgentManager:
    """A manager whose connections belong to an agent; made by `connect`.

    It is used as `keepalive.ConnectionManager` is, with the same arguments, results and errors. Limits, idle
    times and TLS are the agent's. The borrower speaks to the peer itself, over a descriptor that the agent
    has passed on; what is TLS goes through the agent.
    """

    def __init__(
        self,
        path: str,
        sticky: float,
        loan_timeout: float | None,
        on_agent_loss: OnLoss,
        connect_timeout: float,
    ) -> None:
        self._path = path
        self._sticky = sticky
        self._loan_timeout = loan_timeout
        self._retry = on_agent_loss == "retry"
        self._connect_timeout = connect_timeout
        self._borrower: Borrower | None = None

    async def __aenter__(self) -> Self:
        """Call the agent. Switches tasks.

        :raises AgentError: it cannot be reached, or refuses this process; with ``on_agent_loss="retry"`` only
            the latter
        :raises RuntimeError: it was entered before
        """
        if self._borrower is not None:
            msg = "a manager can be entered only once"
            raise RuntimeError(msg)
        borrower = self._borrower = Borrower(
            current_runtime(), self._path, self._sticky, self._loan_timeout, retry=self._retry
        )
        line = borrower.line
        line.call()
        try:
            with anyio.move_on_after(self._connect_timeout):
                while line.state is LineState.GREETING:
                    await borrower.changed.wait()
            if line.refused or not (self._retry or line.state is LineState.UP):
                said = "it does not answer" if line.state is LineState.GREETING else line.why
                msg = f"no agent at {self._path}: {said}"
                raise AgentError(msg)
        except BaseException:
            borrower.shutdown()
            await borrower.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give everything back; what is still in use is cut. Exceptions leave the block as they are."""
        await self._end(0.0)
        if exc_type is None:
            await checkpoint()

    def shutdown(self) -> None:
        """Request nothing more; what is in use stays usable. Idempotent; see `ConnectionManager.shutdown`."""
        self._running().shutdown()

    async def aclose(self, grace: float | None = 0.0) -> None:
        """Shut down, wait for what is in use, then cut it; see `ConnectionManager.aclose`.

        :param grace: seconds to wait; None waits as long as it takes
        """
        await self._end(settings.seconds("grace", grace))
        await checkpoint()

    async def _end(self, grace: float) -> None:
        borrower = self._running()
        if borrower.reactor.closed:
            return
        borrower.shutdown()
        try:
            if grace:
                await borrower.drain(grace)
        finally:
            await borrower.close()

    @property
    def usable(self) -> bool:
        """Whether it serves requests made here: entered in this event loop and process, and not shut down."""
        borrower = self._borrower
        return borrower is not None and borrower.reactor.here() and not borrower.closed

    @property
    def lifecycles(self) -> Mapping[str, Lifecycle[Any]]:
        """Nothing is done with its connections beside their use."""
        return MappingProxyType({})

    def time(self) -> float:
        """Return the time, in seconds, of the clock by which its connections' deadlines go."""
        return self._running().now()

    @property
    def connected(self) -> bool:
        """Whether there is an agent at the moment."""
        return self._borrower is not None and self._borrower.line.state is LineState.UP

    def abandon(self) -> bool:
        """Close everything if the event loop it was entered in has ended without it. A plain method."""
        return self._borrower is None or self._borrower.reactor.end_after_loop()

    def _running(self) -> Borrower:
        borrower = self._borrower
        if borrower is None:
            msg = "the manager has not been entered: use it in `async with`"
            raise RuntimeError(msg)
        borrower.check_here()
        return borrower

    # -- requests -------------------------------------------------------------------------------------

    def allocate(
        self,
        scheme: str,
        addr: str,
        port: int,
        timeout: float | None = 120.0,
        *,
        for_scheme: str | None = None,
        for_addr: str | None = None,
        for_port: int | None = None,
        context: object = None,
        fresh: bool = False,
        queue_timeout: float | None = None,
        open_timeout: float | None = None,
    ) -> Request:
        """Request a connection; see `ConnectionManager.allocate`. A plain method.

        :param timeout: seconds for all that is to be done; if None, as long as it takes
        :raises TypeError, ValueError: an argument is wrong; the message names it
        :raises ManagerClosed: the manager has been shut down
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        borrower = self._borrower
        if borrower is None or borrower.closed or not borrower.reactor.here():
            borrower = self._running()
            if borrower.closed:
                msg = "the manager has been shut down"
                raise ManagerClosed(msg)
        if fresh not in (True, False):
            settings.flag("fresh", fresh)
        seconds = settings.seconds("timeout", timeout, any_sign=True)
        per_key = self._per_key(borrower, (scheme, addr, port), (for_scheme, for_addr, for_port))
        limits = (
            None if seconds == NEVER else min(seconds, 1e9),
            fresh,
            _bounded("queue_timeout", queue_timeout),
            _bounded("open_timeout", open_timeout),
        )
        borrower.last_number += 1
        asked = Asked(borrower.last_number, per_key, context, borrower.now(), seconds)
        borrower.enter(asked, limits)
        return Request(borrower, asked)

    @staticmethod
    def _per_key(borrower: Borrower, near: tuple[Any, Any, Any], far: tuple[Any, Any, Any]) -> PerKey:
        if far == (None, None, None) and type(near[2]) is int:
            try:
                return borrower.direct[near]
            except (KeyError, TypeError):
                pass
        return borrower.per_key(settings.key(*near, *far))

    def deallocate(self, req_id: int) -> bool:
        """Cancel a request by its number; see `ConnectionManager.deallocate`. A plain method.

        :raises ValueError: this manager never issued that number
        """
        borrower = self._running()
        settings.issued("req_id", req_id, borrower.last_number)
        asked = borrower.asked.get(req_id)
        return asked is not None and borrower.withdraw(asked)

    def free(self, conn: Connection) -> None:
        """Give a connection back, as `Connection.release` does.

        :raises ValueError: it is no connection
        """
        self._running()
        given: object = conn  # whatever the annotation says
        if not isinstance(given, Connection):
            msg = f"{conn!r} is not a connection of this manager"
            raise ValueError(msg)
        conn.release()

    # -- insight --------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return the numbers of this borrower: what it has asked for, holds (lent) and keeps (idle)."""
        borrower = (
            self._running() if self._borrower is None or not self._borrower.reactor.closed else self._borrower
        )
        keys = {key: _numbers(per_key) for key, per_key in borrower.keys.items()}
        names = ("open", "lent", "idle", "waiting", "requests", "immediate", "deferred", "new")
        sums = {name: sum(getattr(stats, name) for stats in keys.values()) for name in names}
        return Stats(
            **sums,
            opened=borrower.opened,
            timeouts=borrower.timeouts,
            cancelled=borrower.cancelled,
            keys=MappingProxyType(keys),
        )

    async def pool_stats(self) -> Stats:
        """Ask the agent for the numbers of the pool that this borrower has its connections from.

        Switches tasks. ``keys`` is empty: the other borrowers' targets are theirs.

        :raises AgentError: there is no agent, or it was lost meanwhile
        """
        borrower = self._running()
        answered, answers = anyio.Event(), []

        def done(message: Numbers | None) -> None:
            answers.append(message)
            answered.set()

        if borrower.line.state is LineState.UP:
            borrower.ask_numbers(done)
            await answered.wait()
        if not answers or answers[0] is None:
            msg = f"no agent at {self._path}: {borrower.line.why}"
            raise AgentError(msg)
        known = {
            name: value for name, value in answers[0].fields.items() if name in Stats.__dataclass_fields__
        }
        return Stats(**known)  # type: ignore[arg-type]  # by name

    def __repr__(self) -> str:
        borrower = self._borrower
        if borrower is None:
            return f"<AgentManager of {self._path}: new>"
        return (
            f"<AgentManager of {self._path}: {borrower.line.state.name.lower()}, lent={borrower.hand.held}>"
        )


def _bounded(name: str, value: float | None) -> float | None:
    return None if value is None else min(settings.seconds(name, value), 1e9)


def _numbers(per_key: PerKey) -> KeyStats:
    idle = len(per_key.kept)
    return KeyStats(
        open=per_key.lent + idle,
        lent=per_key.lent,
        idle=idle,
        waiting=per_key.waiting,
        requests=per_key.requests,
        immediate=per_key.immediate,
        deferred=per_key.deferred,
        new=per_key.new,
        failed=MappingProxyType(dict(per_key.failed)),
    )


def connect(
    path: str | Path,
    *,
    sticky: float = 0.0,
    loan_timeout: float | None = None,
    on_agent_loss: OnLoss = "fail",
    connect_timeout: float = 5.0,
) -> AgentManager:
    """Return a manager whose connections belong to the agent at a Unix socket; use it in ``async with``.

    :param path: the agent's socket; "@name" is an abstract one
    :param sticky: seconds that a released connection is kept here, to be used again without asking, until the
        agent says that somebody waits for it; some milliseconds do. 0 returns each at once
    :param loan_timeout: seconds after which the agent cuts what this process has, if it hears nothing of it:
        it is stopped, or its event loop hangs. The agent's own limit is the most
    :param on_agent_loss: "fail" fails the requests that wait when the agent is lost, and those made while
        there is none; "retry" lets them wait for the next agent, each until its own timeout. What is in use
        stays usable either way
    :param connect_timeout: seconds for the agent's greeting
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """
    name = settings.text("path", os.fspath(path))
    if on_agent_loss not in ("fail", "retry"):
        msg = f'on_agent_loss must be "fail" or "retry", not {on_agent_loss!r}'
        raise ValueError(msg)
    kept = settings.seconds("sticky", sticky, none=None)
    if kept == NEVER or kept > 1:
        msg = f"sticky must be at most 1 second, not {sticky!r}"
        raise ValueError(msg)
    patience = (
        None if loan_timeout is None else min(settings.positive_seconds("loan_timeout", loan_timeout), 1e9)
    )
    return AgentManager(
        name, kept, patience, on_agent_loss, settings.positive_seconds("connect_timeout", connect_timeout)
    )
