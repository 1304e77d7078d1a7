"""A manager in a fleet, with a real store."""

from __future__ import annotations

import logging
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import coredis
import pytest

from keepalive import AllocateTimeout, ConnectionManager, FleetError
from keepalive.fleet import RedisFleet, set_limit, status
from tests.support.waiting import until

from .counting import counting_server
from .servers import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .counting import CountingServer
    from .servers import RedisServer

META = "keepalive:{f}:meta"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def backend_server() -> Iterator[CountingServer]:
    with counting_server() as server:
        yield server


def fleet(redis: RedisServer, **keywords: Any) -> RedisFleet:
    options: dict[str, Any] = {"name": "f", "max_per_host": 4, "interval": 0.2, "lease": 0.6}
    return RedisFleet(redis.url, **{**options, "fallback": "none", **keywords})


async def test_two_managers_share_a_limit(redis: RedisServer, backend_server: CountingServer) -> None:
    port = backend_server.port
    one, other = fleet(redis), fleet(redis)
    async with ConnectionManager(fleet=one) as first, ConnectionManager(fleet=other) as second:
        lent = [await first.allocate("tcp", "127.0.0.1", port, timeout=10) for _ in range(4)]
        with pytest.raises(AllocateTimeout, match="4 of 4 held by 2 members") as caught:
            await second.allocate("tcp", "127.0.0.1", port, timeout=0.5)
        assert caught.value.function == "fleet"
        waiting = second.allocate("tcp", "127.0.0.1", port, timeout=10)
        lent.pop().release()
        async with await waiting as conn:
            await conn.send(b"x")
        assert backend_server.most <= 4
        for conn in lent:
            conn.release()
        assert one.stats().members == other.stats().members == 2
        assert one.stats().fence != other.stats().fence


async def test_idle_places_are_handed_back_to_who_waits(
    redis: RedisServer, backend_server: CountingServer
) -> None:
    port = backend_server.port
    async with (
        ConnectionManager(fleet=fleet(redis)) as first,
        ConnectionManager(fleet=fleet(redis)) as second,
    ):
        for conn in [await first.allocate("tcp", "127.0.0.1", port, timeout=10) for _ in range(4)]:
            conn.release()
        lent = [await second.allocate("tcp", "127.0.0.1", port, timeout=10) for _ in range(4)]
        assert first.stats().open == 0
        assert backend_server.most <= 4
        for conn in lent:
            conn.release()


async def test_a_limit_in_all(redis: RedisServer, backend_server: CountingServer) -> None:
    """A key's idle connection goes where another key of the same member needs its place."""
    async with (
        ConnectionManager(fleet=fleet(redis, max_per_host=None, max_open=3)) as mgr,
        AsyncExitStack() as stack,
    ):
        for conn in [await mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10) for _ in "123"]:
            conn.release()
        for name in ("localhost", "127.0.0.1"):
            stack.push_async_exit(await mgr.allocate("tcp", name, backend_server.port, timeout=10))
        await until(lambda: backend_server.open <= 3)
        assert backend_server.most <= 3


async def test_a_warm_cycle_makes_no_call(redis: RedisServer, backend_server: CountingServer) -> None:
    one = fleet(redis)
    async with ConnectionManager(fleet=one) as mgr:
        async with mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10):
            pass
        calls = one.stats().calls
        for _ in range(200):  # a hit does not switch tasks: nothing else runs meanwhile
            conn = await mgr.allocate("tcp", "127.0.0.1", backend_server.port)
            conn.release()
        assert one.stats().calls == calls


async def test_the_store_goes_and_comes_back_empty(
    redis: RedisServer, backend_server: CountingServer, caplog: pytest.LogCaptureFixture
) -> None:
    one = fleet(redis)
    async with ConnectionManager(fleet=one) as mgr:
        conn = await mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10)
        redis.kill()
        await until(lambda: one.stats().state == "bare")
        await until(lambda: backend_server.open == 0)  # cut, in use as it was
        with pytest.raises(AllocateTimeout, match="the fleet's store is away") as caught:
            await mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=0.1)
        assert caught.value.function == "fleet"
        conn.discard()
        redis.start()
        async with mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10):
            assert one.stats().state == "leased"
    assert "the lease has ended" in caplog.text


@pytest.mark.parametrize("fallback", ["share", "local"])
async def test_what_counts_while_the_store_is_away(
    redis: RedisServer, backend_server: CountingServer, fallback: str
) -> None:
    one = fleet(redis, fallback=fallback, fallback_for=60)
    port = backend_server.port
    async with (
        ConnectionManager(fleet=fleet(redis)),
        ConnectionManager(fleet=one, max_per_host=5) as mgr,
        AsyncExitStack() as stack,
    ):
        for _ in range(4):
            await stack.enter_async_context(await mgr.allocate("tcp", "127.0.0.1", port, timeout=10))
        redis.signal(signal.SIGSTOP)
        await until(lambda: one.stats().state == "fallback")
        try:
            if fallback == "share":
                assert mgr.stats().open == 2  # 4 // 2 members: the others are cut
            else:
                await stack.enter_async_context(await mgr.allocate("tcp", "127.0.0.1", port, timeout=10))
                assert mgr.stats().open == 5
        finally:
            redis.signal(signal.SIGCONT)


async def test_lowered_limits_are_met_within_a_lease(
    redis: RedisServer, backend_server: CountingServer
) -> None:
    one = fleet(redis)
    key = f"tcp://127.0.0.1:{backend_server.port}"
    async with ConnectionManager(fleet=one) as mgr:
        lent = [await mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10) for _ in range(4)]
        await set_limit(redis.url, "f", 2, key)
        await until(lambda: backend_server.open == 2)
        await until(lambda: one.stats().held == 2)
        found = await status(redis.url, "f")
        assert found.limits == {key: 2}
        assert [one.limit for one in found.keys if one.key == key] == [2]
        await set_limit(redis.url, "f", None, key)
        lent += [await mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10) for _ in range(2)]
        await until(lambda: backend_server.open == 4)
        for conn in lent:
            conn.discard()


async def test_the_lowest_limit_counts_and_both_are_named(
    redis: RedisServer, backend_server: CountingServer, caplog: pytest.LogCaptureFixture
) -> None:
    port = backend_server.port
    low, high = fleet(redis, max_per_host=2), fleet(redis, max_per_host=3)
    async with ConnectionManager(fleet=low) as first, ConnectionManager(fleet=high) as second:
        async with first.allocate("tcp", "127.0.0.1", port, timeout=10):
            one = await second.allocate("tcp", "127.0.0.1", port, timeout=10)
            with pytest.raises(AllocateTimeout, match="of 2 held"):
                await second.allocate("tcp", "127.0.0.1", port, timeout=0.3)
            one.release()
        assert "is 3 here and 2 elsewhere" in caplog.text


async def test_places_come_back_at_once_at_a_good_end(
    redis: RedisServer, backend_server: CountingServer
) -> None:
    async with ConnectionManager(fleet=fleet(redis)) as first:
        async with ConnectionManager(fleet=fleet(redis)) as second:
            lent = [
                await second.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10) for _ in "1234"
            ]
            waiting = first.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10)
        async with waiting:  # served although the other one's were never given back
            assert len((await status(redis.url, "f")).members) == 1
        for conn in lent:
            conn.discard()
    assert (await status(redis.url, "f")).members == ()


async def test_no_server_is_told_at_once() -> None:
    with pytest.raises(FleetError, match="cannot be reached"):
        async with ConnectionManager(fleet=RedisFleet("redis://127.0.0.1:1", name="f", interval=0.2)):
            pass


async def test_a_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "secret") as server:
        for word in ("", ":bad@"):
            url = server.url.replace("//", f"//{word}")
            with pytest.raises(FleetError, match="refuses this user or password"):
                async with ConnectionManager(fleet=RedisFleet(url, name="f")):
                    pass
        async with ConnectionManager(fleet=RedisFleet(server.url.replace("//", "//:secret@"), name="f")):
            pass


@pytest.mark.parametrize("kind", ["text", "version"])
async def test_what_is_not_ours_is_told_at_once(redis: RedisServer, kind: str) -> None:
    async with coredis.Redis.from_url(redis.url) as client:
        if kind == "text":
            await client.set(META, "x")
        else:
            await client.hset(META, {"version": "0"})
    text = "something else is kept" if kind == "text" else "another version's form"
    with pytest.raises(FleetError, match=text):
        async with ConnectionManager(fleet=fleet(redis)):
            pass


async def test_what_becomes_another_kind_while_running_is_the_safe_side(
    redis: RedisServer, backend_server: CountingServer, caplog: pytest.LogCaptureFixture
) -> None:
    one = fleet(redis)
    async with ConnectionManager(fleet=one) as mgr:
        async with mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10):
            pass
        async with coredis.Redis.from_url(redis.url) as client:
            await client.delete([META])
            await client.set(META, "x")
            await until(lambda: one.stats().state == "bare")
            await until(lambda: backend_server.open == 0)
            await client.delete([META])
        async with mgr.allocate("tcp", "127.0.0.1", backend_server.port, timeout=10):
            pass
    assert "something else is kept" in caplog.text


async def test_a_fleet_is_for_one_manager(redis: RedisServer) -> None:
    one = fleet(redis)
    async with ConnectionManager(fleet=one):
        with pytest.raises(FleetError, match="for one manager"):
            async with ConnectionManager(fleet=one):
                pass


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"url": 1}, "url"),
        ({"url": "http://x"}, "url"),
        ({"name": ""}, "name"),
        ({"name": "a{b}"}, "name"),
        ({"name": 3}, "name"),
        ({"max_per_host": 0}, "max_per_host"),
        ({"max_per_host": True}, "max_per_host"),
        ({"max_per_host": {"a": -1}}, "max_per_host"),
        ({"max_per_host": {7: 1}}, "max_per_host"),
        ({"max_open": 0}, "max_open"),
        ({"fallback": "all"}, "fallback"),
        ({"weight": 0}, "weight"),
        ({"weight": "1"}, "weight"),
        ({"interval": 0}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"lease": 1.0}, "lease"),
        ({"fallback_for": -1}, "fallback_for"),
    ],
)
def test_wrong_arguments_are_named(keywords: dict[str, Any], named: str) -> None:
    url = keywords.pop("url", "redis://127.0.0.1")
    with pytest.raises((TypeError, ValueError), match=named):
        RedisFleet(url, **{"name": "f", **keywords})


def test_limits_by_place(caplog: pytest.LogCaptureFixture) -> None:
    from keepalive import Key
    from keepalive.fleet.limits import Limits

    caplog.set_level(logging.WARNING)
    limits = Limits(
        {"a": 1, "a:80": 2, ("http", "b"): 3, ("http", "b", 81): 4, "https": 5, "*": 6, "c": None}
    )
    found = [
        limits.of(Key(scheme, host, port, scheme, host, port))
        for scheme, host, port in (
            ("http", "a", 1),
            ("http", "a", 80),
            ("http", "b", 1),
            ("http", "b", 81),
            ("https", "b", 81),
            ("tcp", "d", 1),
            ("tcp", "c", 1),
        )
    ]
    assert found == [1, 2, 3, 4, 5, 6, float("inf")]


async def test_a_manager_cancelled_while_it_joins_leaves_nothing(redis: RedisServer) -> None:
    redis.signal(signal.SIGSTOP)
    try:
        with anyio.move_on_after(0.1) as scope:
            async with ConnectionManager(fleet=fleet(redis, interval=5, lease=10)):
                pass
        assert scope.cancelled_caught
    finally:
        redis.signal(signal.SIGCONT)
