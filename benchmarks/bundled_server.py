"""The bundled server: holds idle connections, closes some when told, and answers where nginx is missing.

Usage: python -m benchmarks.bundled_server CORE|- [CERT_FILE KEY_FILE]
prints its ports as JSON, ends with its input.
It accepts on every loopback address, since a benchmark of many keys needs many addresses, and nobody else's.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import ssl
import struct
import sys
import time
from typing import ClassVar, cast

from benchmarks.orders import BIG, JSON

REPLY = (
    b"HTTP/1.1 200 OK\r\nServer: bundled\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n"
    b"Connection: keep-alive\r\n\r\nHello, world\n"
)


class HttpConnection(asyncio.Protocol):
    """Answers each request at once.  Half-closed by us, it measures until the other side closes too."""

    transport: asyncio.Transport
    open_ones: ClassVar[dict[HttpConnection, None]] = {}
    close_delays: ClassVar[list[float]] = []
    asked_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no sub-class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        if not self.transport.get_extra_info("peername")[0].startswith("127."):
            self.transport.abort()
            return
        self.open_ones[self] = None

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /big "):
            self.transport.write(REPLY.replace(b"13\r\n", b"%d\r\n" % BIG)[: -len(b"Hello, world\n")])
            self.transport.write(bytes(BIG))
            return
        if data.startswith(b"GET /json "):
            head = REPLY.replace(b"13\r\n", b"%d\r\n" % len(JSON))[: -len(b"Hello, world\n")]
            self.transport.write(head + JSON)
            return
        replies = data.count(b"\r\n\r\n")
        self.transport.write(REPLY * replies)
        if b"onnection: close" in data:
            self.transport.close()

    def eof_received(self) -> None:
        if self.asked_at is not None:
            self.close_delays.append(time.perf_counter() - self.asked_at)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_ones.pop(self, None)
        if self.asked_at is not None and exc is not None:
            self.close_delays.append(time.perf_counter() - self.asked_at)


class Echo(asyncio.Protocol):
    """Sends back what comes. It resets at the end, so that no port is left waiting for the next round."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Sink(asyncio.BufferedProtocol):
    """Takes what is uploaded, with a length, into one buffer; then answers."""

    buffer: ClassVar[bytearray] = bytearray(1 << 20)
    transport: asyncio.Transport
    left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, size: int) -> None:
        if not self.left:
            head, _, _ = bytes(self.buffer[: min(size, 4096)]).partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self.left = len(head) + 4 + int(fields.get(b"content-length", 0))
        self.left -= size
        if not self.left:
            self.transport.write(REPLY)


class Control(asyncio.Protocol):
    """Takes "close N" and "tell", a line each."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no sub-class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for line in data.decode().splitlines():
            word, _, count = line.partition(" ")
            if word == "close":
                HttpConnection.close_delays.clear()
                # Every tenth, say, and not the newest ones: the pool must find them among the others.
                step = max(1, len(HttpConnection.open_ones) // int(count))
                for connection in list(HttpConnection.open_ones)[::step][: int(count)]:
                    connection.asked_at = time.perf_counter()
                    connection.transport.write_eof()
            elif word == "tell":
                self.transport.write(json.dumps(HttpConnection.close_delays).encode() + b"\n")


def tls_context(files: list[str], tickets: int) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = tickets
    return context


async def serve(files: list[str]) -> None:
    loop = asyncio.get_running_loop()
    stdin_closed = asyncio.Event()

    async def listen(
        protocol: type[asyncio.BaseProtocol], host: str, context: ssl.SSLContext | None = None
    ) -> int:
        server = await loop.create_server(protocol, host, 0, backlog=4096, ssl=context)
        listening.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    listening: list[asyncio.Server] = []
    ports = {
        "port": await listen(HttpConnection, "127.0.0.1"),
        "hosts_port": await listen(HttpConnection, "0.0.0.0"),
        "hold_port": await listen(HttpConnection, "0.0.0.0"),
        "echo_port": await listen(Echo, "127.0.0.1"),
        "control_port": await listen(Control, "127.0.0.1"),
        "sink_port": await listen(Sink, "127.0.0.1"),
    }
    if files:
        ports["tls_port"] = await listen(HttpConnection, "127.0.0.1", tls_context(files, tickets=0))
        ports["ticket_port"] = await listen(HttpConnection, "127.0.0.1", tls_context(files, tickets=2))
    print(json.dumps(ports), flush=True)
    loop.add_reader(0, lambda: None if os.read(0, 4096) else stdin_closed.set())
    await stdin_closed.wait()
    for server in listening:
        server.close()


def main() -> None:
    core, *files = sys.argv[1:]
    if core != "-":
        os.sched_setaffinity(0, {int(core)})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    factory = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        pass
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(files))


if __name__ == "__main__":
    main()
