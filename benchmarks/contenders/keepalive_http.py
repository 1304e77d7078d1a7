"""keepalive.http, and httpx2 over keepalive's transport: the same requests as the whole clients make."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.contenders.contender import USERS, Contender, load
from benchmarks.contenders.python_pools import Httpx2
from benchmarks.orders import EACH, NO_LIMITS, TOTAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HTTP_EXCHANGES = ("exchange-1", "exchange-64", "exchange-5000", "download", "upload", *USERS)


class KeepaliveHttp(Contender):
    name = "keepalive.http"
    plays = HTTP_EXCHANGES
    loops = ("asyncio", "uvloop", "trio")
    needs = ("keepalive", "httptools")

    async def start(self) -> None:
        keepalive, setup = load("keepalive"), self.setup
        self.http = load("keepalive.http")
        self.stack = AsyncExitStack()
        manager = await self.stack.enter_async_context(
            keepalive.ConnectionManager(
                max_per_host=setup.limit,
                max_open=setup.total,
                keep_alive=3600,
                timeout=None,
                connectors=self.connectors(),
            )
        )
        self.client: Any = self.http.Client(manager)
        self.limit(NO_LIMITS)
        self.aim([setup.url])

    def connectors(self) -> dict[str, Any] | None:
        if self.setup.scheme == "http":
            return None
        keepalive = load("keepalive")
        tls = keepalive.TLSConnector(ssl_context=self.client_context())
        if self.setup.proxy:
            return {"https": keepalive.HTTPProxyConnector(self.setup.proxy, inside={"https": tls})}
        return {"https": tls}

    def limit(self, seconds: int) -> None:
        timeout = self.http.Timeout
        each = timeout(pool=EACH, connect=EACH, read=EACH, write=EACH)
        self.timeout: Any = {NO_LIMITS: None, EACH: each, TOTAL: timeout(total=TOTAL)}[seconds]

    async def stop(self) -> None:
        await self.stack.aclose()

    async def exchange(self) -> None:
        setup = self.setup
        async with self.client.request(
            setup.method, next(self.urls), headers=self.headers, content=setup.content, timeout=self.timeout
        ) as response:
            await response.read()

    async def download(self) -> int:
        size = 0
        async with self.client.request("GET", self.setup.home + "big", timeout=self.timeout) as response:
            async for piece in response:
                size += len(piece)
        return size

    async def upload(self, content: bytes) -> None:
        async with self.client.request(
            "POST", self.setup.home, content=content, timeout=self.timeout
        ) as response:
            await response.read()


class Httpx2Keepalive(Httpx2):
    """httpx2 as it is, with our transport under it."""

    name = "httpx2 on keepalive"
    loops = ("asyncio", "uvloop", "trio")
    needs: ClassVar = ("httpx2", "keepalive", "httptools")

    def options(self) -> dict[str, Any]:
        transport = load("keepalive.httpx").Transport
        context = self.client_context() if self.setup.scheme == "https" else True
        own = transport(limits=self.limits(), proxy=self.setup.proxy, verify=context, trust_env=False)
        return {"transport": own}


class Httpx2OverNothing(Httpx2):
    """The floor: what httpx2's client itself takes, whatever transport it has."""

    name = "httpx2 over nothing"
    plays = ("exchange-1", "exchange-64", "limits-1", "limits-64", "json-64", "post-64", "tls-64")
    remarks: ClassVar = dict.fromkeys(
        plays, "its client over a transport that answers at once, so tasks never switch"
    )

    def options(self) -> dict[str, Any]:
        httpx2 = load("httpx2")
        content = b"x" * 10_000 if self.setup.path == "json" else b"Hello, world\n"
        headers = [
            (b"Server", b"nginx"),
            (b"Date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
            (b"Content-Type", b"text/plain"),
            (b"Content-Length", b"%d" % len(content)),
            (b"Connection", b"keep-alive"),
        ]

        # Not a ByteStream, which is read at once: what comes from a network has to be asked for.
        stream = type("Stream", (httpx2.AsyncByteStream,), {"__aiter__": lambda _: one_piece(content)})

        async def answer(transport: object, request: object) -> Any:
            return httpx2.Response(200, headers=headers, stream=stream())

        return {
            "transport": type("Nothing", (httpx2.AsyncBaseTransport,), {"handle_async_request": answer})()
        }


async def one_piece(content: bytes) -> AsyncIterator[bytes]:
    yield content
