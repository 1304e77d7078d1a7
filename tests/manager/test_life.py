"""Managers from entry to exit: how they are left, by whom, in which moment, and beside which others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import ClosedResourceError

from keepalive import (
    AllocateError,
    ConnectionManager,
    KeepaliveError,
    ManagerClosed,
    Resolution,
    Reuse,
    StaticResolver,
    TLSConnector,
)
from tests.support import Server, Silent, full_backlog
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from keepalive import Connection, Dial, Request


# -- what leaves the block ---------------------------------------------------------------------------


class Stop(BaseException):
    """Something like KeyboardInterrupt, which the loops themselves have no opinion on."""


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        Stop(),
        ExceptionGroup("several", [ValueError(), OSError()]),
        BaseExceptionGroup("worse", [Stop(), ValueError()]),
        ClosedResourceError(),
        StopAsyncIteration(),
        asyncio.CancelledError("of somebody else"),
    ],
)
async def test_exceptions_leave_as_they_are(error: BaseException, echo_server: Server) -> None:
    with pytest.raises(type(error)) as caught:
        async with ConnectionManager() as manager, ask(manager, echo_server) as conn:
            ask(manager, echo_server, for_addr="pending")
            await exchange(conn)
            raise error
    assert caught.value is error
    assert caught.value.__cause__ is None
    await echo_server.until(lambda server: not server.connections)


async def test_an_exception_leaves_a_cancelled_scope_as_it_is(echo_server: Server) -> None:
    with pytest.raises(KeyError), anyio.CancelScope() as scope:
        async with ConnectionManager() as manager:
            conn = await ask(manager, echo_server)
            await exchange(conn)
            scope.cancel()
            raise KeyError


async def test_a_cancellation_leaves_as_it_is(echo_server: Server, anyio_backend_name: str) -> None:
    left_by: list[BaseException] = []

    async def user(manager: ConnectionManager) -> None:
        try:
            async with manager, ask(manager, echo_server) as conn:
                await exchange(conn)
                await conn.receive()
        except BaseException as exc:
            left_by.append(exc)
            raise

    manager = ConnectionManager()
    async with anyio.create_task_group() as group:
        group.start_soon(user, manager)
        await echo_server.until(lambda server: server.received > 0)
        group.cancel_scope.cancel()
    assert [type(exc) for exc in left_by] == [anyio.get_cancelled_exc_class()]
    assert "closed" in repr(manager)
    await echo_server.until(lambda server: not server.connections)


async def test_left_in_the_midst_of_a_cancelled_group(echo_server: Server, silent_server: Server) -> None:
    """Users and manager live in one group, and all of it is cancelled at once, whatever it does."""
    conns: list[Connection] = []

    async def use(server: Server) -> None:
        async with ask(manager, server, timeout=PATIENCE) as conn:
            conns.append(conn)
            await conn.send(b"x")
            while True:
                await conn.receive()

    with anyio.CancelScope() as scope:
        async with ConnectionManager(max_per_host=2) as manager, anyio.create_task_group() as group:
            for server in (echo_server, silent_server) * 3:
                group.start_soon(use, server)
            await silent_server.until(lambda server: server.received == 2)
            await turns()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert manager.stats().open == 0
    assert manager.stats().waiting == 0
    for conn in conns:
        conn.release()  # harmless
    for server in (echo_server, silent_server):
        await server.until(lambda server: not server.connections)


# -- the end in every phase --------------------------------------------------------------------------


class Mute:
    """A resolver that never answers."""

    async def resolve(self, host: str) -> Resolution:
        """Return the addresses of a host name: not this one."""
        await anyio.sleep_forever()
        raise AssertionError


@pytest.fixture(scope="module")
def hanging() -> Iterator[tuple[str, int]]:
    with full_backlog() as there:
        yield there.host, there.port


def begin(manager: ConnectionManager, phase: str, server: Server, hanging: tuple[str, int]) -> Request:
    """Enter a request that gets stuck in this phase."""
    if phase == "resolving":
        return manager.allocate("http", "some.test", 80)
    if phase == "connecting":
        return manager.allocate("http", *hanging)
    return ask(manager, server, scheme={"tls": "tls", "queued": "tls"}.get(phase, "http"))


@pytest.mark.parametrize("how", ["shutdown", "aclose", "leave", "cancel"])
@pytest.mark.parametrize("phase", ["resolving", "connecting", "tls", "queued", "served"])
async def test_the_end_of_a_request(
    phase: str, how: str, silent_server: Server, hanging: tuple[str, int], client_context: ssl.SSLContext
) -> None:
    connectors = {"tls": TLSConnector(client_context)}
    with anyio.CancelScope() as scope:
        async with ConnectionManager(resolver=Mute(), connectors=connectors, max_per_host=1) as manager:
            first = begin(manager, phase, silent_server, hanging)
            request = ask(manager, silent_server, scheme="tls") if phase == "queued" else first
            if phase == "served":
                await silent_server.until(lambda server: server.accepted == 1)
            await turns()
            if how == "shutdown":
                manager.shutdown()
                await turns()
                assert manager.stats().open == 0
            elif how == "aclose":
                await manager.aclose(grace=None)
                assert manager.stats().open == 0
            elif how == "cancel":
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    with pytest.raises(ManagerClosed):
        await request
    assert not first.cancel()
    stats = manager.stats()
    assert (stats.open, stats.waiting, stats.failed["shutdown"]) == (0, 0, 1 + (phase == "queued"))
    await silent_server.until(lambda server: not server.connections)


# -- aclose ------------------------------------------------------------------------------------------


async def give_back(held: list[Connection], how: str) -> None:
    """Let go of the only connection."""
    if how == "drop":
        with pytest.warns(ResourceWarning):
            held.clear()
    elif how == "aclose":
        await held[0].aclose()
    else:
        getattr(held[0], how)()


@pytest.mark.parametrize("how", ["release", "discard", "aclose", "drop"])
async def test_grace_is_for_lent_ones(how: str, echo_server: Server) -> None:
    async with ConnectionManager() as manager:
        held = [await ask(manager, echo_server)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(manager.aclose, None)
                await turns()
                await exchange(held[0])  # still usable
                assert manager.stats().lent == 1
                await give_back(held, how)
        assert manager.stats().open == 0
        await echo_server.until(lambda server: not server.connections)


async def test_two_ends_at_a_time(echo_server: Server) -> None:
    """The less patient one decides."""
    async with ConnectionManager() as manager:
        conn = await ask(manager, echo_server)
        async with anyio.create_task_group() as group:
            group.start_soon(manager.aclose, None)
            await turns()
            await manager.aclose(0.01)
        with pytest.raises(ClosedResourceError):
            await conn.send(b"x")
        await manager.aclose()
        manager.shutdown()


async def test_many_ends_at_a_time(echo_server: Server) -> None:
    """All of them wait for what takes its time to end."""
    ended = anyio.Event()

    async def connect(dial: Dial) -> Any:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            ended.set()

    async def end() -> None:
        await manager.aclose()
        assert ended.is_set()

    with anyio.fail_after(PATIENCE):
        async with ConnectionManager(connectors={"slow": FunctionConnector(connect)}) as manager:
            ask(manager, echo_server, scheme="slow")
            await turns()
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(end)


@pytest.mark.parametrize("wrong", [-1, float("nan"), "1", True])
async def test_grace_is_checked(wrong: Any, echo_server: Server) -> None:
    async with ConnectionManager() as manager:
        with pytest.raises((TypeError, ValueError), match="grace"):
            await manager.aclose(wrong)
        async with ask(manager, echo_server) as conn:  # nothing has happened
            await exchange(conn)


async def test_a_request_that_comes_while_it_drains(echo_server: Server) -> None:
    async with ConnectionManager() as manager, anyio.create_task_group() as group:
        conn = await ask(manager, echo_server)
        group.start_soon(manager.aclose, None)
        await turns()
        with pytest.raises(ManagerClosed):
            ask(manager, echo_server)
        conn.release()


# -- several managers --------------------------------------------------------------------------------


async def test_managers_are_independent(echo_server: Server) -> None:
    recorders = [Recorder(), Recorder()]
    async with ConnectionManager(max_per_host=1, observer=recorders[0]) as outer:
        conn = await ask(outer, echo_server)
        async with ConnectionManager(max_per_host=1, observer=recorders[1]) as inner:
            async with ask(inner, echo_server) as other:
                await exchange(other)
                with pytest.raises(ValueError, match="not a connection of this manager"):
                    inner.free(conn)
                with pytest.raises(ValueError, match="not a connection of this manager"):
                    outer.free(other)
            assert (outer.stats().lent, inner.stats().idle) == (1, 1)
        assert recorders[1].reasons() == ["shutdown"]
        await exchange(conn)
        conn.release()
        async with ask(outer, echo_server) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
    assert echo_server.peak == 2


async def test_many_managers_one_after_the_other(echo_server: Server) -> None:
    for _ in range(30):
        async with ConnectionManager() as manager, ask(manager, echo_server) as conn:
            await exchange(conn)
    await echo_server.until(lambda server: not server.connections)
    assert (echo_server.accepted, echo_server.peak) == (30, 1)


async def test_entered_and_left_without_a_turn_of_the_loop() -> None:
    for _ in range(3):
        async with ConnectionManager():
            pass
        with pytest.raises(KeyError):
            async with ConnectionManager():
                raise KeyError


# -- other ways of asyncio ---------------------------------------------------------------------------


@asynccontextmanager
async def eager_tasks() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # not there on 3.11
    try:
        trial = turns()
        try:
            await loop.create_task(trial)
        except TypeError:
            trial.close()
            pytest.skip("this uvloop and this Python do not agree on eager tasks")
        yield
    finally:
        loop.set_task_factory(None)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="needs Python 3.12 or newer")
async def test_tasks_that_start_at_once(
    echo_server: Server, tls_server: Server, client_context: ssl.SSLContext, anyio_backend_name: str
) -> None:
    """An eager task has run, and may have ended, before the function that starts it returns."""
    if anyio_backend_name != "asyncio":
        pytest.skip("needs asyncio or uvloop")

    async def fail(dial: object) -> Any:
        raise OSError("at once")

    class Failing:
        connect = staticmethod(fail)

    connectors: dict[str, Any] = {"tls": TLSConnector(client_context, "localhost"), "no": Failing()}
    resolver = StaticResolver({"some.test": "127.0.0.1"})
    async with (
        eager_tasks(),
        ConnectionManager(connectors=connectors, resolver=resolver, max_per_host=2) as manager,
    ):
        async with anyio.create_task_group() as group:
            for scheme, server in (("http", echo_server), ("tls", tls_server)) * 5:
                group.start_soon(use_once, manager.allocate(scheme, "some.test", server.port, PATIENCE))
        for _ in range(3):
            with pytest.raises(AllocateError, match="at once"):
                await manager.allocate("no", "some.test", 9, PATIENCE)
        with pytest.raises(KeepaliveError):
            await manager.allocate("http", "unknown.test", 9, PATIENCE)
        assert (manager.stats().idle, manager.stats().open) == (4, 4)


async def use_once(request: Request) -> None:
    async with request as conn:
        await exchange(conn)


async def test_a_task_factory_that_fails(
    echo_server: Server, anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The request fails, in the attempt or in the look-up, and the next one finds all in order."""
    if anyio_backend_name != "asyncio":
        pytest.skip("needs asyncio or uvloop")
    loop = asyncio.get_running_loop()
    resolver = StaticResolver({"some.test": "127.0.0.1"})

    def factory(loop: Any, coro: Any, **more: Any) -> Any:
        if coro.__name__ in refused:
            raise LookupError("no more tasks")
        return asyncio.Task(coro, loop=loop, **more)

    loop.set_task_factory(factory)
    try:
        async with ConnectionManager(resolver=resolver, max_per_host=1) as manager:
            for name in ("carry_out", "run"):
                refused = [name]
                with pytest.raises(AllocateError, match="no more tasks"):
                    await manager.allocate("http", "some.test", echo_server.port, PATIENCE)
                assert manager.stats().open == 0
            refused = []
            await use_once(manager.allocate("http", "some.test", echo_server.port, PATIENCE))
    finally:
        loop.set_task_factory(None)
    assert len(caplog.records) == 2


async def test_a_server_that_hears_nothing(echo_server: Server) -> None:
    """The manager's end does not wait for any peer."""
    with Server(Silent(), accepting=False) as server:
        async with ConnectionManager() as manager, ask(manager, server) as conn:
            await conn.send(b"x" * 10_000)
