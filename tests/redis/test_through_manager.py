"""Redis's life cycles in a manager's care, on every loop, against a real server."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import CloseReason, ConnectionManager, TLSConnector
from keepalive.errors import AllocateTimeout, SetupError
from keepalive.redis import Commands, NoReply, RedisLifecycle, RedisMultiplexed, ReplyError
from tests.support.waiting import until

if TYPE_CHECKING:
    import ssl

    from keepalive import Request
    from tests.support.redis import RedisServer

    Kind = type[RedisLifecycle | RedisMultiplexed]


def manager(lifecycle: Any, **options: Any) -> ConnectionManager:
    return ConnectionManager(lifecycles={"redis": lifecycle}, **options)


def ask(mgr: ConnectionManager, redis: RedisServer, timeout: float = 5) -> Request:
    return mgr.allocate("redis", redis.host, redis.port, timeout)


@pytest.fixture(params=[RedisLifecycle, RedisMultiplexed], ids=["exclusive", "shared"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


async def test_it_is_set_up_once_and_stays_from_user_to_user(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind(db=3, client_name="one")) as mgr:
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("SET", "k", "v") == b"OK"
            state = conn.state
        for _ in range(3):
            async with ask(mgr, redis) as conn:
                assert conn.state is state
                assert await Commands(conn).execute("GET", "k") == b"v"
        assert [client["db"] for client in redis.clients("one")] == ["3"]
        assert mgr.stats().opened == 1


async def test_a_refused_set_up_is_the_requests_error(guarded: RedisServer, kind: Kind) -> None:
    async with manager(kind(password="wrong", db=1)) as mgr:
        with pytest.raises(SetupError, match="WRONGPASS") as caught:
            await ask(mgr, guarded)
        assert caught.value.function == "setup"
        assert isinstance(caught.value.__cause__, ReplyError)
        assert mgr.stats().open == 0


async def test_many_tasks_get_their_own_replies(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind(client_name="few"), max_per_host=3) as mgr:

        async def user(n: int) -> None:
            for turn in range(20):
                async with ask(mgr, redis) as conn:
                    assert await Commands(conn).execute("ECHO", f"{n}-{turn}") == f"{n}-{turn}".encode()

        async with anyio.create_task_group() as tasks:
            for n in range(40):
                tasks.start_soon(user, n)
        assert len(redis.clients("few")) <= 3
        stats = mgr.stats()
        assert (stats.lent, stats.waiting, dict(stats.closed)) == (0, 0, {})


async def test_cancelled_at_random_nobody_gets_anothers_reply(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind(), max_per_host=2) as mgr:
        scopes: list[anyio.CancelScope] = []
        done = 0

        async def user(n: int) -> None:
            nonlocal done
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                for turn in range(20):
                    async with ask(mgr, redis) as conn:
                        reply = await Commands(conn).execute("ECHO", f"{n}-{turn}")
                        assert reply == f"{n}-{turn}".encode()
                done += 1

        async with anyio.create_task_group() as tasks:
            for n in range(60):
                tasks.start_soon(user, n)
            await until(lambda: len(scopes) == 60)
            for unlucky in random.Random(7).sample(scopes, 30):
                unlucky.cancel()
                await anyio.lowlevel.checkpoint()
        assert done >= 30
        assert (mgr.stats().lent, mgr.stats().waiting) == (0, 0)
        if kind is RedisMultiplexed:
            assert mgr.stats().opened <= 2
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("ECHO", "end") == b"end"


async def test_a_storm_of_cancellations_loses_nothing(redis: RedisServer, kind: Kind) -> None:
    """Three thousand requests, three in ten of them given up at some moment; the server counts, too."""
    chance = random.Random(11)
    async with manager(kind(client_name="storm"), max_per_host=4) as mgr:
        right = 0

        async def user(n: int) -> None:
            nonlocal right
            for turn in range(60):
                seconds = chance.random() * 0.01 if chance.random() < 0.3 else 60
                with anyio.move_on_after(seconds):
                    async with ask(mgr, redis, timeout=60) as conn:
                        reply = await Commands(conn).execute("ECHO", f"{n}-{turn}")
                        assert reply == f"{n}-{turn}".encode()
                        right += 1

        async with anyio.create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(user, n)
        assert right >= 2000
        stats = mgr.stats()
        assert (stats.lent, stats.waiting, stats.requests) == (0, 0, 3000)
        assert stats.open <= 4
        await until(lambda: len(redis.clients("storm")) == mgr.stats().open)


async def test_a_command_that_is_cancelled_within_the_block(redis: RedisServer, kind: Kind) -> None:
    """The block itself ends well, and still nobody gets the late reply."""
    async with manager(kind(), max_per_host=1) as mgr:
        redis.cli("CLIENT", "PAUSE", "100", "WRITE")
        async with ask(mgr, redis) as conn:
            with anyio.move_on_after(0.02):
                await Commands(conn).execute("SET", "k", "late")
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("GET", "other") is None
        assert mgr.stats().opened == (2 if kind is RedisLifecycle else 1)


async def test_an_error_reply_keeps_the_connection(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind()) as mgr:
        async with ask(mgr, redis) as conn:
            with pytest.raises(ReplyError, match="WRONGTYPE"):
                await Commands(conn).pipeline([("LPUSH", "list", "a"), ("INCR", "list"), ("PING",)])
            mixed = await Commands(conn).pipeline([("INCR", "list"), ("PING",)], raise_on_error=False)
            assert isinstance(mixed[0], ReplyError)
            assert mixed[1] == b"PONG"
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("LLEN", "list") == 1
        assert mgr.stats().opened == 1


async def test_a_transaction(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind()) as mgr, ask(mgr, redis) as conn:
        replies = await Commands(conn).pipeline([("MULTI",), ("INCR", "n"), ("GET", "n"), ("EXEC",)])
        assert replies == [b"OK", b"QUEUED", b"QUEUED", [1, b"1"]]


async def test_a_server_that_is_killed_and_comes_back(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind(), max_per_host=100) as mgr:
        told: list[Exception] = []

        async def user() -> None:
            async with ask(mgr, redis) as conn:
                with pytest.raises(NoReply) as caught:
                    await Commands(conn).execute("SET", "k", "v")
                told.append(caught.value)

        redis.cli("CLIENT", "PAUSE", "10000", "WRITE")
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(user)
            blocked = 20 if kind is RedisLifecycle else 1
            await until(lambda: f"blocked_clients:{blocked}" in redis.cli("INFO", "clients").split())
            redis.kill()
        assert len(set(map(id, told))) == 20
        redis.start()
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("PING") == b"PONG"
        assert mgr.stats().lent == 0


async def test_a_connection_that_was_killed_while_idle_serves_nobody(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind(client_name="idle")) as mgr:
        async with ask(mgr, redis):
            pass
        redis.cli("CLIENT", "KILL", "ID", redis.clients("idle")[0]["id"])
        await until(lambda: mgr.stats().idle == 0)
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("PING") == b"PONG"
        assert mgr.stats().opened == 2


async def test_pushes_while_idle_keep_the_connection(redis: RedisServer, kind: Kind) -> None:
    pushes: list[list[Any]] = []
    async with manager(kind(on_push=pushes.append)) as mgr:
        async with ask(mgr, redis) as conn:
            await Commands(conn).pipeline([("CLIENT", "TRACKING", "ON"), ("GET", "k")])
        redis.cli("SET", "k", "new")
        await until(lambda: bool(pushes))
        assert pushes == [[b"invalidate", [b"k"]]]
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("GET", "k") == b"new"
        assert mgr.stats().opened == 1


async def test_after_a_rest_it_is_checked(guarded: RedisServer) -> None:
    async with manager(RedisLifecycle(password="right"), check_after=0) as mgr:
        async with ask(mgr, guarded) as conn:
            await Commands(conn).execute("PING")
        async with ask(mgr, guarded) as conn:
            assert not conn.is_new
            await Commands(conn).execute("RESET")  # what no user should do: it is logged out now
        async with ask(mgr, guarded) as conn:
            assert conn.is_new
            assert await Commands(conn).execute("PING") == b"PONG"
        assert mgr.stats().closed == {CloseReason.CHECK: 1}


async def test_borrowers_beyond_the_capacity_get_another_connection(redis: RedisServer) -> None:
    async with manager(RedisMultiplexed(capacity=2, client_name="two"), max_per_host=2) as mgr:
        held = [await ask(mgr, redis) for _ in range(4)]
        assert len({id(conn.state) for conn in held}) == 2
        assert len(redis.clients("two")) == 2
        with pytest.raises(AllocateTimeout):
            await ask(mgr, redis, timeout=0.02)
        held.pop().release()
        held.append(await ask(mgr, redis))
        for conn in held:
            assert await Commands(conn).execute("PING") == b"PONG"
            conn.release()


async def test_who_gave_it_back_sends_no_more(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind()) as mgr:
        async with ask(mgr, redis) as conn:
            commands = Commands(conn)
            assert await commands.execute("PING") == b"PONG"
        with pytest.raises(anyio.ClosedResourceError):
            await commands.execute("PING")
        with pytest.raises(anyio.ClosedResourceError):
            await commands.pipeline([("PING",)])


async def test_without_a_life_cycle_there_are_no_commands(redis: RedisServer) -> None:
    async with ConnectionManager() as mgr, ask(mgr, redis) as conn:
        with pytest.raises(TypeError, match="lifecycles="):
            Commands(conn)


@pytest.mark.parametrize("way", ["unix", "rediss"])
async def test_other_ways_to_the_server(
    redis: RedisServer, kind: Kind, client_context: ssl.SSLContext, way: str
) -> None:
    place = ("unix", str(redis.path), 0) if way == "unix" else ("rediss", "localhost", redis.tls_port)
    async with ConnectionManager(
        lifecycles={way: kind()}, connectors={"rediss": TLSConnector(client_context)}
    ) as mgr:
        big = "x" * 1_000_000
        async with mgr.allocate(*place, 5) as conn:
            assert await Commands(conn).execute("SET", "k", big) == b"OK"
        async with mgr.allocate(*place, 5) as conn:
            assert await Commands(conn).execute("GET", "k") == big.encode()
        assert mgr.stats().opened == 1


async def test_a_connection_opened_in_advance_is_set_up(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind(client_name="ready")) as mgr:
        await mgr.preconnect("redis", redis.host, redis.port)
        assert len(redis.clients("ready")) == 1
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("PING") == b"PONG"
        assert mgr.stats().opened == 1


async def test_commands_that_the_connection_cannot_carry(redis: RedisServer, kind: Kind) -> None:
    async with manager(kind()) as mgr:
        async with ask(mgr, redis) as conn:
            for command in (("SUBSCRIBE", "c"), ("MONITOR",), ("CLIENT", "REPLY", "OFF")):
                with pytest.raises(ValueError, match=command[0]):
                    await Commands(conn).execute(*command)
            if kind is RedisLifecycle:
                assert await Commands(conn).execute("BLPOP", "q", 0.01) is None
        async with ask(mgr, redis) as conn:
            assert await Commands(conn).execute("PING") == b"PONG"
        assert mgr.stats().opened == 1
