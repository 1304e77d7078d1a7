"""redis-py's own commands, over a manager's connections."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    NoScriptError,
    ResponseError,
    WatchError,
)

from keepalive import ConnectionManager, TLSConnector
from keepalive.redis import ConnectionPool
from tests.redis.kit import client
from tests.support.waiting import until

if TYPE_CHECKING:
    import ssl

    from tests.support.redis import RedisServer

pytestmark = pytest.mark.usefixtures("asyncio_only")


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def protocol(request: pytest.FixtureRequest) -> int:
    version: int = request.param
    return version


# -- what its users do ----------------------------------------------------------------------------------


async def test_commands_share_one_connection_that_is_set_up_once(redis: RedisServer, protocol: int) -> None:
    async with client(redis, path="/3", protocol=protocol, client_name="one") as (mgr, db):
        assert await db.set("k", "v")
        assert await db.get("k") == b"v"
        assert await db.hset("h", mapping={"a": 1, "b": 2.5}) == 2
        assert await db.hgetall("h") == {b"a": b"1", b"b": b"2.5"}
        assert [(c["db"], c["resp"]) for c in redis.clients("one")] == [("3", str(protocol))]
        stats = mgr.stats()
        assert (stats.opened, stats.idle, stats.lent) == (1, 1, 0)
        assert stats.requests == 4
    assert redis.cli("-n", "3", "GET", "k") == "v"


async def test_replies_are_decoded_where_asked(redis: RedisServer, protocol: int) -> None:
    async with client(redis, decode_responses=True, protocol=protocol) as (_, db):
        await db.set("k", "grüße")
        assert await db.get("k") == "grüße"
        assert await db.execute_command("GET", "k", NEVER_DECODE=True) == "grüße".encode()


async def test_values_of_any_size_and_kind(redis: RedisServer) -> None:
    async with client(redis) as (mgr, db):
        big = bytes(range(256)) * 40_000
        await db.set("big", big)
        assert await db.get("big") == big
        await db.set("view", memoryview(b"view"))
        await db.set("float", 1.5)
        assert await db.mget("view", "float", "none") == [b"view", b"1.5", None]
        assert await db.config_get("maxmemory") == {"maxmemory": "0"}
        assert mgr.stats().opened == 1


async def test_pipelines_and_transactions(redis: RedisServer, protocol: int) -> None:
    async with client(redis, protocol=protocol) as (mgr, db):
        async with db.pipeline(transaction=False) as pipe:
            for n in range(500):
                pipe.set(f"k{n}", "x" * n)
            pipe.get("k499")
            assert (await pipe.execute())[-1] == b"x" * 499
        async with db.pipeline() as pipe:
            pipe.incr("n").lpush("n", "wrong kind").incr("n")
            with pytest.raises(ResponseError, match="LPUSH"):
                await pipe.execute()
        assert await db.get("n") == b"2"
        assert (mgr.stats().opened, mgr.stats().lent) == (1, 0)


async def test_a_watched_key_that_changes_fails_the_transaction(redis: RedisServer) -> None:
    async with client(redis) as (mgr, db):
        async with db.pipeline() as pipe:
            await pipe.watch("n")
            await db.set("n", 5)
            pipe.multi()
            pipe.set("n", 6)
            with pytest.raises(WatchError):
                await pipe.execute()
        assert await db.get("n") == b"5"
        assert mgr.stats().lent == 0


async def test_scripts(redis: RedisServer) -> None:
    async with client(redis) as (_, db):
        assert await db.eval("return {KEYS[1], ARGV[1]}", 1, "k", "a") == [b"k", b"a"]
        with pytest.raises(NoScriptError):
            await db.evalsha("0" * 40, 0)
        script = db.register_script("return redis.call('INCR', KEYS[1])")
        assert [await script(keys=["n"]) for _ in range(2)] == [1, 2]


async def test_publish_and_subscribe(redis: RedisServer, protocol: int) -> None:
    async with client(redis, protocol=protocol) as (mgr, db):
        async with db.pubsub() as listener:
            await listener.subscribe("news")
            await listener.psubscribe("old*")
            told = [await listener.get_message(timeout=5) for _ in range(2)]
            assert [message and message["type"] for message in told] == ["subscribe", "psubscribe"]
            await db.publish("news", "one")
            await db.publish("older", "two")
            told = [await listener.get_message(timeout=5) for _ in range(2)]
            assert [message and message["data"] for message in told] == [b"one", b"two"]
            assert await listener.get_message(timeout=0.01) is None
            assert mgr.stats().lent == 1
        assert mgr.stats().lent == 0
        assert await db.ping()  # and not an answer to the subscriber
        assert mgr.stats().closed == {"discarded": 1}


async def test_a_subscriber_subscribes_again_when_its_connection_was_killed(redis: RedisServer) -> None:
    async with client(redis, retry=Retry(NoBackoff(), 1)) as (_, db), db.pubsub() as listener:
        await listener.subscribe("news")
        assert (await listener.get_message(timeout=5))["type"] == "subscribe"
        redis.cli("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await listener.get_message(timeout=5))["type"] == "subscribe"
        redis.cli("PUBLISH", "news", "again")
        assert (await listener.get_message(timeout=5))["data"] == b"again"


async def test_blocking_pops_hold_their_connections_only(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 2}) as (mgr, db):
        waiting = asyncio.create_task(db.blpop("queue", timeout=5))
        await until(lambda: mgr.stats().lent == 1)
        assert await db.blpop("empty", timeout=0.01) is None
        await db.rpush("queue", "job")
        assert list(await waiting) == [b"queue", b"job"]
        assert mgr.stats().lent == 0


async def test_the_monitor(redis: RedisServer) -> None:
    async with client(redis) as (mgr, db):
        async with db.monitor() as monitor:
            await db.set("seen", "1")
            while (await monitor.next_command())["command"] != "SET seen 1":
                pass  # what the other connection was set up with
        assert await db.get("seen") == b"1"
        assert mgr.stats().lent == 0


async def test_a_client_of_one_connection(redis: RedisServer) -> None:
    async with client(redis) as (mgr, db):
        async with db.client() as one:
            await one.select(5)
            await one.set("k", "v")
            assert (await asyncio.gather(*(one.get("k") for _ in range(5)))) == [b"v"] * 5
            assert mgr.stats().lent == 1
        assert mgr.stats().lent == 0


# -- the manager's part -----------------------------------------------------------------------------------


async def test_many_tasks_share_few_connections_in_turn(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 3}, client_name="few") as (mgr, db):

        async def user(n: int) -> None:
            for turn in range(20):
                await db.set(f"k{n}", turn)
                assert await db.get(f"k{n}") == str(turn).encode()

        await asyncio.gather(*(user(n) for n in range(32)))
        assert len(redis.clients("few")) <= 3
        stats = mgr.stats()
        assert stats.opened <= 3
        assert (stats.lent, stats.waiting, stats.closed) == (0, 0, {})


async def test_two_pools_of_one_server_keep_their_databases_apart(redis: RedisServer) -> None:
    async with ConnectionManager() as mgr:
        dbs = [
            Redis(connection_pool=ConnectionPool(mgr, f"redis://127.0.0.1:{redis.port}/{n}"))
            for n in range(3)
        ]
        for n, db in enumerate(dbs):
            await db.set("k", n)
        assert [await db.get("k") for db in dbs] == [b"0", b"1", b"2"]
        assert mgr.stats().opened == 3


async def test_a_connection_that_was_killed_while_idle_serves_nobody(redis: RedisServer) -> None:
    async with client(redis, client_name="idle") as (mgr, db):
        await db.ping()
        redis.cli("CLIENT", "KILL", "ID", redis.clients("idle")[0]["id"])
        await until(lambda: mgr.stats().idle == 0)
        assert await db.ping()
        assert mgr.stats().opened == 2
        assert mgr.stats().closed == {"peer": 1}


async def test_unix_sockets(redis: RedisServer) -> None:
    async with ConnectionManager() as mgr:
        db = Redis(connection_pool=ConnectionPool(mgr, f"unix://{redis.path}?db=2"))
        await db.set("k", "v")
        assert await db.get("k") == b"v"
        assert mgr.stats().opened == 1
    assert redis.cli("-n", "2", "GET", "k") == "v"


async def test_tls(redis: RedisServer, client_context: ssl.SSLContext) -> None:
    async with ConnectionManager(connectors={"rediss": TLSConnector(client_context)}) as mgr:
        db = Redis(connection_pool=ConnectionPool(mgr, f"rediss://localhost:{redis.tls_port}/0"))
        big = "x" * 1_000_000
        await db.set("k", big)
        assert await db.get("k") == big.encode()
        assert mgr.stats().opened == 1


async def test_without_a_connector_for_tls_nothing_is_sent(redis: RedisServer) -> None:
    async with ConnectionManager() as mgr:
        db = Redis(connection_pool=ConnectionPool(mgr, f"rediss://:secret@127.0.0.1:{redis.port}/0"))
        with pytest.raises(ValueError, match="no connector with TLS"):
            await db.ping()
        assert mgr.stats().open == 0


async def test_closing_the_pool_closes_its_connections_and_no_others(redis: RedisServer) -> None:
    async with ConnectionManager() as mgr:
        pools = [ConnectionPool(mgr, f"redis://127.0.0.1:{redis.port}") for _ in range(2)]
        for pool in pools:
            await Redis(connection_pool=pool).ping()
        busy = await pools[0].get_connection()
        async with Redis.from_pool(pools[0]):
            pass
        assert mgr.stats().idle == 1
        assert not busy.is_connected
        await pools[0].release(busy)
        assert await Redis(connection_pool=pools[0]).ping()  # the pool itself goes on
        assert mgr.stats().opened == 3


async def test_a_dropped_connection_gives_its_place_back(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 1}) as (mgr, db):
        listener = db.pubsub()
        await listener.subscribe("news")
        assert mgr.stats().lent == 1
        del listener
        with pytest.warns(ResourceWarning, match="dropped"):
            gc.collect()  # redis-py's objects know each other
        await until(lambda: mgr.stats().lent == 0)
        assert await db.ping()
