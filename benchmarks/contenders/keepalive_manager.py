"""keepalive itself, by its public API only."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.contender import REQUEST, Contender, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Keepalive(Contender):
    name = "keepalive"
    plays = (
        "warm", "exchange-1", "exchange-64", "contention", "keys",
        "cold-tcp", "cold-tls", "cold-resumed", "watch", "sip",
    )  # fmt: skip
    loops = ("asyncio", "uvloop", "trio")
    needs = ("keepalive",)

    async def start(self) -> None:
        keepalive = load("keepalive")
        connectors = None
        if self.setup.scheme == "https":
            connectors = {"https": keepalive.TLSConnector(ssl_context=self.client_context())}
        self.stack = AsyncExitStack()
        self.manager: Any = await self.stack.enter_async_context(
            keepalive.ConnectionManager(
                max_per_host=self.setup.limit,
                max_open=self.setup.total,
                keep_alive=3600,
                connectors=connectors,
            )
        )

    async def listen(self, raw: bool, got: Callable[[], None]) -> int:
        sip = load("keepalive.sip")
        config = sip.SipConfig(raw=raw, min_expire=3600, max_expire=3600, max_pending=3600)
        leg = sip.open_leg("tcp", "127.0.0.1", 0, config=config, backlog=4096)
        self.leg: Any = await self.stack.enter_async_context(leg)
        self.leg.attach(lambda packet, source: got())
        port: int = self.leg.master.getsockname()[1]
        return port

    def held(self) -> int:
        return len(self.leg.connections())

    async def stop(self) -> None:
        await self.stack.aclose()

    async def cycles(self, addrs: Sequence[str]) -> None:
        allocate, port = self.manager.allocate, self.setup.port
        for addr in addrs:
            conn = await allocate("http", addr, port)
            conn.release()

    async def hold(self) -> None:
        async with await self.manager.allocate("http", self.setup.addr, self.setup.port):
            await self.runtime.pause()

    async def talk(self, conn: Any) -> None:
        await conn.send(REQUEST)
        missing = self.site.reply_size
        while missing > 0:
            missing -= len(await conn.receive())

    async def exchange(self) -> None:
        async with await self.manager.allocate("http", self.setup.addr, self.setup.port) as conn:
            await conn.send(REQUEST)
            missing = self.site.reply_size
            while missing > 0:
                missing -= len(await conn.receive())

    async def connect(self, talk: bool) -> None:
        setup = self.setup
        conn = await self.manager.allocate(setup.scheme, setup.addr, setup.port)
        if talk:
            await self.talk(conn)
        conn.discard()  # as the floors do it: without letting others run
