"""Bytes flow as fast as both sides want, none is lost or read too early, and others get their turn."""

from __future__ import annotations

import hashlib
import random
import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSStream

from keepalive import ConnectionManager, Reuse
from tests.support import Deaf, Lines
from tests.support.behaviours import Flood, Sum
from tests.support.recorder import Recorder
from tests.support.requests import exchange, receive_exactly
from tests.support.waiting import turns

if TYPE_CHECKING:
    import ssl

    from keepalive import Connection
    from tests.support import Server
    from tests.support.wires import Wire

MB = 1_000_000


# -- what is not asked for stays where it is ---------------------------------------------------------


async def test_nothing_is_read_ahead(net: Wire) -> None:
    flood = Flood(30 * MB)
    with net.serve(flood) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            got = await conn.receive(1)
            async with net.ask(manager, server) as other:  # a flood too: time for the first one to go on
                await receive_exactly(other, 5 * MB)
            # The kernel's two buffers are full (some MB each), and 64 kB may be here.
            assert flood.taken() < 15 * MB
            got += await receive_exactly(conn, 30 * MB - 1)
            assert got == flood.data


async def test_sending_waits_for_the_peer(net: Wire) -> None:
    done = anyio.Event()
    with net.serve(Deaf(), receive_buffer=4096) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:

            async def send_much() -> None:
                await conn.send(bytes(20 * MB))
                done.set()

            async with anyio.create_task_group() as group:
                group.start_soon(send_much)
                for _ in range(5):  # other connections are not held up
                    async with net.ask(manager, server) as other:
                        await other.send(b"x")
                assert not done.is_set()
                # A peer turns deaf when its handshake is over: only then can it listen again.
                shaken = 0 if net.name in ("tcp", "unix") else 2
                await server.until(lambda server: (server.accepted, server.handshakes) == (2, shaken))
                server.resume_reading()
                await done.wait()
            await server.until(lambda server: server.received == 20 * MB + 5)


# -- cancellation ------------------------------------------------------------------------------------


async def test_a_cancelled_receive_loses_no_byte(net: Wire) -> None:
    rng = random.Random(7)
    sent = bytes(rng.randrange(256) for _ in range(30_000))
    got = bytearray()
    cancelled = 0
    with net.serve() as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:

            async def send_bit_by_bit() -> None:
                at = 0
                while at < len(sent):
                    size = rng.randrange(1, 60)
                    await conn.send(sent[at : at + size])
                    at += size
                    await turns(rng.randrange(3))

            async with anyio.create_task_group() as group:
                group.start_soon(send_bit_by_bit)
                while len(got) < len(sent):
                    with anyio.CancelScope() as scope:
                        group.start_soon(cancel_soon, scope, rng.randrange(4))
                        got += await conn.receive(rng.choice([1, 10, 65536]))
                    cancelled += scope.cancelled_caught
            assert got == sent
            assert cancelled > 50
            await exchange(conn)
        assert server.accepted == 1


async def cancel_soon(scope: anyio.CancelScope, delay: int) -> None:
    """Cancel after some turns of the loop."""
    await turns(delay)
    scope.cancel()


async def test_a_cancelled_send_is_not_reused(net: Wire) -> None:
    recorder = Recorder()
    with net.serve(Deaf(), receive_buffer=4096) as server:
        async with net.manager(max_per_host=1, observer=recorder) as manager:
            conn = await net.ask(manager, server)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel_soon, scope, 20)
                    await conn.send(bytes(20 * MB))
            assert scope.cancelled_caught
            conn.release()
            assert recorder.reasons() == ["busy"]
            async with net.ask(manager, server) as other:
                assert other.from_cache is None


async def test_a_send_cancelled_before_it_began_sent_nothing(net: Wire) -> None:
    """In a cancelled scope a small send goes out whole or not at all, and the connection stays good."""
    with net.serve() as server:
        async with net.manager() as manager:
            async with net.ask(manager, server) as conn:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    for _ in range(200):
                        await conn.send(b"ab")
                    raise AssertionError("200 sends in a row, and no look at cancellation")
                await conn.send(b"!")
                got = b""
                while not got.endswith(b"!"):
                    got += await conn.receive()
                assert set(got[:-1]) <= set(b"ab")
                assert len(got) % 2 == 1
            async with net.ask(manager, server) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE


# -- half an end -------------------------------------------------------------------------------------


async def test_send_eof_leaves_the_other_direction_open(wire: Wire) -> None:
    answer = random.Random(1).randbytes(3 * MB)
    data = random.Random(2).randbytes(2 * MB)
    recorder = Recorder()
    with wire.serve(Sum(answer)) as server:
        async with wire.manager(observer=recorder) as manager, wire.ask(manager, server) as conn:
            await conn.send(data)
            await conn.send_eof()
            await conn.send_eof()  # idempotent
            got = bytearray()
            with pytest.raises(anyio.EndOfStream):
                while True:
                    got += await conn.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await conn.send(b"more")
    head = b"%d %s\n" % (len(data), hashlib.sha256(data).hexdigest().encode())
    assert got == head + answer
    assert recorder.reasons() == ["busy"]


async def test_send_eof_with_a_full_kernel_buffer(net: Wire) -> None:
    """TLS's own end needs room in the buffer like any byte; it must not be forgotten for want of it."""
    with net.serve(Sum(), receive_buffer=4096) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            conn.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await conn.send(b"x")
            await server.until(lambda server: server.received == 1)
            server.pause_reading()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel_soon, scope, 20)
                    await conn.send(bytes(MB))
            async with anyio.create_task_group() as group:
                group.start_soon(conn.send_eof)
                await turns()
                server.resume_reading()
            with anyio.fail_after(5):
                answer = await conn.receive()
            assert 0 < int(answer.split()[0]) < MB


# -- a true ByteStream -------------------------------------------------------------------------------


async def test_anyios_buffered_stream_over_it(wire: Wire) -> None:
    with wire.serve(Lines()) as server:
        async with wire.manager() as manager, wire.ask(manager, server) as conn:
            buffered = BufferedByteReceiveStream(conn)
            await conn.send(b"one\ntwo\nthree\n")
            assert await buffered.receive_until(b"\n", 100) == b"ONE"
            assert await buffered.receive_exactly(4) == b"TWO\n"
            assert await buffered.receive_until(b"\n", 100) == b"THREE"


async def test_anyios_tls_over_it(tls_server: Server, client_context: ssl.SSLContext) -> None:
    recorder = Recorder()
    async with ConnectionManager(max_per_host=1, observer=recorder) as manager:
        for _ in range(2):
            conn = await manager.allocate("plain", tls_server.host, tls_server.port, timeout=5)
            tls = await TLSStream.wrap(conn, hostname="localhost", ssl_context=client_context)
            await exchange(tls, b"x" * 100_000)
            await tls.aclose()  # closes what is below, too
            assert manager.stats().open == 0
    assert recorder.reasons() == ["discarded"] * 2


# -- size and fairness -------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [64_000, 50 * MB])
async def test_50_mb_both_ways(net: Wire, at_once: int) -> None:
    data = random.Random(3).randbytes(5 * MB) * 10
    got = hashlib.sha256()
    with net.serve() as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:

            async def send_all() -> None:
                for at in range(0, len(data), at_once):
                    await conn.send(data[at : at + at_once])

            async with anyio.create_task_group() as group:
                group.start_soon(send_all)
                left = len(data)
                while left:
                    chunk = await conn.receive()
                    got.update(chunk)
                    left -= len(chunk)
        assert server.accepted == 1
    assert got.digest() == hashlib.sha256(data).digest()


class Ticker:
    """Count how many turns the loop gives to another task."""

    def __init__(self) -> None:
        self.ticks = 0

    async def run(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.ticks += 1


async def test_a_fast_reader_lets_others_run(net: Wire) -> None:
    ticker = Ticker()
    with net.serve(Flood(MB)) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            async with anyio.create_task_group() as group:
                group.start_soon(ticker.run)
                for _ in range(20_000):
                    await conn.receive(16)
                group.cancel_scope.cancel()
            conn.discard()
    assert ticker.ticks >= 20_000 // 100


async def many_sends(conn: Connection) -> None:
    for _ in range(20_000):
        await conn.send(b"x" * 16)


async def one_send(conn: Connection) -> None:
    await conn.send(bytes(50 * MB))


@pytest.mark.parametrize(("sending", "least"), [(many_sends, 200), (one_send, 2)])
async def test_a_fast_writer_lets_others_run(net: Wire, sending: object, least: int) -> None:
    ticker = Ticker()
    with net.serve(Sum()) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            async with anyio.create_task_group() as group:
                group.start_soon(ticker.run)
                await (many_sends if sending is many_sends else one_send)(conn)
                group.cancel_scope.cancel()
            conn.discard()
    assert ticker.ticks >= least
