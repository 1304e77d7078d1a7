"""Raw exchanges: blocking, by the loop's socket calls, by a protocol, by anyio's streams.

All of them read until the known length of the reply has come, as every contender of raw bytes does.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, ClassVar, cast

import anyio

from benchmarks.contenders.contender import REQUEST, Contender
from benchmarks.contenders.empty_pools import FloorPool

if TYPE_CHECKING:
    import ssl

EXCHANGES = ("exchange-1", "exchange-64")


class BlockingSocket(Contender):
    name = "blocking socket"
    plays = ("exchange-1", "cold-tcp", "cold-tls", "cold-resumed")
    loops = ("",)
    remarks: ClassVar = {"cold-resumed": "offers the ticket of its latest connection"}

    async def start(self) -> None:
        self.session: ssl.SSLSession | None = None
        if self.setup.scheme == "https":
            self.context = self.client_context()
        else:
            self.sock = self.open()

    async def stop(self) -> None:
        if self.setup.scheme == "http":
            self.sock.close()

    def open(self) -> socket.socket:
        return socket.create_connection((self.setup.addr, self.setup.port))

    def talk(self, sock: socket.socket) -> None:
        sock.sendall(REQUEST)
        missing = self.site.reply_size
        while missing > 0:
            missing -= len(sock.recv(65536))

    async def exchange(self) -> None:
        self.talk(self.sock)

    async def connect(self, talk: bool) -> None:
        sock = self.open()
        if self.setup.scheme == "https":
            tls = self.context.wrap_socket(sock, server_hostname=self.setup.addr, session=self.session)
            if talk:
                self.talk(tls)
                self.session = tls.session
            tls.close()
            return
        sock.close()


class LoopSocketCalls(Contender):
    """loop.sock_* on asyncio and uvloop, trio.socket on trio."""

    name = "loop.sock_*"
    plays = (*EXCHANGES, "cold-tcp")
    loops = ("asyncio", "uvloop", "trio")

    async def start(self) -> None:
        self.pool: FloorPool[Any] = FloorPool(self.open, self.setup.limit, self.runtime.waiter)
        if self.runtime.name != "trio":
            self.loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        for conn in self.pool.idle:
            conn.close()

    async def open(self) -> Any:
        if self.runtime.name == "trio":
            import trio

            conn = trio.socket.socket()
            await conn.connect((self.setup.addr, self.setup.port))
            return conn
        sock = socket.socket()
        sock.setblocking(False)
        await self.loop.sock_connect(sock, (self.setup.addr, self.setup.port))
        return sock

    async def exchange(self) -> None:
        conn = await self.pool.acquire()
        missing = self.site.reply_size
        if self.runtime.name == "trio":
            await conn.send(REQUEST)
            while missing > 0:
                missing -= len(await conn.recv(65536))
        else:
            await self.loop.sock_sendall(conn, REQUEST)
            while missing > 0:
                missing -= len(await self.loop.sock_recv(conn, 65536))
        self.pool.release(conn)

    async def connect(self, talk: bool) -> None:
        (await self.open()).close()


class ReplyReader(asyncio.Protocol):
    """One exchange at a time; the future is done when the reply is whole."""

    transport: asyncio.Transport
    done: asyncio.Future[None]
    missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no sub-class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing <= 0:
            self.done.set_result(None)


class AsyncioProtocol(Contender):
    name = "asyncio Protocol"
    plays = (*EXCHANGES, "cold-tcp", "cold-tls", "cold-resumed")
    loops = ("asyncio", "uvloop")
    remarks: ClassVar = {"exchange-64": "uvloop gathers the writes of a loop turn"}

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = FloorPool(self.open, self.setup.limit, self.runtime.waiter)
        self.context = self.client_context() if self.setup.scheme == "https" else None

    async def stop(self) -> None:
        for reader in self.pool.idle:
            reader.transport.close()

    async def open(self) -> ReplyReader:
        _, reader = await self.loop.create_connection(
            ReplyReader, self.setup.addr, self.setup.port, ssl=self.context
        )
        return reader

    def talk(self, reader: ReplyReader) -> asyncio.Future[None]:
        reader.missing = self.site.reply_size
        reader.done = self.loop.create_future()
        reader.transport.write(REQUEST)
        return reader.done

    async def exchange(self) -> None:
        reader = await self.pool.acquire()
        await self.talk(reader)
        self.pool.release(reader)

    async def connect(self, talk: bool) -> None:
        reader = await self.open()
        if talk:
            await self.talk(reader)
        reader.transport.close()


class AnyioStream(Contender):
    name = "anyio stream"
    plays = (*EXCHANGES, "cold-tcp", "cold-tls", "cold-resumed")
    loops = ("asyncio", "trio")

    async def start(self) -> None:
        self.pool = FloorPool(self.open, self.setup.limit, self.runtime.waiter)
        self.context = self.client_context() if self.setup.scheme == "https" else None

    async def stop(self) -> None:
        for stream in self.pool.idle:
            await stream.aclose()

    async def open(self) -> anyio.abc.ByteStream:
        if self.context is None:
            return await anyio.connect_tcp(self.setup.addr, self.setup.port)
        return await anyio.connect_tcp(
            self.setup.addr, self.setup.port, ssl_context=self.context, tls_standard_compatible=False
        )

    async def talk(self, stream: anyio.abc.ByteStream) -> None:
        await stream.send(REQUEST)
        missing = self.site.reply_size
        while missing > 0:
            missing -= len(await stream.receive())

    async def exchange(self) -> None:
        stream = await self.pool.acquire()
        await self.talk(stream)
        self.pool.release(stream)

    async def connect(self, talk: bool) -> None:
        stream = await self.open()
        if talk:
            await self.talk(stream)
        await stream.aclose()
