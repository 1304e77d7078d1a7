"""Hooks that raise and hooks that call back: heritage pools 3.18 and 3.42."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateError,
    Connection,
    ConnectionManager,
    KeepaliveError,
    ManagerClosed,
    Observer,
    TCPConnector,
)
from tests.support import Server, refused_port
from tests.support.requests import all_usable, ask, at_rest, exchange
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from keepalive import Dial, Link, Request

EVENTS = (
    "queued",
    "opening",
    "opened",
    "attempt_failed",
    "attempt_aborted",
    "lent",
    "idle",
    "closed",
    "failed",
    "cancelled",
)


def observer(react: Callable[[str], object]) -> Observer:
    """Make an observer that calls `react` with the name of each event."""

    def method(name: str) -> Callable[..., None]:
        def told(self: Observer, *details: object) -> None:
            react(name)

        return told

    kind = type("Reacting", (Observer,), {name: method(name) for name in EVENTS})
    made: Observer = kind()
    return made


async def everything(mgr: ConnectionManager, server: Server) -> None:
    """Do something with each of the events in it, with whatever a hook leaves of the manager."""
    with refused_port() as refused:
        for step in (_use_two, _fail, _cancel):
            try:
                await step(mgr, server, refused)
            except (KeepaliveError, anyio.ClosedResourceError):
                pass


async def _use_two(mgr: ConnectionManager, server: Server, _: int) -> None:
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(_ask_and_use, mgr, server, number == 1)
            await turns(3)


async def _ask_and_use(mgr: ConnectionManager, server: Server, discard: bool) -> None:
    try:
        await _use(ask(mgr, server), discard)
    except ManagerClosed:
        pass


async def _use(request: Request, discard: bool = False) -> None:
    try:
        async with request as conn:
            await exchange(conn)
            if discard:
                conn.discard()
    except KeepaliveError:
        pass


async def _fail(mgr: ConnectionManager, _: Server, refused: int) -> None:
    await mgr.allocate("http", "127.0.0.1", refused)


async def _cancel(mgr: ConnectionManager, server: Server, _: int) -> None:
    async with ask(mgr, server):
        waiting = ask(mgr, server)
        mgr.deallocate(waiting.id)
    # A spare attempt for another key, given up for a third one.
    ask(mgr, server, n=2).cancel()
    async with ask(mgr, server, n=3) as conn:
        await exchange(conn)


async def test_18_hooks_that_raise(echo_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """heritage pools 3.18: aiohttp#5259: a raising hook is logged, and the pool does what it does without."""
    told: Counter[str] = Counter()

    def grumble(event: str) -> None:
        told[event] += 1
        raise RuntimeError(event)

    async with ConnectionManager(max_per_host=1, max_open=1) as quiet:
        await everything(quiet, echo_server)
    async with ConnectionManager(max_per_host=1, max_open=1, observer=observer(grumble)) as mgr:
        await everything(mgr, echo_server)
        await until(lambda: at_rest(mgr))
        await all_usable(mgr, echo_server, 1, n=3)  # the key that was used last
    assert set(told) == set(EVENTS)
    assert quiet.stats().requests == mgr.stats().requests - 1
    assert quiet.stats().failed == mgr.stats().failed == {"connect": 1}
    assert (quiet.stats().cancelled, quiet.stats().opened) == (mgr.stats().cancelled, mgr.stats().opened)
    records = [record for record in caplog.records if record.name == "keepalive"]
    assert len(records) == sum(told.values())
    assert {record.levelno for record in records} == {logging.ERROR}
    assert echo_server.peak == 1


async def test_18_users_that_raise(echo_server: Server) -> None:
    """heritage pools 3.18: async-http-client PR#2251: one that throws at its wake-up leaves the others
    theirs."""
    async with ConnectionManager(max_per_host=2) as mgr:
        served: list[int] = []

        async def user(number: int) -> None:
            try:
                async with ask(mgr, echo_server) as conn:
                    if number % 3 == 0:
                        raise ZeroDivisionError
                    await exchange(conn)
                    served.append(number)
            except ZeroDivisionError:
                pass

        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(user, number)
        assert sorted(served) == [number for number in range(30) if number % 3]
        await all_usable(mgr, echo_server, 2)
        assert echo_server.peak == 2


class Moody:
    """A connector that raises something odd at its first attempts."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors

    async def connect(self, dial: Dial) -> Link:
        link = await dial.connect_tcp(dial.key.addr, dial.key.port)
        if self.errors:
            raise self.errors.pop(0)
        await anyio.lowlevel.checkpoint()
        return link


async def test_18_connectors_that_raise(echo_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """heritage pools 3.18: aiohttp#5259: each error fails one request, closes what was opened, and is
    logged."""
    errors: list[Exception] = [ZeroDivisionError("odd"), StopIteration(), TimeoutError("late")]
    async with ConnectionManager(max_per_host=1, connectors={"http": Moody(list(errors))}) as mgr:
        requests = [ask(mgr, echo_server) for _ in range(4)]
        for request in requests[:3]:
            with pytest.raises(AllocateError):
                await request
        async with requests[3] as conn:
            await exchange(conn)
        assert (echo_server.connections, echo_server.peak, echo_server.accepted) == (1, 1, 4)
        assert at_rest(mgr)
    # An OSError is news for the request only; the others are bugs of the connector.
    assert sum(record.name == "keepalive" for record in caplog.records) == 2


async def test_18_connector_that_returns_nonsense(
    echo_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """heritage pools 3.18: aiohttp#5259: the same for one that returns no link."""

    class Confused(TCPConnector):
        async def connect(self, dial: Dial) -> Link:
            await super().connect(dial)
            nothing: Any = None
            return nothing  # type: ignore[no-any-return]  # that is the point

    async with ConnectionManager(max_per_host=1, connectors={"http": Confused()}) as mgr:
        for _ in range(3):
            with pytest.raises(AllocateError, match="not a Link"):
                await ask(mgr, echo_server)
        assert (echo_server.connections, mgr.stats().open) == (0, 0)
    assert len(caplog.records) == 3


class Meddler:
    """What a hook may do to its own manager, at one kind of event, so many times."""

    def __init__(self, event: str, move: str, server: Server) -> None:
        self.event, self.move, self.server = event, move, server
        self.left = 4
        self.mgr: ConnectionManager | None = None
        self.held: Connection | None = None
        self.mine: list[Request] = []

    def __call__(self, event: str) -> None:
        if event == self.event and self.left and self.mgr is not None:
            self.left -= 1
            getattr(self, self.move)(self.mgr)

    async def use_what_it_got(self, group: TaskGroup) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            while self.mine:
                group.start_soon(_use, self.mine.pop())

    def allocate(self, mgr: ConnectionManager) -> None:
        self.mine.append(ask(mgr, self.server, n=2 if self.left % 2 else None))

    def release(self, mgr: ConnectionManager) -> None:
        if self.held is not None:
            self.held.release()

    def discard(self, mgr: ConnectionManager) -> None:
        if self.held is not None:
            self.held.discard()

    def deallocate(self, mgr: ConnectionManager) -> None:
        for number in range(1, mgr.stats().requests + 1):
            mgr.deallocate(number)

    def limit(self, mgr: ConnectionManager) -> None:
        mgr.set_limits(max_per_host=1 + self.left % 2, max_open=2 + self.left % 2)
        assert repr(mgr)

    def shutdown(self, mgr: ConnectionManager) -> None:
        mgr.shutdown()


@pytest.mark.parametrize("event", EVENTS)
async def test_42_hooks_that_call_back(
    echo_server: Server, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """heritage pools 3.42: envoy PR#45339, #22527, PR#17302: hooks that allocate, free, cancel and shut
    down."""
    for move in ("allocate", "release", "discard", "deallocate", "limit", "shutdown"):
        meddler = Meddler(event, move, echo_server)
        mgr = ConnectionManager(max_per_host=2, max_open=2, observer=observer(meddler))
        async with mgr:
            meddler.held = await ask(mgr, echo_server, n=9)
            meddler.mgr = mgr
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    async with anyio.create_task_group() as users:
                        group.start_soon(meddler.use_what_it_got, users)
                        await everything(mgr, echo_server)
                    assert meddler.left < 4, "this event has happened"
                    meddler.left = 0
                    group.cancel_scope.cancel()
            meddler.held.release()
            await until(partial(at_rest, mgr))
            if move != "shutdown":
                mgr.set_limits(max_per_host=2, max_open=2)
                await all_usable(mgr, echo_server, 2)
            else:
                with pytest.raises(ManagerClosed):
                    ask(mgr, echo_server)
        assert (mgr.stats().open, echo_server.connections) == (0, 0)
    assert echo_server.peak <= 3
    assert not caplog.records
