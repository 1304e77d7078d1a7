"""heritage poe 2.1 to 2.13, 2.50, 2.51: which connection a request gets, and what becomes of those given
back."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import EndOfStream
from anyio.abc import SocketAttribute

from keepalive import ConnectError, ConnectionManager, Reuse
from tests.support import Server, refused_port

from .kit import HOST, Awaited, exchange, get

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def other_server() -> Iterator[Server]:
    with Server() as server:
        yield server


async def test_01_socket_reuse(echo_server: Server) -> None:
    """A host name, defaults: the first connection is new, the second is the first one again."""
    async with ConnectionManager() as mgr:
        async with mgr.allocate("http", "localhost", echo_server.port) as conn:
            assert conn.from_cache is None
            await exchange(conn)
        async with mgr.allocate("http", "localhost", echo_server.port) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
            await exchange(conn)
        assert echo_server.accepted == 1


async def test_02_socket_queue(echo_server: Server) -> None:
    """With max_open 1: new, then twice from the cache, then the idle one makes room for a refused attempt."""
    with refused_port() as refused:
        async with ConnectionManager(max_open=1) as mgr:
            first, second = get(mgr, echo_server), get(mgr, echo_server)
            async with first as conn:
                assert conn.from_cache is None
            async with second as conn:
                assert conn.from_cache is not None
            third = get(mgr, echo_server)
            fourth = mgr.allocate("http", HOST, refused, 5)
            async with third as conn:
                assert conn.from_cache is not None
                await exchange(conn)
                assert (mgr.stats().open, echo_server.connections) == (1, 1)
            with pytest.raises(ConnectError) as caught:
                await fourth
            assert caught.value.function == "connect"
            assert caught.value.error_num == errno.ECONNREFUSED
            assert caught.value.error_str == os.strerror(errno.ECONNREFUSED)
            assert (echo_server.connections, echo_server.peak) == (0, 1)


async def test_03_each_queue(echo_server: Server) -> None:
    """With max_per_host 1: new, deferred, immediate, deferred."""
    async with ConnectionManager(max_per_host=1) as mgr:
        kinds = []
        for _ in range(2):
            pair = get(mgr, echo_server), get(mgr, echo_server)
            for request in pair:
                async with request as conn:
                    kinds.append(conn.from_cache)
                    await exchange(conn)
        assert kinds == [None, Reuse.DEFERRED, Reuse.IMMEDIATE, Reuse.DEFERRED]
        assert echo_server.accepted == 1


async def test_04_free_each(echo_server: Server) -> None:
    """One of two is shut down both ways: only the intact one is reused; a closed raw socket does no harm."""
    async with ConnectionManager() as mgr:
        intact, spoilt = [await conn for conn in (get(mgr, echo_server), get(mgr, echo_server))]
        assert (intact.from_cache, spoilt.from_cache) == (None, None)
        await spoilt.send_eof()
        with pytest.raises(EndOfStream):
            await spoilt.receive()
        address = intact.extra(SocketAttribute.local_address)
        intact.release()
        spoilt.release()
        third = await get(mgr, echo_server)
        assert third.from_cache is Reuse.IMMEDIATE
        assert third.extra(SocketAttribute.local_address) == address
        third.extra(SocketAttribute.raw_socket).close()
        third.release()
        assert mgr.stats().open == 0
        await echo_server.until(lambda server: server.connections == 0)


@pytest.mark.parametrize("when", ["held", "idle"])
async def test_06_activity(echo_server: Server, when: str) -> None:
    """What the server sends unasked, before or after the release, never reaches the next user."""
    async with ConnectionManager() as mgr:
        conn = await get(mgr, echo_server)
        assert conn.from_cache is None
        if when == "held":
            echo_server.push(b"unasked\n")
            conn.release()
        else:
            conn.release()
            echo_server.push(b"unasked\n")
        await echo_server.until(lambda server: server.connections == 0)
        async with get(mgr, echo_server) as conn:
            assert conn.from_cache is None
            await exchange(conn)


async def test_07_keep_alive(echo_server: Server) -> None:
    """After keep_alive seconds the idle one is gone without traffic: all three are new."""
    async with ConnectionManager(keep_alive=0.03) as mgr:
        async with get(mgr, echo_server) as conn:
            assert conn.from_cache is None
        await echo_server.until(lambda server: server.connections == 0)
        assert mgr.stats().closed == {"expired": 1}
        async with get(mgr, echo_server) as second, get(mgr, echo_server) as third:
            assert (second.from_cache, third.from_cache) == (None, None)
        await echo_server.until(lambda server: server.connections == 0)
        assert mgr.stats().closed == {"expired": 3}


async def test_08_quick_reuse(echo_server: Server, other_server: Server) -> None:
    """With max_open 2 and two idle: the third is reused, the fourth, elsewhere, gets the other's place."""
    async with ConnectionManager(max_open=2) as mgr:
        async with get(mgr, echo_server) as first, get(mgr, echo_server) as second:
            assert (first.from_cache, second.from_cache) == (None, None)
        third, fourth = get(mgr, echo_server), get(mgr, other_server)
        async with third as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
            await exchange(conn)
        async with fourth as conn:
            assert conn.from_cache is None
            await exchange(conn)
        assert (echo_server.connections, other_server.connections) == (1, 1)
        assert mgr.stats().closed == {"evicted": 1}


async def test_11_dead_socket(echo_server: Server) -> None:
    """Given back after the server's end has come, a connection is not reused for the one that waits."""
    async with ConnectionManager(max_per_host=1) as mgr:
        first, second = get(mgr, echo_server), get(mgr, echo_server)
        async with first as conn:
            assert conn.from_cache is None
            echo_server.push(b"one")
            assert await conn.receive() == b"one"
            echo_server.disconnect_all()
        async with second as conn:
            assert conn.from_cache is None
            echo_server.push(b"two")
            assert await conn.receive() == b"two"
            echo_server.disconnect_all()
            with pytest.raises(EndOfStream):
                await conn.receive()
        assert (echo_server.accepted, echo_server.peak) == (2, 1)


async def test_13_close(echo_server: Server) -> None:
    """Closing gives the place back at once."""
    async with ConnectionManager(max_open=1, max_per_host=1, keep_alive=1) as mgr:
        for _ in range(2):
            conn = await get(mgr, echo_server)
            assert conn.from_cache is None
            await exchange(conn)
            await conn.aclose()
        assert (echo_server.accepted, echo_server.peak, mgr.stats().open) == (2, 1, 0)


async def test_51_reiss_reuse(echo_server: Server, other_server: Server) -> None:
    """With max_open 2, five requests at two servers, two of them made by the first one's handler."""
    async with ConnectionManager(max_open=2, max_per_host=2) as mgr:

        async def handle(request: Awaited, *then: Server) -> None:
            conn = await request.connection()
            conn.release()
            for server in then:
                await handle(Awaited(group, get(mgr, server)))

        async with anyio.create_task_group() as group:
            three = [Awaited(group, get(mgr, echo_server)) for _ in range(3)]
            group.start_soon(handle, three[0], echo_server, other_server)
            group.start_soon(handle, three[1])
            group.start_soon(handle, three[2])
        stats = mgr.stats()
        assert stats.immediate + stats.deferred + stats.new == stats.requests == 5
        assert echo_server.peak <= 2
        assert other_server.accepted == 1
