"""Pools with nothing in them: no checks, no time-outs, no limits in all.  Nobody gets below these."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from benchmarks.contenders.contender import Contender

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.runtimes import Waiter

C = TypeVar("C")


class FloorPool(Generic[C]):
    """One key's connections: a deque of idle ones, and a deque of futures for those who wait."""

    __slots__ = ("idle", "limit", "new_waiter", "opened", "opener", "waiters")

    def __init__(
        self, opener: Callable[[], Awaitable[C]], limit: int, new_waiter: Callable[[], Waiter]
    ) -> None:
        self.opener = opener
        self.limit = limit
        self.new_waiter = new_waiter
        self.opened = 0
        self.idle: deque[C] = deque()
        self.waiters: deque[Waiter] = deque()

    async def acquire(self) -> C:
        if self.idle:
            return self.idle.pop()
        if self.opened < self.limit:
            self.opened += 1
            return await self.opener()
        waiter = self.new_waiter()
        self.waiters.append(waiter)
        got: C = await waiter
        return got

    def release(self, conn: C) -> None:
        if self.waiters:
            self.waiters.popleft().set_result(conn)
        else:
            self.idle.append(conn)


class DictOfDeques(Contender):
    name = "dict+deque"
    plays = ("warm",)
    loops = ("",)
    opens_sockets = False
    remarks: ClassVar = {"warm": "no waiting, no limit, no await: what looking a key up costs"}

    async def prepare(self, addrs: Sequence[str]) -> None:
        self.pools = {("http", addr, self.setup.port): deque([object()]) for addr in addrs}

    async def cycles(self, addrs: Sequence[str]) -> None:
        pools, port = self.pools, self.setup.port
        for addr in addrs:
            idle = pools["http", addr, port]
            conn = idle.pop()
            idle.append(conn)


class FuturesPool(Contender):
    name = "futures floor"
    plays = ("warm", "contention", "keys")
    loops = ("asyncio", "uvloop", "trio")
    opens_sockets = False

    async def start(self) -> None:
        self.pools: dict[tuple[str, str, int], FloorPool[object]] = {}

    async def prepare(self, addrs: Sequence[str]) -> None:
        for addr in addrs:
            pool = FloorPool(self.open_nothing, self.setup.limit, self.runtime.waiter)
            self.pools["http", addr, self.setup.port] = pool

    async def open_nothing(self) -> object:
        return object()

    async def cycles(self, addrs: Sequence[str]) -> None:
        pools, port = self.pools, self.setup.port
        for addr in addrs:
            pool = pools["http", addr, port]
            pool.release(await pool.acquire())

    async def hold(self) -> None:
        pool = self.pools["http", self.setup.addr, self.setup.port]
        conn = await pool.acquire()
        await self.runtime.pause()
        pool.release(conn)


class SipSplitter(Contender):
    """The floor of SIP: asyncio's transports, and bytes cut at each empty line. Nothing is checked."""

    name = "cut at empty lines"
    plays = ("sip",)
    loops = ("asyncio", "uvloop")
    remarks: ClassVar[dict[str, str]] = {"sip": "knows no Content-Length, no transactions, no expiry"}

    async def start(self) -> None:
        self.open: set[_Split] = set()
        self.servers: list[asyncio.AbstractServer] = []

    async def listen(self, raw: bool, got: Callable[[], None]) -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Split(self.open, got), "127.0.0.1", 0, backlog=4096)
        self.servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def held(self) -> int:
        return len(self.open)

    async def stop(self) -> None:
        for server in self.servers:
            server.close()


class _Split(asyncio.Protocol):
    def __init__(self, there: set[_Split], got: Callable[[], None]) -> None:
        self.there = there
        self.got = got
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.there.add(self)

    def data_received(self, data: bytes) -> None:
        *messages, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for _ in messages:
            self.got()

    def connection_lost(self, exc: Exception | None) -> None:
        self.there.discard(self)


class IdleTransports(Contender):
    """The floor of watching: asyncio's own transports, each reading, each closed by its loop."""

    name = "idle transports"
    plays = ("watch",)
    loops = ("asyncio", "uvloop")

    async def start(self) -> None:
        self.transports: list[asyncio.BaseTransport] = []

    async def cycles(self, addrs: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        for addr in addrs:
            transport, _ = await loop.create_connection(asyncio.Protocol, addr, self.setup.port)
            self.transports.append(transport)
