"""Who asks a name server."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from benchmarks.contenders.contender import Contender, load


class KeepaliveNames(Contender):
    name = "keepalive DNSResolver"
    plays = ("names",)
    loops = ("asyncio", "uvloop", "trio")
    needs = ("keepalive", "dns")
    remarks: ClassVar = {"names": "asks for the addresses of both families"}

    async def start(self) -> None:
        resolver = load("keepalive").DNSResolver(
            [f"{self.setup.addr}:{self.setup.port}"], hosts=None, timeout=5.0
        )
        self.resolver: Any = resolver

    async def resolve(self, name: str) -> str:
        address: str = (await self.resolver.resolve(name)).addresses[0]
        return address


class Pycares(Contender):
    """c-ares with a thread of its own, as pycares has it; answers are handed to the loop."""

    name = "pycares"
    plays = ("names",)
    loops = ("asyncio", "uvloop")
    needs = ("pycares",)
    remarks: ClassVar = {"names": "getaddrinfo for both families; c-ares works in a thread of its own"}

    async def start(self) -> None:
        self.cares = load("pycares")
        self.loop = asyncio.get_running_loop()
        self.channel: Any = self.cares.Channel(
            servers=[f"{self.setup.addr}:{self.setup.port}"], timeout=5.0, lookups="b"
        )

    async def stop(self) -> None:
        self.channel.close()

    async def resolve(self, name: str) -> str:
        done: asyncio.Future[Any] = self.loop.create_future()

        def answered(result: Any, error: int | None) -> None:
            self.loop.call_soon_threadsafe(done.set_result, (result, error))

        self.channel.getaddrinfo(name, None, callback=answered)
        result, error = await done
        if error is not None:
            raise OSError(error, name)
        address: str = result.nodes[0].addr[0].decode()
        return address


NAMES: tuple[type[Contender], ...] = (KeepaliveNames, Pycares)
