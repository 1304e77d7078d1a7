"""What goes wrong with redis-py over a manager's connections."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.auth.token import SimpleToken
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    TimeoutError,
)

from keepalive import ConnectionManager
from keepalive.redis import ConnectionPool, RedisLifecycle
from tests.redis.kit import client
from tests.support import Server, refused_port
from tests.support.redis import RedisServer, redis_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("asyncio_only")


async def test_a_cancelled_command_leaves_its_reply_to_nobody(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 1}, socket_timeout=None) as (mgr, db):
        await db.ping()
        redis.cli("CLIENT", "PAUSE", "100", "WRITE")
        with anyio.move_on_after(0.02) as scope:
            await db.set("k", "late")
        assert scope.cancelled_caught
        assert await db.get("other") is None
        assert mgr.stats().closed == {"discarded": 1}


async def test_cancelled_at_random_everybody_gets_his_own_replies(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 2}) as (mgr, db):

        async def user(n: int) -> int:
            for turn in range(20):
                assert await db.echo(f"{n}-{turn}") == f"{n}-{turn}".encode()
            return n

        users = [asyncio.create_task(user(n)) for n in range(60)]
        for unlucky in random.Random(7).sample(users, 30):
            await until(lambda: mgr.stats().lent == 2)
            unlucky.cancel()
        ended = await asyncio.gather(*users, return_exceptions=True)
        assert sum(isinstance(n, int) for n in ended) >= 30
        assert not [error for error in ended if isinstance(error, Exception)]
        assert mgr.stats().lent == 0
        assert await db.echo("end") == b"end"


async def test_a_reply_that_nobody_read_closes_the_connection(redis: RedisServer) -> None:
    async with client(redis) as (mgr, db):
        pool = db.connection_pool
        connection = await pool.get_connection()
        await connection.send_command("PING")
        await pool.release(connection)
        assert await db.echo("mine") == b"mine"
        assert mgr.stats().closed == {"discarded": 1}


async def test_a_callback_that_fails_within_a_pipeline_leaves_no_replies(redis: RedisServer) -> None:
    def fail(answer: object) -> None:
        raise LookupError

    async with client(redis, manager={"max_per_host": 1}) as (mgr, db):
        db.set_response_callback("ECHO", fail)
        async with db.pipeline(transaction=False) as pipe:
            pipe.execute_command("ECHO", "a")
            pipe.execute_command("GET", "b")
            with pytest.raises(LookupError):
                await pipe.execute()
        assert await db.ping()
        assert mgr.stats().closed == {"discarded": 1}


async def test_a_wrong_password_is_refused_as_redis_py_does(redis: RedisServer) -> None:
    redis.cli("CONFIG", "SET", "requirepass", "right")
    try:
        for given, error in (
            (":wrong@", AuthenticationError),
            ("", AuthenticationError),
            (":right@", None),
        ):
            async with ConnectionManager() as mgr:
                url = f"redis://{given}127.0.0.1:{redis.port}/0"
                db = Redis(connection_pool=ConnectionPool(mgr, url))
                if error is None:
                    assert await db.ping()
                else:
                    with pytest.raises(error):
                        await db.ping()
                    assert mgr.stats().open == 0
    finally:
        redis.cli("-a", "right", "CONFIG", "SET", "requirepass", "")


async def test_nobody_listens() -> None:
    with refused_port() as port:
        async with ConnectionManager() as mgr:
            db = Redis(connection_pool=ConnectionPool(mgr, f"redis://127.0.0.1:{port}"))
            with pytest.raises(ConnectionError, match="refused"):
                await db.ping()
            retry = Retry(NoBackoff(), 3)
            db = Redis(connection_pool=ConnectionPool(mgr, f"redis://127.0.0.1:{port}", retry=retry))
            with pytest.raises(ConnectionError, match="refused"):
                await db.ping()
            assert mgr.stats().failed["connect"] >= 2


async def test_no_place_becomes_free_in_time(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 1}, timeout=0.02) as (_, db):
        held = await db.connection_pool.get_connection()
        with pytest.raises(ConnectionError, match="time"):
            await db.ping()
        await db.connection_pool.release(held)
        assert await db.ping()


async def test_a_server_that_does_not_answer(silent_server: Server) -> None:
    async with ConnectionManager() as mgr:
        url = f"redis://127.0.0.1:{silent_server.port}?socket_timeout=0.05"
        with pytest.raises(TimeoutError, match="Timeout reading"):
            await Redis(connection_pool=ConnectionPool(mgr, url)).ping()
        assert mgr.stats().open == 0


async def test_a_set_up_that_is_cancelled_costs_no_place(silent_server: Server) -> None:
    async with ConnectionManager(max_per_host=1) as mgr:
        pool = ConnectionPool(mgr, f"redis://127.0.0.1:{silent_server.port}")
        for _ in range(3):
            with anyio.move_on_after(0.02) as scope:
                await Redis(connection_pool=pool).ping()
            assert scope.cancelled_caught
        assert mgr.stats().open == 0
        assert mgr.stats().closed == {"discarded": 3}


async def test_a_command_in_time_out_gets_no_late_reply(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 1}, socket_timeout=0.5) as (_, db):
        await db.ping()
        redis.cli("CLIENT", "PAUSE", "1500")
        with pytest.raises(TimeoutError):
            await db.echo("one")
        await until(lambda: bool(redis.cli("PING")))
        assert await db.echo("two") == b"two"


async def test_a_push_while_idle_closes_the_connection(redis: RedisServer) -> None:
    async with client(redis, protocol=3) as (mgr, db):
        connection = await db.connection_pool.get_connection()
        for command in (("CLIENT", "TRACKING", "ON"), ("GET", "k")):
            await connection.send_command(*command)
            await connection.read_response()
        await db.connection_pool.release(connection)
        redis.cli("SET", "k", "v")
        await until(lambda: mgr.stats().idle == 0)
        assert await db.get("k") == b"v"
        assert mgr.stats().closed == {"unread": 1}


async def test_a_server_that_loads_its_data(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--enable-debug-command", "local") as server:
        server.cli("DEBUG", "POPULATE", "2000")
        server.cli("SAVE")
        server.kill()
        server.start("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
        async with client(server) as (mgr, db):
            with pytest.raises(BusyLoadingError):
                await db.get("key:1")
            assert mgr.stats().lent == 0


async def test_a_server_that_is_killed_and_comes_back(redis: RedisServer) -> None:
    async with client(redis, manager={"max_per_host": 4}) as (mgr, db):
        waiting = [asyncio.create_task(db.blpop(f"q{n}", timeout=30)) for n in range(4)]
        await until(lambda: redis.cli("INFO", "clients").count("blocked_clients:4") == 1)
        redis.kill()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [ConnectionError] * 4
        with pytest.raises(ConnectionError):
            await db.ping()
        redis.start()
        assert await db.ping()
        assert mgr.stats().lent == 0


async def test_what_redis_py_retries_goes_over_a_new_connection(redis: RedisServer) -> None:
    async with client(redis, client_name="again", retry=Retry(NoBackoff(), 1)) as (mgr, db):
        connection = await db.connection_pool.get_connection()
        redis.cli("CLIENT", "KILL", "ID", redis.clients("again")[0]["id"])
        await connection.send_command("PING")
        with pytest.raises(ConnectionError):
            await connection.read_response()
        assert await db.ping()
        await db.connection_pool.release(connection)
        assert mgr.stats().lent == 0


async def test_health_checks_of_redis_pys(redis: RedisServer) -> None:
    async with client(redis, health_check_interval=1, client_name="checked") as (mgr, db):
        await db.ping()
        before = int(redis.cli("INFO", "commandstats").count("cmdstat_ping"))
        assert before == 1
        assert await db.ping()
        assert mgr.stats().opened == 1


async def test_a_manager_that_has_ended(redis: RedisServer) -> None:
    async with client(redis) as (mgr, db):
        held = await db.connection_pool.get_connection()
    with pytest.raises(ConnectionError, match="shut down"):
        await db.ping()
    with pytest.raises(ConnectionError):
        await held.send_command("PING")
    await db.connection_pool.release(held)
    await db.connection_pool.aclose()
    assert mgr.stats().open == 0


class Tokens(CredentialProvider):
    """Gives what it has."""

    def __init__(self, user: str, password: str) -> None:
        self.given = (user, password)

    def get_credentials(self) -> tuple[str, str]:
        return self.given


async def test_a_new_token_is_used_before_the_next_command(redis: RedisServer) -> None:
    for name in ("ann", "bob"):
        redis.cli("ACL", "SETUSER", name, "on", f">{name}", "~*", "+@all")
    async with client(redis, credential_provider=Tokens("ann", "ann")) as (mgr, db):
        assert await db.acl_whoami() == "ann"
        await db.connection_pool.re_auth_callback(SimpleToken("bob", -1, 0, {"oid": "bob"}))
        assert await db.acl_whoami() == "bob"
        await db.connection_pool.re_auth_callback(SimpleToken("wrong", -1, 0, {"oid": "bob"}))
        with pytest.raises(AuthenticationError):
            await db.ping()
        assert mgr.stats().lent == 0
        assert await db.acl_whoami() == "ann"


async def test_what_redis_py_tells_and_asks_its_pool(redis: RedisServer) -> None:
    async with client(redis) as (mgr, db):
        pool = db.connection_pool
        assert pool.can_get_connection()
        held, other = await pool.get_connection(), await pool.get_connection()
        await pool.release(other)
        assert [number for number, _ in pool.get_connection_count()] == [1, 1]
        retry = Retry(NoBackoff(), 2)
        pool.set_retry(retry)
        assert held.retry is retry
        await pool.update_active_connections_for_reconnect()
        await pool.release(held)
        assert mgr.stats().closed == {"discarded": 1}
        assert str(redis.port) in repr(held)
        assert held.getpeername() is None
        with pytest.raises(TypeError, match="not a connection of this pool"):
            await pool.release(object())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_connections": 5}, "limits are the manager's"),
        ({"ssl_ca_certs": "x"}, "connectors"),
        ({"socket_keepalive": True}, "connectors"),
        ({"host": "x"}, "url"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
async def test_options_that_are_no_connections(options: dict[str, Any], told: str) -> None:
    async with ConnectionManager() as mgr:
        with pytest.raises((TypeError, ValueError), match=told):
            ConnectionPool(mgr, "redis://127.0.0.1/0", **options)


async def test_a_scheme_whose_life_cycle_speaks_redis_already(redis: RedisServer) -> None:
    async with client(redis, manager={"lifecycles": {"redis": RedisLifecycle()}}) as (mgr, db):
        with pytest.raises(ValueError, match="another scheme="):
            await db.ping()
        url = f"redis://127.0.0.1:{redis.port}"
        assert await Redis(connection_pool=ConnectionPool(mgr, url, scheme="redis-py")).ping()
        assert mgr.stats().open == 1


async def test_urls_and_managers_that_are_none() -> None:
    with pytest.raises(TypeError, match="manager"):
        ConnectionPool("redis://127.0.0.1", "redis://127.0.0.1")  # type: ignore[arg-type]  # the mistake
    async with ConnectionManager() as mgr:
        with pytest.raises(ValueError, match="scheme"):
            ConnectionPool(mgr, "http://127.0.0.1")
        with pytest.raises(ValueError, match="connectors"):
            ConnectionPool(mgr, "rediss://127.0.0.1?ssl_cert_reqs=none")
