"""The pools of other Python libraries."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

from benchmarks.contenders.contender import USERS, Contender, load
from benchmarks.orders import EACH, NO_LIMITS, TOTAL

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

HTTP_NOTE = "builds a request and parses an HTTP reply, as its users must; the others move raw bytes"
FOREVER = 3600.0


def within(total: float | None) -> AbstractContextManager[object]:
    """Limit what has no total limit of its own, as its users do."""
    return nullcontext() if total is None else anyio.fail_after(total)


class Aiohttp(Contender):
    name = "aiohttp"
    plays = (
        "warm", "exchange-1", "exchange-64", "contention", "keys",
        "cold-tcp", "cold-tls", "cold-resumed", "watch", "exchange-5000", "download", "upload", *USERS,
    )  # fmt: skip
    loops = ("asyncio", "uvloop")
    needs = ("aiohttp",)
    remarks: ClassVar = {
        "warm": "the connector alone: connect() and release() with a request built beforehand",
        "exchange-1": HTTP_NOTE,
        "exchange-64": HTTP_NOTE,
        "cold-resumed": HTTP_NOTE,
    }

    async def start(self) -> None:
        self.http = load("aiohttp")
        context: ssl.SSLContext | bool = self.client_context() if self.setup.scheme == "https" else True
        self.connector: Any = self.http.TCPConnector(
            limit=self.setup.total, limit_per_host=self.setup.limit, keepalive_timeout=FOREVER, ssl=context
        )
        self.session: Any = self.http.ClientSession(connector=self.connector)
        self.limit(NO_LIMITS)
        self.aim([self.setup.url])
        self.requests: dict[str, Any] = {}
        await self.prepare([self.setup.addr])

    async def stop(self) -> None:
        await self.session.close()

    def limit(self, seconds: int) -> None:
        timeout = self.http.ClientTimeout
        each = timeout(connect=EACH, sock_connect=EACH, sock_read=EACH)
        self.timeout: Any = {NO_LIMITS: timeout(), EACH: each, TOTAL: timeout(total=TOTAL)}[seconds]

    def aim(self, urls: Sequence[str], close: bool = False) -> None:
        super().aim([load("yarl").URL(url) for url in urls], close)

    def url(self, addr: str) -> Any:
        return load("yarl").URL(f"{self.setup.scheme}://{addr}:{self.setup.port}/")

    async def prepare(self, addrs: Sequence[str]) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        for addr in addrs:
            self.requests[addr] = self.http.ClientRequest("GET", self.url(addr), loop=loop)
        self.home = self.url(self.setup.addr)

    async def cycles(self, addrs: Sequence[str]) -> None:
        connect, requests, timeout = self.connector.connect, self.requests, self.timeout
        for addr in addrs:
            conn = await connect(requests[addr], [], timeout)
            conn.release()

    async def hold(self) -> None:
        conn = await self.connector.connect(self.requests[self.setup.addr], [], self.timeout)
        await self.runtime.pause()
        conn.release()

    async def exchange(self) -> None:
        setup = self.setup
        async with self.session.request(
            setup.method, next(self.urls), data=setup.content, headers=self.headers,
            timeout=self.timeout, proxy=setup.proxy,
        ) as response:  # fmt: skip
            await response.read()

    async def download(self) -> int:
        size = 0
        async with self.session.get(self.home / "big", timeout=self.timeout) as response:
            async for piece in response.content.iter_any():
                size += len(piece)
        return size

    async def upload(self, content: bytes) -> None:
        async with self.session.post(self.home, data=content, timeout=self.timeout) as response:
            await response.read()

    async def connect(self, talk: bool) -> None:
        if talk:
            async with self.session.get(self.home, headers={"Connection": "close"}) as response:
                await response.read()
            return
        conn = await self.connector.connect(self.requests[self.setup.addr], [], self.timeout)
        conn.close()


class StubConnection:
    """A connection that answers at once, so that what is measured is the pool above it.

    Its socket is real, and looked at whenever the pool wants to know, just as in httpcore2's own connections.
    """

    def __init__(self, origin: Any, port: int) -> None:
        self.origin = origin
        self.reply = load("httpcore2").Response
        self.readable = load("httpcore2._utils").is_socket_readable
        self.sock = socket.create_connection((origin.host.decode(), port))
        self.busy = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def handle_async_request(self, request: Any) -> Any:
        self.busy = True
        return self.reply(200, content=self)

    async def aclose(self) -> None:
        self.busy = False

    def can_handle_request(self, origin: Any) -> bool:
        return bool(origin == self.origin)

    def is_connected(self) -> bool:
        return True

    def is_available(self) -> bool:
        return not self.busy

    def is_idle(self) -> bool:
        return not self.busy

    def has_expired(self) -> bool:
        return not self.busy and bool(self.readable(self.sock))

    def is_closed(self) -> bool:
        return False

    def can_multiplex(self) -> bool:
        return False


STUB_NOTE = (
    "its pool has no calls to lend and give back, so this is a request over a stub that answers at once"
)


class Httpcore2(Contender):
    name = "httpcore2"
    plays = ("warm", "exchange-1", "exchange-64", "contention", "keys", "cold-resumed", *USERS)
    needs = ("httpcore2",)
    opens_sockets = False
    remarks: ClassVar = {
        "warm": STUB_NOTE,
        "contention": STUB_NOTE,
        "keys": STUB_NOTE + "; its memory is not measured",
        "exchange-1": HTTP_NOTE,
        "exchange-64": HTTP_NOTE,
        "cold-resumed": HTTP_NOTE,
        "watch": "httpcore2 looks at idle connections only when a request comes",
    }

    async def start(self) -> None:
        core = load("httpcore2")
        self.pool: Any = core.AsyncConnectionPool(
            max_connections=self.setup.total if self.setup.total < 1024 else self.setup.limit,
            keepalive_expiry=FOREVER,
            ssl_context=self.client_context() if self.setup.scheme == "https" else None,
            proxy=core.Proxy(self.setup.proxy) if self.setup.proxy else None,
        )
        self.home = core.URL(self.setup.home)
        self.limit(NO_LIMITS)
        self.aim([self.setup.url])
        self.known: dict[str, Any] = {}

    async def stop(self) -> None:
        await self.pool.aclose()

    def limit(self, seconds: int) -> None:
        each = dict.fromkeys(("pool", "connect", "read", "write"), EACH)
        self.extensions: Any = {"timeout": each} if seconds == EACH else None
        self.total = TOTAL if seconds == TOTAL else None

    def aim(self, urls: Sequence[str], close: bool = False) -> None:
        super().aim([load("httpcore2").URL(url) for url in urls], close)

    async def prepare(self, addrs: Sequence[str]) -> None:
        core = load("httpcore2")
        self.pool._max_connections = max(self.setup.limit, len(addrs))
        self.pool._max_keepalive_connections = self.pool._max_connections
        self.pool.create_connection = lambda origin: StubConnection(origin, self.setup.port)
        self.known = {addr: core.URL(f"http://{addr}:{self.setup.port}/") for addr in addrs}

    async def cycles(self, addrs: Sequence[str]) -> None:
        request, urls = self.pool.request, self.known
        for addr in addrs:
            await request("GET", urls[addr])

    async def hold(self) -> None:
        async with self.pool.stream("GET", self.home):
            await self.runtime.pause()

    async def exchange(self) -> None:
        with within(self.total):
            await self.pool.request(
                self.setup.method, next(self.urls), content=self.setup.content, headers=self.headers,
                extensions=self.extensions,
            )  # fmt: skip

    async def download(self) -> int:
        size = 0
        url = self.setup.home + "big"
        with within(self.total):
            async with self.pool.stream("GET", url, extensions=self.extensions) as response:
                async for piece in response.aiter_stream():
                    size += len(piece)
        return size

    async def upload(self, content: bytes) -> None:
        with within(self.total):
            await self.pool.request("POST", self.setup.home, content=content, extensions=self.extensions)

    async def connect(self, talk: bool) -> None:
        await self.pool.request("GET", self.home, headers={"Connection": "close"})


class Httpx2(Contender):
    name = "httpx2"
    plays: ClassVar[tuple[str, ...]] = (
        "exchange-1", "exchange-64", "exchange-5000", "download", "upload", *USERS
    )  # fmt: skip
    loops = ("asyncio", "uvloop", "trio")
    needs: ClassVar[tuple[str, ...]] = ("httpx2",)
    remarks: ClassVar = {"exchange-1": HTTP_NOTE, "exchange-64": HTTP_NOTE}

    async def start(self) -> None:
        self.client: Any = load("httpx2").AsyncClient(timeout=None, trust_env=False, **self.options())
        self.limit(NO_LIMITS)
        self.aim([self.setup.url])

    def limits(self) -> Any:
        many = self.setup.total if self.setup.total < 1024 else self.setup.limit
        return load("httpx2").Limits(max_connections=many, keepalive_expiry=FOREVER)

    def limit(self, seconds: int) -> None:
        self.client.timeout = EACH if seconds == EACH else None
        self.total = TOTAL if seconds == TOTAL else None

    def options(self) -> dict[str, Any]:
        context = self.client_context() if self.setup.scheme == "https" else True
        return {"limits": self.limits(), "verify": context, "proxy": self.setup.proxy}

    async def stop(self) -> None:
        await self.client.aclose()

    async def exchange(self) -> None:
        setup = self.setup
        with within(self.total):
            await self.client.request(
                setup.method, next(self.urls), content=setup.content, headers=self.headers
            )

    async def download(self) -> int:
        size = 0
        with within(self.total):
            async with self.client.stream("GET", self.setup.home + "big") as response:
                async for piece in response.aiter_raw():
                    size += len(piece)
        return size

    async def upload(self, content: bytes) -> None:
        with within(self.total):
            await self.client.post(self.setup.home, content=content)


class AsyncioConnectionPool(Contender):
    name = "asyncio-connection-pool"
    plays = ("warm", "contention")
    loops = ("asyncio", "uvloop")
    needs = ("asyncio_connection_pool",)
    opens_sockets = False
    remarks: ClassVar = {"keys": "a pool of asyncio-connection-pool has one key"}

    async def start(self) -> None:
        module = load("asyncio_connection_pool")
        self.pool: Any = module.ConnectionPool(strategy=NothingToOpen(), max_size=self.setup.limit)

    async def cycles(self, addrs: Sequence[str]) -> None:
        get = self.pool.get_connection
        for _ in addrs:
            async with get():
                pass

    async def hold(self) -> None:
        async with self.pool.get_connection():
            await self.runtime.pause()


class NothingToOpen:
    """The strategy of a pool whose connections are plain objects."""

    async def make_connection(self) -> object:
        return object()

    def connection_is_closed(self, conn: object) -> bool:
        return False

    async def close_connection(self, conn: object) -> None:
        pass
