"""Many borrowers' commands on one connection, on every loop, against a real server."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive.redis import BadReply, NoReply, RedisMultiplexed, ReplyError
from tests.redis.kit import Shares, plain, shared
from tests.support import Behaviour, Peer, Server, Silent
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.redis import RedisServer


async def test_each_gets_the_replies_to_his_own_commands(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed(client_name="one")) as (state, shares):
        assert state.server["proto"] == 3

        async def user(n: int) -> None:
            for turn in range(30):
                assert await state.execute("ECHO", f"{n}-{turn}") == f"{n}-{turn}".encode()

        async with anyio.create_task_group() as tasks:
            for n in range(64):
                tasks.start_soon(user, n)
        assert shares.capacity == 100
        assert len(redis.clients("one")) == 1


async def test_what_is_asked_together_is_sent_together(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed()) as (state, _):
        await state.execute("CONFIG", "RESETSTAT")

        async def user() -> None:
            await state.execute("PING")

        async with anyio.create_task_group() as tasks:
            for _ in range(64):
                tasks.start_soon(user)
        told = await state.execute("INFO", "stats")
        reads = next(line for line in told.splitlines() if line.startswith(b"total_reads_processed"))
        assert int(reads.partition(b":")[2]) <= 8


async def test_an_error_is_its_askers_only(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed()) as (state, _):
        await state.execute("SET", "text", "a")
        with pytest.raises(ReplyError, match="not an integer") as caught:
            await state.execute("INCR", "text")
        assert caught.value.code == "ERR"
        assert await state.execute("GET", "text") == b"a"


async def test_pipelines_stay_together(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed()) as (state, _):

        async def user(n: int) -> None:
            for _ in range(10):
                replies = await state.pipeline([("MULTI",), ("SET", "k", n), ("GET", "k"), ("EXEC",)])
                assert replies[-1] == [b"OK", str(n).encode()]

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(user, n)
        mixed = await state.pipeline([("INCR", "k"), ("LPUSH", "k", 1)], raise_on_error=False)
        assert isinstance(mixed[1], ReplyError)
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            await state.pipeline([("LPUSH", "k", 1), ("INCR", "k")])
        assert int(await state.execute("GET", "k")) == mixed[0] + 1


async def test_a_cancelled_borrower_disturbs_nobody(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed(client_name="one")) as (state, _):
        served = 0
        scopes: list[anyio.CancelScope] = []

        async def user(n: int) -> None:
            nonlocal served
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                for turn in range(20):
                    assert await state.execute("ECHO", f"{n}-{turn}") == f"{n}-{turn}".encode()
                served += 1

        async with anyio.create_task_group() as tasks:
            for n in range(60):
                tasks.start_soon(user, n)
            await until(lambda: len(scopes) == 60)
            for unlucky in random.Random(7).sample(scopes, 30):
                unlucky.cancel()
                await anyio.lowlevel.checkpoint()
        assert served >= 30
        assert await state.execute("ECHO", "end") == b"end"
        assert len(redis.clients("one")) == 1


async def test_its_death_tells_each_who_waits_once(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed(client_name="one")) as (state, _):
        told: list[Exception] = []

        async def user() -> None:
            with pytest.raises(NoReply) as caught:
                await state.execute("SET", "k", "v")
            told.append(caught.value)

        redis.cli("CLIENT", "PAUSE", "3000", "WRITE")
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(user)
                await until(lambda: "blocked_clients:1" in redis.cli("INFO", "clients"))
                redis.cli("CLIENT", "KILL", "ID", redis.clients("one")[0]["id"])
        finally:
            redis.cli("CLIENT", "UNPAUSE")
        assert len(set(map(id, told))) == 50
        with pytest.raises(NoReply, match="closed"):
            await state.execute("PING")


async def test_when_its_task_is_cancelled_each_who_waits_is_told(redis: RedisServer) -> None:
    redis.cli("CLIENT", "PAUSE", "2000", "WRITE")
    try:
        async with anyio.create_task_group() as tasks:

            async def user(state: Any) -> None:
                with pytest.raises(NoReply, match="closed"):
                    await state.execute("SET", "k", "v")

            async with shared(redis.port, RedisMultiplexed()) as (state, _):
                for _ in range(5):
                    tasks.start_soon(user, state)
                await until(lambda: "blocked_clients:1" in redis.cli("INFO", "clients"))
    finally:
        redis.cli("CLIENT", "UNPAUSE")


async def test_a_peer_that_falls_silent_is_given_up() -> None:
    with Server(Silent()) as server:
        async with shared(server.port, RedisMultiplexed(protocol=2, reply_timeout=0.05)) as (state, _):
            with pytest.raises(NoReply, match=r"no reply for 0\.05 seconds"):
                await state.execute("PING")


async def test_a_quiet_connection_is_not_given_up(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed(reply_timeout=0.02)) as (state, _):
        for _ in range(3):
            await anyio.sleep(0.05)
            assert await state.execute("PING") == b"PONG"


class Says(Behaviour):
    """Answers whatever comes with these bytes."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply

    def received(self, peer: Peer, data: bytes) -> None:
        peer.send(self.reply)


@pytest.mark.parametrize(
    ("reply", "told"), [(b"+PONG\r\n+PONG\r\n", "nobody asked for"), (b"HTTP/1.1 200\r\n", "Protocol error")]
)
async def test_what_is_no_reply_ends_the_connection(reply: bytes, told: str) -> None:
    with Server(Says(reply)) as server:
        async with plain(server.port) as conn:
            lifecycle = RedisMultiplexed(protocol=2)
            state = await lifecycle.opened(conn, conn.key)
            answers: list[Any] = []

            async def user() -> None:
                try:
                    answers.append(await state.execute("PING"))
                except NoReply as exc:
                    answers.append(exc)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(user)
                with pytest.raises(BadReply, match=told):
                    await lifecycle.run(conn, state, Shares())
            assert answers[0] == b"PONG" or told in str(answers[0])


async def test_pushes_come_between_replies(redis: RedisServer) -> None:
    pushes: list[list[Any]] = []
    lifecycle = RedisMultiplexed(on_push=pushes.append)
    async with shared(redis.port, lifecycle) as (state, _):
        await state.execute("CLIENT", "TRACKING", "ON")
        await state.execute("GET", "k")
        redis.cli("SET", "k", "v")
        await until(lambda: bool(pushes))
        assert pushes == [[b"invalidate", [b"k"]]]
        assert await state.execute("GET", "k") == b"v"


@pytest.mark.parametrize(
    "command",
    [
        ("BLPOP", "q", 0),
        (b"subscribe", "c"),
        ("MULTI",),
        ("Select", 1),
        ("WATCH", "k"),
        ("XREAD", "BLOCK", 0, "STREAMS", "s", "$"),
        ("CLIENT", "REPLY", "OFF"),
        (),
    ],
)
async def test_commands_that_concern_everybody_are_refused(
    redis: RedisServer, command: tuple[Any, ...]
) -> None:
    async with shared(redis.port, RedisMultiplexed()) as (state, _):
        with pytest.raises(ValueError, match=r"connection|reply|name|pipeline|REPLY"):
            await state.execute(*command)
        with pytest.raises(ValueError, match=r"connection|reply|name|MULTI|REPLY"):
            await state.pipeline([("PING",), command])
        assert await state.execute("PING") == b"PONG"


async def test_arguments_that_are_none(redis: RedisServer) -> None:
    async with shared(redis.port, RedisMultiplexed()) as (state, _):
        with pytest.raises(TypeError, match="not None"):
            await state.execute("SET", "k", None)  # type: ignore[arg-type]  # the mistake
        with pytest.raises(TypeError, match="tuple"):
            await state.pipeline(["PING"])  # type: ignore[list-item]  # the mistake
        with pytest.raises(ValueError, match="commands must not be empty"):
            await state.pipeline([])
        assert await state.execute("PING") == b"PONG"
