"""keepalive.http, and httpx2 over keepalive's transport: the same requests as the whole clients make."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, ClassVar

from benchmarks.contenders.contender import Contender, load
from benchmarks.contenders.python_pools import Httpx2

HTTP_EXCHANGES = ("exchange-1", "exchange-64", "exchange-5000", "download", "upload")


class KeepaliveHttp(Contender):
    name = "keepalive.http"
    plays = HTTP_EXCHANGES
    loops = ("asyncio", "uvloop", "trio")
    needs = ("keepalive", "httptools")

    async def start(self) -> None:
        keepalive, http = load("keepalive"), load("keepalive.http")
        setup = self.setup
        self.stack = AsyncExitStack()
        manager = await self.stack.enter_async_context(
            keepalive.ConnectionManager(max_per_host=setup.limit, max_open=setup.total, keep_alive=3600)
        )
        self.client: Any = http.Client(manager)
        self.home = f"{setup.scheme}://{setup.addr}:{setup.port}/"

    async def stop(self) -> None:
        await self.stack.aclose()

    async def exchange(self) -> None:
        async with self.client.request("GET", self.home) as response:
            await response.read()

    async def download(self) -> int:
        size = 0
        async with self.client.request("GET", self.home + "big") as response:
            async for piece in response:
                size += len(piece)
        return size

    async def upload(self, content: bytes) -> None:
        async with self.client.request("POST", self.home, content=content) as response:
            await response.read()


class Httpx2Keepalive(Httpx2):
    """httpx2 as it is, with our transport under it."""

    name = "httpx2 on keepalive"
    loops = ("asyncio", "uvloop", "trio")
    needs: ClassVar = ("httpx2", "keepalive", "httptools")

    def options(self) -> dict[str, Any]:
        transport = load("keepalive.httpx").Transport
        return {"transport": transport(limits=self.limits())}
