"""Many connections at once to one echo server: open, a line each way, and all stay open."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING, Any, ClassVar, cast

import anyio

from benchmarks.contenders.contender import Contender, load
from benchmarks.contenders.other_languages import Go

if TYPE_CHECKING:
    from benchmarks.orders import Order

LINE = b"hello, world\n"


class FanOut(Contender):
    """Opens `count` connections; with `together`, by as many tasks as the setup's window says."""

    plays = ("fan-out", "fan-out-at-once")

    async def open_all(self, count: int) -> None:
        self.left = count
        await self.runtime.together(self.work, min(self.setup.window, count))

    async def work(self) -> None:
        while self.left > 0:
            self.left -= 1
            await self.open_one()

    async def open_one(self) -> None:
        raise NotImplementedError

    async def close_all(self) -> None:
        raise NotImplementedError


class FanOutEpoll(FanOut):
    name = "plain epoll"
    loops = ("",)
    remarks: ClassVar = {"fan-out": "a loop of its own; no time-outs, no limits, no buffers, no errors"}

    async def start(self) -> None:
        self.socks: dict[int, socket.socket] = {}

    async def open_all(self, count: int) -> None:
        self.epoll = select.epoll()
        address = self.setup.addr, self.setup.port
        socks = self.socks
        left, got = count, 0
        started: set[int] = set()

        def begin() -> None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.connect_ex(address)
            socks[sock.fileno()] = sock
            self.epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

        for _ in range(min(self.setup.window, left)):
            left -= 1
            begin()
        while got < count:
            for number, bits in self.epoll.poll():
                if bits & select.EPOLLIN:
                    got += socks[number].recv(4096) == LINE
                elif number not in started:
                    started.add(number)
                    socks[number].send(LINE)
                    if left:
                        left -= 1
                        begin()

    async def close_all(self) -> None:
        self.epoll.close()
        for sock in self.socks.values():
            sock.close()
        self.socks.clear()


class LineEcho(asyncio.Protocol):
    def __init__(self, owner: FanOutProtocol) -> None:
        self.owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no sub-class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(LINE)

    def data_received(self, data: bytes) -> None:
        self.owner.answered()


class FanOutProtocol(FanOut):
    name = "asyncio Protocol, fan"
    loops = ("asyncio", "uvloop")

    async def start(self) -> None:
        self.callers: list[LineEcho] = []
        self.loop = asyncio.get_running_loop()

    async def open_all(self, count: int) -> None:
        self.awaited = count
        self.done = self.loop.create_future()
        await super().open_all(count)
        await self.done

    def answered(self) -> None:
        self.awaited -= 1
        if not self.awaited:
            self.done.set_result(None)

    async def open_one(self) -> None:
        _, caller = await self.loop.create_connection(
            lambda: LineEcho(self), self.setup.addr, self.setup.port
        )
        self.callers.append(caller)

    async def close_all(self) -> None:
        for caller in self.callers:
            caller.transport.abort()
        self.callers.clear()
        await self.runtime.sleep(0.1)


class FanOutStreams(FanOut):
    name = "asyncio streams"
    loops = ("asyncio",)

    async def start(self) -> None:
        self.pairs: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def open_one(self) -> None:
        reader, writer = await asyncio.open_connection(self.setup.addr, self.setup.port)
        writer.write(LINE)
        await reader.readline()
        self.pairs.append((reader, writer))

    async def close_all(self) -> None:
        for _, writer in self.pairs:
            writer.transport.abort()
        self.pairs.clear()
        await self.runtime.sleep(0.1)


class FanOutAnyio(FanOut):
    name = "anyio streams"
    loops = ("asyncio", "trio")

    async def start(self) -> None:
        self.streams: list[anyio.abc.ByteStream] = []

    async def open_one(self) -> None:
        stream = await anyio.connect_tcp(self.setup.addr, self.setup.port)
        await stream.send(LINE)
        await stream.receive()
        self.streams.append(stream)

    async def close_all(self) -> None:
        for stream in self.streams:
            await anyio.aclose_forcefully(stream)
        self.streams.clear()
        await self.runtime.sleep(0.1)


class KeepaliveMulti(FanOut):
    """keepalive.multi, with all time-outs on."""

    name = "keepalive multi"
    loops = ("asyncio", "uvloop", "trio")
    needs = ("keepalive",)
    client: Any = None

    async def open_all(self, count: int) -> None:
        multi = load("keepalive.multi")
        self.awaited = count
        self.done = self.runtime.waiter()
        self.client = multi.MultiClient(
            on_success=self.greet, on_input=self.answered, max_connecting=self.setup.window
        )
        await self.client.__aenter__()
        for _ in range(count):
            self.client.connect(self.setup.addr, self.setup.port)
        await self.done

    def greet(self, peer: Any) -> None:
        peer.send(LINE[:-1])

    def answered(self, peer: Any, unit: bytes) -> None:
        self.awaited -= 1
        if not self.awaited:
            self.done.set_result(None)

    async def close_all(self) -> None:
        await self.client.__aexit__(None, None, None)


class FanOutGo(Go):
    name = "Go net"
    plays: ClassVar[Any] = ("fan-out", "fan-out-at-once")
    remarks: ClassVar = {"fan-out": "net.Dial, 512 at a time; a goroutine and a buffer for each connection"}

    @classmethod
    def command(cls, order: Order) -> list[str]:
        points = ",".join(map(str, order.points))
        site = order.site
        return [str(cls.binary()), order.workload, f"127.0.0.1:{site.echo_port}", str(order.budget), points]


FAN_OUTS: tuple[type[Contender], ...] = (
    FanOutEpoll, FanOutProtocol, FanOutStreams, FanOutAnyio, KeepaliveMulti, FanOutGo,
)  # fmt: skip
