"""Which time ran out: told exactly, by phase, name and duration, with the pool's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import AllocateTimeout, ConnectionManager, Resolution, TLSConnector
from keepalive.base.types import NEVER, Phase
from keepalive.connect.deadlines import Budget, Timeouts
from keepalive.testing import jump, run_in_virtual_time
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import turns

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from keepalive import Dial, Link
    from tests.support import Server


class Slow:
    """A resolver that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def resolve(self, host: str) -> Resolution:
        """Answer after a while."""
        await anyio.sleep(self.seconds)
        return Resolution(("127.0.0.1",))


def test_a_name_costs_nothing_of_the_connect_timeout() -> None:
    budget = Budget(Timeouts(connect=4, resolve=10, tls=3))
    assert budget.enter(Phase.CONNECT, 100) == (104, "connect_timeout")
    assert budget.enter(Phase.RESOLVE, 101) == (111, "resolve_timeout")
    assert budget.enter(Phase.CONNECT, 105) == (108, "connect_timeout")
    assert budget.enter(Phase.RESOLVE, 106) == (112, "resolve_timeout")  # one purse for all names
    assert budget.enter(Phase.TLS, 107) == (109, "connect_timeout")  # sooner than TLS's own
    budget = Budget(Timeouts(tls=3))
    assert budget.enter(Phase.CONNECT, 0) == (NEVER, "connect_timeout")
    assert budget.enter(Phase.TLS, 1) == (4, "tls_timeout")
    assert budget.enter(Phase.CONNECT, 3) == (NEVER, "connect_timeout")
    assert budget.enter(Phase.TLS, 5) == (6, "tls_timeout")


@pytest.fixture(params=["asyncio", "trio"])
def still(request: pytest.FixtureRequest, silent_server: Server) -> Callable[[Any], None]:
    """Run a story in virtual time."""

    def tell(story: Callable[[Server], Awaitable[None]]) -> None:
        run_in_virtual_time(story, silent_server, backend=request.param)

    return tell


async def late(manager: ConnectionManager, seconds: float, *what: Any, **more: Any) -> AllocateTimeout:
    """See a request fail after exactly so many seconds."""
    errors: list[AllocateTimeout] = []

    async def wait() -> None:
        with pytest.raises(AllocateTimeout) as caught:
            await manager.allocate(*what, **more)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await turns()
        for _ in range(round(seconds * 4)):  # in steps, since several things may begin in that time
            assert not errors
            await jump(0.25)
        assert errors
    return errors[0]


def test_resolve_timeout(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        recorder = Recorder()
        options: dict[str, Any] = {"resolver": Slow(10), "resolve_timeout": 3, "connect_timeout": 1}
        async with ConnectionManager(observer=recorder, **options) as manager:
            error = await late(manager, 3, "http", "slow.test", server.port)
            assert error.function == "resolve"
            assert error.error_str.startswith("no address within resolve_timeout=3 s; ")
            assert "of 128 connections open" in error.error_str
            assert manager.stats().timeouts == 1
        assert ("resolve_timeout", "resolve") in [event[3:] for event in recorder.events]


def test_a_second_name_does_not_start_connect_timeout_anew(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        async def connect(dial: Dial) -> Link:
            for _ in range(3):
                await dial.resolve("slow.test")
                await anyio.sleep(1)
            raise AssertionError

        options: dict[str, Any] = {"resolver": Slow(10), "connect_timeout": 2.5}
        async with ConnectionManager(connectors={"slow": FunctionConnector(connect)}, **options) as manager:
            error = await late(manager, 3 * 10 + 2.5, "slow", "slow.test", server.port)
            assert error.function == "connect"
            assert error.error_str.startswith("no connection within connect_timeout=2.5 s; ")


def test_total_and_queue(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        async with ConnectionManager(max_per_host=1, timeout=7) as manager:
            held = await ask(manager, server)
            error = await late(manager, 7, "http", server.host, server.port)
            assert (error.function, error.error_str) == (
                "queue",
                (
                    "no connection within timeout=7 s; "
                    "1 of 128 connections open, 1 of 1 for this key, 0 requests queued"
                ),
            )
            held.discard()


def test_how_much_of_it_went_into_the_last_phase(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        connectors = {"tls": TLSConnector(server_hostname="a.test")}
        options: dict[str, Any] = {"resolver": Slow(2), "connectors": connectors}
        async with ConnectionManager(max_per_host=1, timeout=5, **options) as manager:
            error = await late(manager, 5, "tls", "slow.test", server.port)
            assert error.function == "tls"
            assert error.error_str.startswith("no connection within timeout=5 s (tls: 3 s); ")


def test_a_warm_up_that_takes_too_long(still: Callable[[Any], None]) -> None:
    @still
    async def story(server: Server) -> None:
        options: dict[str, Any] = {"resolver": Slow(100), "resolve_timeout": 3}
        async with ConnectionManager(**options) as manager:
            warm_up = manager.preconnect("http", "slow.test", server.port, 2)
            errors: list[AllocateTimeout] = []

            async def wait() -> None:
                with pytest.raises(AllocateTimeout) as caught:
                    await warm_up
                errors.append(caught.value)

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await turns()
                await jump(3)
            assert (errors[0].function, errors[0].error_str) == (
                "resolve",
                "no address within resolve_timeout=3 s",
            )


async def test_tls_timeout(silent_server: Server, client_context: ssl.SSLContext) -> None:
    async with ConnectionManager(tls_timeout=0.1, connect_timeout=5) as manager:
        with pytest.raises(AllocateTimeout) as caught:
            await manager.allocate("https", silent_server.host, silent_server.port, timeout=5)
        assert caught.value.function == "tls"
        assert caught.value.error_str.startswith("no handshake within tls_timeout=0.1 s; ")
        await turns()
        assert manager.stats().open == 0


async def test_the_deadlines_leave_what_is_open_alone(echo_server: Server) -> None:
    options: dict[str, Any] = {"connect_timeout": 0.05, "resolve_timeout": 0.05, "tls_timeout": 0.05}
    async with (
        ConnectionManager(**options) as manager,
        manager.allocate("http", "localhost", echo_server.port, timeout=5) as conn,
    ):
        await anyio.sleep(0.12)
        await exchange(conn)


@pytest.mark.parametrize("name", ["resolve_timeout", "tls_timeout", "connect_timeout"])
@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
def test_wrong_values(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        ConnectionManager(**{name: value})
