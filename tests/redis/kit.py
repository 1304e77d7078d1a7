"""redis-py over a manager; and Redis's life cycles without one, their hooks called by hand."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from redis.asyncio import Redis

from keepalive import ConnectionManager
from keepalive.redis import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keepalive import Connection
    from keepalive.redis import Multiplexer, RedisLifecycle, RedisMultiplexed, Session
    from tests.support.redis import RedisServer


class Shares:
    """What a life cycle is told to set."""

    def __init__(self) -> None:
        self.capacity = 0
        self.lent = 0
        self.retired = False

    def retire(self) -> None:
        self.retired = True


@asynccontextmanager
async def plain(port: int) -> AsyncIterator[Connection]:
    """Connect to a server without any life cycle."""
    async with ConnectionManager() as mgr:
        conn = await mgr.allocate("redis", "127.0.0.1", port, 5)
        try:
            yield conn
        finally:
            conn.discard()


@asynccontextmanager
async def exclusive(port: int, lifecycle: RedisLifecycle) -> AsyncIterator[tuple[Connection, Session]]:
    """Set up a connection."""
    async with plain(port) as conn:
        yield conn, await lifecycle.opened(conn, conn.key)


@asynccontextmanager
async def shared(port: int, lifecycle: RedisMultiplexed) -> AsyncIterator[tuple[Multiplexer, Shares]]:
    """Set up a connection and serve it."""
    shares = Shares()
    async with plain(port) as conn, anyio.create_task_group() as tasks:
        state = await lifecycle.opened(conn, conn.key)
        tasks.start_soon(lifecycle.run, conn, state, shares)
        yield state, shares
        tasks.cancel_scope.cancel()


async def ask(conn: Connection, state: Session, *command: Any) -> Any:
    """Send a command over an exclusive connection."""
    from keepalive.redis.command import pack
    from keepalive.redis.session import exchange

    (reply,) = await exchange(conn, state.replies, pack(command, shared=False), 1)
    return reply


@asynccontextmanager
async def client(
    redis: RedisServer, *, manager: dict[str, Any] | None = None, path: str = "/0", **options: Any
) -> AsyncIterator[tuple[ConnectionManager, Any]]:
    async with ConnectionManager(**(manager or {})) as mgr:
        pool = ConnectionPool(mgr, f"redis://127.0.0.1:{redis.port}{path}", **options)
        yield mgr, Redis(connection_pool=pool)
