"""All times, exactly: in virtual time on trio and asyncio, and in a little real time on every loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import ClosedResourceError

from keepalive import AllocateTimeout, ConnectionManager, Resolution, Reuse
from keepalive.testing import jump, run_in_virtual_time
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keepalive import Dial, Link
    from tests.support import Server


@pytest.fixture(params=["asyncio", "trio"])
def still(request: pytest.FixtureRequest, echo_server: Server) -> Callable[[Any], None]:
    """Run a story in virtual time."""

    def tell(story: Callable[[Server], Awaitable[None]]) -> None:
        run_in_virtual_time(story, echo_server, backend=request.param)

    return tell


async def hang(dial: Dial) -> Link:
    await anyio.sleep_forever()
    raise AssertionError


# -- idle connections --------------------------------------------------------------------------------


def test_idle_for_fifteen_seconds_by_default(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        recorder = Recorder()
        async with ConnectionManager(observer=recorder) as manager:
            for _ in range(3):  # every use begins anew
                async with ask(manager, server) as conn:
                    await exchange(conn)
                await jump(14.5)
                assert manager.stats().idle == 1
            await jump(0.5)
            assert manager.stats().open == 0
            assert recorder.reasons() == ["expired"]
            assert server.connections == 0


def test_each_idle_connection_has_its_own_time(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        async with ConnectionManager(keep_alive=8) as manager:
            conns = [await ask(manager, server) for _ in range(4)]
            conns[0].release()
            await jump(2)
            conns[1].release(keep_for=1)  # sooner than the one before
            conns[2].release(keep_for=100)  # a server's promise does not lengthen it
            await jump(0.5)
            assert manager.stats().idle == 3
            await jump(0.5)
            assert manager.stats().idle == 2
            await jump(5)
            assert manager.stats().idle == 1
            conns[3].release(keep_for=0)
            assert manager.stats().idle == 1
            await jump(1.5)
            assert manager.stats().idle == 1
            await jump(0.5)
            assert manager.stats().idle == 0


@pytest.mark.parametrize(("keep_alive", "idle"), [(None, 1), (0, 0)])
def test_for_ever_and_not_at_all(keep_alive: float | None, idle: int, still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        async with ConnectionManager(keep_alive=keep_alive, max_per_host=1) as manager:
            conn = await ask(manager, server)
            waiting = ask(manager, server)
            conn.release()
            async with waiting as conn:  # who waits gets it all the same
                assert conn.from_cache is Reuse.DEFERRED
            await jump(1e6)
            assert manager.stats().idle == idle


def test_a_lifetime_is_up_to_a_twentieth_shorter(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        recorder = Recorder()
        options: dict[str, Any] = {"max_per_host": None, "keep_alive": None, "observer": recorder}
        async with ConnectionManager(max_lifetime=100, **options) as manager:
            conns = [await ask(manager, server) for _ in range(40)]
            for conn in conns[1:]:
                conn.release()
            await jump(94.9)
            assert manager.stats().idle == 39
            await jump(2.5)
            assert 0 < manager.stats().idle < 39  # they do not all end at once
            await jump(2.6)
            assert (manager.stats().idle, manager.stats().lent) == (0, 1)
            await exchange(conns[0])  # nobody is cut off
            conns[0].release()
            assert manager.stats().open == 0
            assert set(recorder.reasons()) == {"lifetime"}


def test_what_a_connection_tells_of_its_age(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        recorder = Recorder()
        async with ConnectionManager(max_per_host=1, observer=recorder) as manager:
            conn = await ask(manager, server)
            assert (conn.age, conn.idle_for, conn.uses) == (0, 0, 1)
            waiting = ask(manager, server)
            await jump(3)
            assert conn.age == 3
            conn.release()
            async with waiting as conn:
                assert (conn.age, conn.idle_for, conn.uses) == (3, 0, 2)
            await jump(4)
            async with ask(manager, server) as conn:
                assert (conn.age, conn.idle_for, conn.uses) == (7, 4, 3)
        assert [event[5] for event in recorder.events if event[0] == "lent"] == [0, 3, 0]


# -- requests ----------------------------------------------------------------------------------------


async def outlive(manager: ConnectionManager, server: Server, seconds: float, **more: Any) -> AllocateTimeout:
    """See a request for a hanging key time out after exactly so many seconds."""
    errors: list[AllocateTimeout] = []

    async def wait() -> None:
        with pytest.raises(AllocateTimeout) as caught:
            await ask(manager, server, scheme="hang", **{"timeout": None} | more)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await turns()
        await jump(seconds - 0.25)
        assert not errors
        await jump(0.25)
        assert errors
    return errors[0]


@pytest.mark.parametrize(
    ("options", "more", "seconds", "phase"),
    [
        ({}, {}, 120, "connect"),
        ({"timeout": 7}, {}, 7, "connect"),
        ({"timeout": 7}, {"timeout": 3}, 3, "connect"),
        ({"timeout": 7}, {"timeout": 30}, 30, "connect"),
        ({"connect_timeout": 4}, {}, 4, "connect"),
        ({"connect_timeout": 400}, {}, 120, "connect"),
    ],
)
def test_requests_time_out(
    options: dict[str, float],
    more: dict[str, float],
    seconds: float,
    phase: str,
    still: Callable[[Any], None],
) -> None:
    @still
    async def story(server: Server) -> None:
        async with ConnectionManager(connectors={"hang": FunctionConnector(hang)}, **options) as manager:  # type: ignore[arg-type]  # mixed
            error = await outlive(manager, server, seconds, **more)
            assert error.function == phase
            assert f"{seconds}" in error.error_str
            assert manager.stats().waiting == 0


def test_connect_timeout_begins_when_the_name_is_known(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        class Slow:
            async def resolve(self, host: str) -> Resolution:
                await anyio.sleep(10)
                return Resolution(("127.0.0.1",))

        async def connect(dial: Dial) -> Link:
            await dial.resolve("first.test")
            await dial.resolve("second.test")
            return await hang(dial)

        connectors = {"hang": FunctionConnector(connect)}
        async with ConnectionManager(resolver=Slow(), connectors=connectors, connect_timeout=4) as manager:
            request = ask(manager, server, timeout=None, scheme="hang")
            await turns()
            for _ in range(2):
                await jump(10)
            await jump(3.75)
            assert manager.stats().waiting == 1
            await jump(0.25)
            with pytest.raises(AllocateTimeout, match="connect_timeout"):
                await request


def test_a_spare_attempt_lives_for_ten_seconds(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        async with ConnectionManager(connectors={"hang": FunctionConnector(hang)}) as manager:
            requests = [ask(manager, server, timeout=None, scheme="hang") for _ in range(3)]
            await turns()
            for request in requests:
                request.cancel()
            await turns()
            assert manager.stats().connecting == 1
            await jump(9.5)
            assert manager.stats().connecting == 1
            await jump(0.5)
            assert manager.stats().open == 0


def test_served_and_not_fetched_in_time(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        async with ConnectionManager(max_per_host=1) as manager:
            request = ask(manager, server, timeout=5)
            await server.until(lambda server: server.accepted == 1)
            await jump(4.5)
            assert (manager.stats().idle, manager.stats().lent) == (0, 1)
            await jump(0.5)
            assert (manager.stats().idle, manager.stats().timeouts) == (1, 1)
            with pytest.raises(AllocateTimeout):
                await request
            async with ask(manager, server) as conn:
                await exchange(conn)
            assert server.accepted == 1


def test_grace_has_its_end(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        async with ConnectionManager() as manager, anyio.create_task_group() as group:
            conn = await ask(manager, server)
            group.start_soon(manager.aclose, 10)
            await turns()
            await jump(9.5)
            await exchange(conn)
            await jump(0.5)
            with pytest.raises(ClosedResourceError):
                await conn.send(b"x")


# -- real time ---------------------------------------------------------------------------------------


async def test_a_little_real_time(echo_server: Server) -> None:
    """No timer rings early, and none is late by more than a busy machine may be."""
    recorder = Recorder()
    async with ConnectionManager(
        keep_alive=0.08, observer=recorder, connectors={"hang": FunctionConnector(hang)}
    ) as manager:
        for _ in range(3):
            began = time.monotonic()
            async with ask(manager, echo_server) as conn:
                await exchange(conn)
            with pytest.raises(AllocateTimeout):
                await ask(manager, echo_server, scheme="hang", timeout=0.04)
            assert 0.04 <= time.monotonic() - began < PATIENCE
            assert manager.stats().idle == 1
            closed = len(recorder.reasons())
            await recorder.until(lambda: len(recorder.reasons()) > closed)  # noqa: B023  # awaited here
            assert 0.08 <= time.monotonic() - began < 2 * PATIENCE
    assert set(recorder.reasons()) == {"expired"}
