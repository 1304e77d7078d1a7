"""`preconnect` opens connections before anybody asks; `evict` closes them when they are to be new."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import pytest

from keepalive import ConnectError, ConnectionManager, ManagerClosed
from tests.support import Greeting, Server, refused_port
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import turns


def warm(mgr: ConnectionManager, server: Server, n: int = 1) -> Any:
    return mgr.preconnect("http", server.host, server.port, n)


async def test_opens_as_many_as_asked_and_they_count_as_new(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        warm_up = warm(mgr, echo_server, 3)
        assert warm_up.started == mgr.stats().open == 3
        assert await warm_up == warm_up.opened == 3
        assert mgr.stats().idle == 3
        async with ask(mgr, echo_server, fresh=True) as conn:
            assert (conn.from_cache, conn.uses) == (None, 1)
            await exchange(conn)
        assert echo_server.accepted == 3
        assert await warm(mgr, echo_server, 3) == 0, "all three are there"
        assert mgr.stats().opened == 3


async def test_the_limits_hold_and_nothing_is_closed_for_it(echo_server: Server) -> None:
    async with ConnectionManager(max_per_host=2, max_open=3) as mgr:
        async with mgr.allocate("other", echo_server.host, echo_server.port) as conn:
            await exchange(conn)
        assert await warm(mgr, echo_server, 100) == 2
        assert await mgr.preconnect("third", echo_server.host, echo_server.port, 1) == 0
        stats = mgr.stats()
        assert (stats.open, stats.idle, stats.closed) == (3, 3, {})
        assert echo_server.peak <= 3


async def test_a_request_that_comes_meanwhile_gets_what_is_being_opened(echo_server: Server) -> None:
    async with ConnectionManager(max_per_host=2) as mgr:
        warm_up = warm(mgr, echo_server, 2)
        async with ask(mgr, echo_server) as conn:
            await exchange(conn)
        assert await warm_up == 2
        assert mgr.stats().opened == 2


async def test_a_request_of_another_key_takes_the_room_back(echo_server: Server) -> None:
    async with ConnectionManager(max_per_host=4, max_open=4) as mgr:
        warm_up = warm(mgr, echo_server, 4)
        async with mgr.allocate("other", echo_server.host, echo_server.port, 5) as conn:
            await exchange(conn)
        assert await warm_up >= 3
        assert echo_server.peak <= 4


async def test_failures_are_told_to_who_awaits_it() -> None:
    with refused_port() as port:
        async with ConnectionManager() as mgr:
            with pytest.raises(ConnectError) as caught:
                await mgr.preconnect("http", "127.0.0.1", port, 2)
            assert (caught.value.function, caught.value.port) == ("connect", port)
            forgotten = mgr.preconnect("http", "127.0.0.1", port, 2)
            await turns()
            del forgotten
            gc.collect()


async def test_a_greeting_is_kept_for_the_first_user() -> None:
    with Server(Greeting(b"220 hello\r\n")) as server:
        async with ConnectionManager() as mgr:
            await warm(mgr, server, 1)
            server.wait_for(lambda it: it.connections == 1)
            async with ask(mgr, server) as conn:
                assert await conn.receive() == b"220 hello\r\n"


async def test_the_end_of_the_manager_ends_it() -> None:
    async with ConnectionManager() as mgr:
        hang = anyio.Event()

        class Never:
            async def connect(self, dial: Any) -> Any:
                await hang.wait()

        async with ConnectionManager(connectors={"http": Never()}) as inner:
            warm_up = inner.preconnect("http", "127.0.0.1", 1, 2)
            await turns()
        assert await warm_up == 0
        mgr.shutdown()
        with pytest.raises(ManagerClosed):
            mgr.preconnect("http", "127.0.0.1", 1)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        (("http", "host", 0), ValueError, "port"),
        (("http", "host", 1, 0), ValueError, "n "),
        (("http", "host", 1, None), TypeError, "n "),
        (("http", "", 1), ValueError, "addr"),
    ],
)
async def test_bad_arguments(arguments: Any, error: type[Exception], name: str) -> None:
    async with ConnectionManager() as mgr:
        with pytest.raises(error, match=name):
            mgr.preconnect(*arguments)
        assert mgr.stats().keys == {}


async def test_evict_closes_idle_ones_and_lent_ones_at_their_release(echo_server: Server) -> None:
    seen = Recorder()
    async with ConnectionManager(observer=seen) as mgr:
        lent = await ask(mgr, echo_server)
        async with ask(mgr, echo_server) as conn:
            await exchange(conn)
        async with ask(mgr, echo_server, scheme="other") as conn:
            await exchange(conn)
        assert mgr.evict("http", echo_server.host, echo_server.port) == 1
        assert (mgr.stats().idle, mgr.stats().lent) == (1, 1)
        await exchange(lent)  # its user notices nothing
        lent.release()
        assert mgr.stats().closed == {"retired": 2}
        assert seen.reasons() == ["retired", "retired"]
        assert mgr.evict(addr=echo_server.host) == 1
        assert mgr.stats().open == 0
        async with ask(mgr, echo_server) as conn:
            assert conn.from_cache is None


async def test_evict_and_whoever_waits(echo_server: Server) -> None:
    async with ConnectionManager(max_per_host=1) as mgr:
        lent = await ask(mgr, echo_server)
        waits = ask(mgr, echo_server, timeout=5)
        assert mgr.evict() == 0
        lent.release()
        async with waits as conn:
            assert conn.from_cache is None, "the evicted one was handed on"
            await exchange(conn)
        assert mgr.evict("nobody") == 0


@pytest.mark.parametrize(("part", "value"), [("port", "80"), ("addr", 5), ("scheme", ""), ("for_port", -1)])
async def test_evict_refuses(part: str, value: Any) -> None:
    async with ConnectionManager() as mgr:
        with pytest.raises((TypeError, ValueError), match=part):
            mgr.evict(**{part: value})
