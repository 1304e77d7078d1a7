"""Which connection a request gets, and how all ends: heritage poe 2.1 to 2.13, 2.50, 2.51."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import EndOfStream
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, ConnectError, ConnectionManager, Reuse
from tests.support import Server, full_backlog, refused_port
from tests.support.requests import Awaited, ask, exchange
from tests.support.resolvers import HOST, GatedResolver, TableResolver
from tests.support.waiting import until

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
            first, second = ask(mgr, echo_server), ask(mgr, echo_server)
            async with first as conn:
                assert conn.from_cache is None
            async with second as conn:
                assert conn.from_cache is not None
            third = ask(mgr, echo_server)
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
            pair = ask(mgr, echo_server), ask(mgr, echo_server)
            for request in pair:
                async with request as conn:
                    kinds.append(conn.from_cache)
                    await exchange(conn)
        assert kinds == [None, Reuse.DEFERRED, Reuse.IMMEDIATE, Reuse.DEFERRED]
        assert echo_server.accepted == 1


async def test_04_free_each(echo_server: Server) -> None:
    """One of two is shut down both ways: only the intact one is reused; a closed raw socket does no harm."""
    async with ConnectionManager() as mgr:
        intact, spoilt = [await conn for conn in (ask(mgr, echo_server), ask(mgr, echo_server))]
        assert (intact.from_cache, spoilt.from_cache) == (None, None)
        await spoilt.send_eof()
        with pytest.raises(EndOfStream):
            await spoilt.receive()
        address = intact.extra(SocketAttribute.local_address)
        intact.release()
        spoilt.release()
        third = await ask(mgr, echo_server)
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
        conn = await ask(mgr, echo_server)
        assert conn.from_cache is None
        if when == "held":
            echo_server.push(b"unasked\n")
            conn.release()
        else:
            conn.release()
            echo_server.push(b"unasked\n")
        await echo_server.until(lambda server: server.connections == 0)
        async with ask(mgr, echo_server) as conn:
            assert conn.from_cache is None
            await exchange(conn)


async def test_07_keep_alive(echo_server: Server) -> None:
    """After keep_alive seconds the idle one is gone without traffic: all three are new."""
    async with ConnectionManager(keep_alive=0.03) as mgr:
        async with ask(mgr, echo_server) as conn:
            assert conn.from_cache is None
        await echo_server.until(lambda server: server.connections == 0)
        assert mgr.stats().closed == {"expired": 1}
        async with ask(mgr, echo_server) as second, ask(mgr, echo_server) as third:
            assert (second.from_cache, third.from_cache) == (None, None)
        await echo_server.until(lambda server: server.connections == 0)
        assert mgr.stats().closed == {"expired": 3}


async def test_08_quick_reuse(echo_server: Server, other_server: Server) -> None:
    """With max_open 2 and two idle: the third is reused, the fourth, elsewhere, gets the other's place."""
    async with ConnectionManager(max_open=2) as mgr:
        async with ask(mgr, echo_server) as first, ask(mgr, echo_server) as second:
            assert (first.from_cache, second.from_cache) == (None, None)
        third, fourth = ask(mgr, echo_server), ask(mgr, other_server)
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
        first, second = ask(mgr, echo_server), ask(mgr, echo_server)
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
            conn = await ask(mgr, echo_server)
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
                await handle(Awaited(group, ask(mgr, server)))

        async with anyio.create_task_group() as group:
            three = [Awaited(group, ask(mgr, echo_server)) for _ in range(3)]
            group.start_soon(handle, three[0], echo_server, other_server)
            group.start_soon(handle, three[1])
            group.start_soon(handle, three[2])
        stats = mgr.stats()
        assert stats.immediate + stats.deferred + stats.new == stats.requests == 5
        assert echo_server.peak <= 2
        assert other_server.accepted == 1


async def test_05_errors(echo_server: Server) -> None:
    """Each wrong call fails at once, names what is wrong, and leaves everything as it was."""
    make: Any = ConnectionManager
    with pytest.raises(TypeError, match="positional"):
        make(1)
    with pytest.raises(TypeError, match="moo"):
        make(moo=2)
    async with ConnectionManager() as mgr:
        allocate: Any = mgr.allocate
        free: Any = mgr.free
        for given, missing in (((), "scheme"), (("http",), "addr"), (("http", HOST), "port")):
            with pytest.raises(TypeError, match=f"missing .*{missing}"):
                allocate(*given)
        with pytest.raises(TypeError, match="doodle"):
            allocate("http", HOST, 80, doodle=1)
        with pytest.raises(TypeError, match="conn"):
            free()
        with pytest.raises(ValueError, match="None is not a connection"):
            free(None)
        with pytest.raises(ValueError, match="'not a socket' is not a connection"):
            free("not a socket")
        assert mgr.stats().requests == 0
        async with ask(mgr, echo_server) as conn:
            await exchange(conn)


async def test_09_timeout(echo_server: Server) -> None:
    """A negative timeout fails at once, one in the course of connecting does in time; both as ETIMEDOUT."""
    with full_backlog() as hanging:
        async with ConnectionManager(timeout=-1) as mgr:
            first = mgr.allocate("http", HOST, echo_server.port)
            second = mgr.allocate("http", hanging.host, hanging.port, 0.05)
            for request, phase in ((first, "queue"), (second, "connect")):
                with pytest.raises(AllocateTimeout) as caught:
                    await request
                assert caught.value.error_num == caught.value.errno == errno.ETIMEDOUT
                assert caught.value.function == phase
            assert (mgr.stats().timeouts, echo_server.accepted) == (2, 0)


async def test_10_resolver(echo_server: Server) -> None:
    """Two tasks, each with a manager and a resolver of its own: both are served, both end."""
    resolvers = [TableResolver(peer=HOST), TableResolver(peer=HOST)]
    kinds = []

    async def session(resolver: TableResolver) -> None:
        async with ConnectionManager(resolver=resolver) as mgr:
            async with mgr.allocate("http", "peer", echo_server.port) as conn:
                kinds.append(conn.from_cache)
                await exchange(conn)
            mgr.shutdown()

    async with anyio.create_task_group() as group:
        for resolver in resolvers:
            group.start_soon(session, resolver)
    assert kinds == [None, None]
    assert [resolver.asked for resolver in resolvers] == [["peer"], ["peer"]]
    assert (echo_server.accepted, echo_server.connections) == (2, 0)


def test_12_made_outside_of_a_loop(echo_server: Server) -> None:
    """A manager may be made before there is a loop; it begins when it is entered."""

    async def use(mgr: ConnectionManager) -> None:
        async with mgr, ask(mgr, echo_server) as conn:
            await exchange(conn)

    for backend in ("asyncio", "trio"):
        anyio.run(use, ConnectionManager(), backend=backend)
    assert echo_server.accepted == 2


async def test_12_extref() -> None:
    """Manager and server end while a connection is held: its user sees an end of stream, nobody crashes."""
    with Server() as server:
        async with ConnectionManager() as mgr, anyio.create_task_group() as group:
            conn = await Awaited(group, ask(mgr, server)).connection()
            mgr.shutdown()
            await exchange(conn)
            server.disconnect_all()
            with pytest.raises(EndOfStream):
                await conn.receive()
            conn.release()
            assert mgr.stats().open == 0


async def test_50_bisbee_timeout() -> None:
    """A name that does not resolve and no time to wait: one answer, not a second one of the look-up."""
    resolver = GatedResolver()
    async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
        at_once = mgr.allocate("http", "no.such.name", 80, -1)
        with pytest.raises(AllocateTimeout):
            await at_once
        with pytest.raises(RuntimeError, match="awaited before"):
            await at_once
        assert resolver.asked == []  # not even worth a look-up
        late = Awaited(group, mgr.allocate("http", "no.such.name", 80, 0.02))
        assert isinstance(await late.error(), AllocateTimeout)
        resolver.open(OSError("no such name"))
        await until(lambda: mgr.stats().open == 0)
        stats = mgr.stats()
        assert (late.answers, stats.timeouts, stats.failed) == (1, 2, {})
