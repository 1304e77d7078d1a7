"""Redis: GET of 13 bytes, by redis-py with its own pool and with ours, by our life cycles, and by coredis."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from benchmarks.contenders.contender import Contender, load

KEY, VALUE = "key", b"Hello, world\n"


class RedisContender(Contender):
    """Somebody who asks a Redis server."""

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("redis-server") is None:
            return "redis-server is not installed"
        return super().missing()

    def check(self, value: object) -> None:
        if value != VALUE:
            raise RuntimeError(f"{value!r} came, not {VALUE!r}")


class RedisPy(RedisContender):
    name = "redis-py"
    plays = ("redis-64",)
    loops = ("asyncio", "uvloop")
    needs: ClassVar[tuple[str, ...]] = ("redis", "hiredis")

    async def start(self) -> None:
        self.stack = AsyncExitStack()
        client = load("redis.asyncio").Redis(connection_pool=await self.pool())
        await client.set(KEY, VALUE)
        self.check(await client.get(KEY))
        self.get: Any = client.get

    async def pool(self) -> Any:
        shape = self.setup
        pool = load("redis.asyncio").BlockingConnectionPool(
            host=shape.addr, port=shape.port, max_connections=shape.limit, timeout=None
        )
        self.stack.push_async_callback(pool.aclose)
        return pool

    async def stop(self) -> None:
        await self.stack.aclose()

    async def exchange(self) -> None:
        await self.get(KEY)


class RedisPyKeepalive(RedisPy):
    """redis-py as it is, with our pool under it."""

    name = "redis-py on keepalive"
    needs = ("redis", "hiredis", "keepalive")

    async def pool(self) -> Any:
        keepalive, shape = load("keepalive"), self.setup
        manager = await self.stack.enter_async_context(
            keepalive.ConnectionManager(max_per_host=shape.limit, max_open=shape.total, keep_alive=3600)
        )
        return load("keepalive.redis").ConnectionPool(manager, f"redis://{shape.addr}:{shape.port}")


class RedisPyOne(RedisPy):
    """redis-py with one connection, which its users lock for each command."""

    name = "redis-py, one connection"
    plays = ("redis-shared",)

    async def start(self) -> None:
        self.stack = AsyncExitStack()
        redis, shape = load("redis.asyncio"), self.setup
        client = redis.Redis(host=shape.addr, port=shape.port, single_connection_client=True)
        self.stack.push_async_callback(client.aclose)
        await client.set(KEY, VALUE)
        self.get = client.get


class KeepaliveRedis(RedisContender):
    name = "keepalive.redis"
    plays = ("redis-64",)
    loops = ("asyncio", "uvloop", "trio")
    needs = ("keepalive", "hiredis")
    lifecycle: ClassVar = "RedisLifecycle"

    async def start(self) -> None:
        keepalive, redis, shape = load("keepalive"), load("keepalive.redis"), self.setup
        self.stack = AsyncExitStack()
        self.manager: Any = await self.stack.enter_async_context(
            keepalive.ConnectionManager(
                max_per_host=shape.limit,
                max_open=shape.total,
                keep_alive=3600,
                lifecycles={"redis": getattr(redis, self.lifecycle)()},
            )
        )
        self.commands: Any = redis.Commands
        async with await self.manager.allocate("redis", shape.addr, shape.port) as conn:
            await self.commands(conn).execute("SET", KEY, VALUE)
            self.check(await self.commands(conn).execute("GET", KEY))

    async def stop(self) -> None:
        await self.stack.aclose()

    async def exchange(self) -> None:
        async with await self.manager.allocate("redis", self.setup.addr, self.setup.port) as conn:
            await self.commands(conn).execute("GET", KEY)


class KeepaliveRedisShared(KeepaliveRedis):
    name = "keepalive.redis, shared"
    plays = ("redis-shared",)
    lifecycle = "RedisMultiplexed"


class Coredis(RedisContender):
    """It shares its connections among commands as soon as there are more commands than connections."""

    name = "coredis"
    plays = ("redis-64", "redis-shared")
    loops = ("asyncio", "uvloop", "trio")
    needs = ("coredis",)

    async def start(self) -> None:
        shape = self.setup
        self.stack = AsyncExitStack()
        client = load("coredis").Redis(host=shape.addr, port=shape.port, max_connections=shape.limit)
        self.client: Any = await self.stack.enter_async_context(client)
        await self.client.set(KEY, VALUE)
        self.check(await self.client.get(KEY))

    async def stop(self) -> None:
        await self.stack.aclose()

    async def exchange(self) -> None:
        await self.client.get(KEY)


REDIS = (RedisPy, RedisPyKeepalive, RedisPyOne, KeepaliveRedis, KeepaliveRedisShared, Coredis)
