"""The exclusive life cycle's hooks, against a real server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive.redis import BadReply, NoReply, RedisLifecycle, RedisMultiplexed, ReplyError
from tests.redis.kit import ask, exclusive, plain
from tests.support import Behaviour, Peer, Server, Silent
from tests.support.redis import RedisServer, redis_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("protocol", [2, 3])
async def test_it_introduces_itself(redis: RedisServer, protocol: int) -> None:
    lifecycle = RedisLifecycle(db=4, client_name="here", protocol=protocol)
    async with exclusive(redis.port, lifecycle) as (conn, session):
        assert [(c["db"], c["resp"]) for c in redis.clients("here")] == [("4", str(protocol))]
        assert await ask(conn, session, "SET", "k", 1.5) == b"OK"
        assert session.server.get("server") == ("redis" if protocol == 3 else None)
    assert redis.cli("-n", "4", "GET", "k") == "1.5"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(("user", "password"), [(None, "right"), ("ann", "ann's")])
async def test_who_it_is(guarded: RedisServer, protocol: int, user: str | None, password: str) -> None:
    lifecycle = RedisLifecycle(user, password, protocol=protocol)
    async with exclusive(guarded.port, lifecycle) as (conn, session):
        assert await ask(conn, session, "ACL", "WHOAMI") == (user or "default").encode()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("lifecycle", [RedisLifecycle, RedisMultiplexed])
async def test_a_wrong_password(guarded: RedisServer, protocol: int, lifecycle: Any) -> None:
    async with plain(guarded.port) as conn:
        with pytest.raises(ReplyError) as caught:
            await lifecycle(password="wrong", db=1, protocol=protocol).opened(conn, conn.key)
    assert caught.value.code == "WRONGPASS"


async def test_no_password(guarded: RedisServer) -> None:
    async with plain(guarded.port) as conn:
        with pytest.raises(ReplyError) as caught:
            await RedisLifecycle().opened(conn, conn.key)
        assert caught.value.code == "NOAUTH"
    async with exclusive(guarded.port, RedisLifecycle(protocol=2)) as (conn, session):
        with pytest.raises(ReplyError, match="NOAUTH"):
            await RedisLifecycle(protocol=2).check(conn, session)


async def test_a_database_that_is_not_there(redis: RedisServer) -> None:
    async with plain(redis.port) as conn:
        with pytest.raises(ReplyError, match="out of range"):
            await RedisLifecycle(db=99).opened(conn, conn.key)


async def test_a_server_that_loads_its_data_is_alive(tmp_path: Path) -> None:
    with redis_server(
        tmp_path, "--enable-debug-command", "local", "--enable-protected-configs", "yes"
    ) as server:
        server.cli("DEBUG", "POPULATE", "2000")
        server.cli("SAVE")
        server.kill()
        server.start("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
        lifecycle = RedisLifecycle()
        async with exclusive(server.port, lifecycle) as (conn, session):
            reply = await ask(conn, session, "GET", "key:1")
            assert isinstance(reply, ReplyError)
            assert reply.code == "LOADING"
            await lifecycle.check(conn, session)


async def test_a_healthy_connection_passes_the_check(redis: RedisServer) -> None:
    lifecycle = RedisLifecycle()
    async with exclusive(redis.port, lifecycle) as (conn, session):
        for _ in range(3):
            await lifecycle.check(conn, session)
        assert await ask(conn, session, "PING") == b"PONG"


async def test_a_killed_connection_fails_the_check(redis: RedisServer) -> None:
    lifecycle = RedisLifecycle(client_name="victim")
    async with exclusive(redis.port, lifecycle) as (conn, session):
        redis.cli("CLIENT", "KILL", "ID", redis.clients("victim")[0]["id"])
        with pytest.raises(NoReply):
            await lifecycle.check(conn, session)


async def test_a_paused_server_holds_the_check_up_until_it_is_cancelled(redis: RedisServer) -> None:
    lifecycle = RedisLifecycle()
    async with exclusive(redis.port, lifecycle) as (conn, session):
        redis.cli("CLIENT", "PAUSE", "100")
        with anyio.move_on_after(0.02) as scope:
            await lifecycle.check(conn, session)
        assert scope.cancelled_caught
    await until(lambda: redis.cli("PING") == "PONG")


async def test_pushes_while_idle_are_taken_in(redis: RedisServer) -> None:
    pushes: list[list[Any]] = []
    lifecycle = RedisLifecycle(on_push=pushes.append)
    async with exclusive(redis.port, lifecycle) as (conn, session):
        await ask(conn, session, "CLIENT", "TRACKING", "ON")
        await ask(conn, session, "GET", "k")
        redis.cli("SET", "k", "v")
        data = await conn.receive()
        assert lifecycle.received(session, data[:5]) == b""
        assert not pushes
        assert lifecycle.received(session, data[5:]) == b""
        assert pushes == [[b"invalidate", [b"k"]]]
        assert await ask(conn, session, "GET", "k") == b"v"


@pytest.mark.parametrize(
    "data", [b"+OK\r\n", b"-ERR gone\r\n", b">1\r\n+x\r\n$1\r\na\r\n", b"nonsense\r\n", b">1\r\n$9999999\r\n"]
)
async def test_anything_else_while_idle_is_refused(redis: RedisServer, data: bytes) -> None:
    lifecycle = RedisLifecycle()
    async with exclusive(redis.port, lifecycle) as (_, session):
        verdict = lifecycle.received(session, data)
        while verdict is not None and data.endswith(b"9\r\n"):
            verdict = lifecycle.received(session, b"x" * 65536)  # a push without an end
        assert verdict is None


async def test_a_listener_that_fails_is_logged(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    def fail(push: list[Any]) -> None:
        raise LookupError(push)

    lifecycle = RedisLifecycle(on_push=fail)
    async with exclusive(redis.port, lifecycle) as (_, session):
        with caplog.at_level(logging.ERROR, "keepalive"):
            assert lifecycle.received(session, b">1\r\n+x\r\n") == b""
    assert "on_push failed" in caplog.text


class Says(Behaviour):
    """Answers whatever comes with these bytes, and hangs up if there are none."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply

    def received(self, peer: Peer, data: bytes) -> None:
        if self.reply:
            peer.send(self.reply)
        else:
            peer.close()


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (b"", NoReply, "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n", BadReply, "Protocol error"),
        (b"%0\r\n+more\r\n", BadReply, "more replies"),
        (b"*1\r\n" * 20_000, BadReply, "nesting depth"),
        (b"*-5\r\n", BadReply, "length out of range"),
        (b"-ERR unknown command 'HELLO'\r\n", ReplyError, "unknown command"),
    ],
)
async def test_peers_that_are_no_redis(reply: bytes, error: type[Exception], told: str) -> None:
    with Server(Says(reply)) as server:
        async with plain(server.port) as conn:
            with pytest.raises(error, match=told):
                await RedisLifecycle().opened(conn, conn.key)


async def test_the_set_up_can_be_cancelled() -> None:
    with Server(Silent()) as server:
        async with plain(server.port) as conn:
            with anyio.move_on_after(0.02) as scope:
                await RedisLifecycle().opened(conn, conn.key)
            assert scope.cancelled_caught


@pytest.mark.parametrize("kind", [RedisLifecycle, RedisMultiplexed])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"db": -1}, ValueError),
        ({"db": "0"}, TypeError),
        ({"protocol": 4}, ValueError),
        ({"username": "ann"}, ValueError),
        ({"password": b"secret"}, TypeError),
        ({"client_name": "two words"}, ValueError),
        ({"on_push": 5}, TypeError),
    ],
)
def test_wrong_arguments(kind: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))) as caught:
        kind(**options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"capacity": 0}, ValueError), ({"capacity": 1.5}, TypeError), ({"reply_timeout": 0}, ValueError)],
)
def test_wrong_arguments_of_shares(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        RedisMultiplexed(**options)


def test_a_password_is_shown_nowhere() -> None:
    for lifecycle in (RedisLifecycle(password="hunter2"), RedisMultiplexed(password="hunter2")):
        assert "hunter2" not in repr(lifecycle)
