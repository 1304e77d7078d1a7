"""heritage poe 2.1 to 2.13, 2.50, 2.51: wrong calls, time-outs, resolvers, managers that end early."""

from __future__ import annotations

import errno
from typing import Any

import anyio
import pytest
from anyio import EndOfStream

from keepalive import AllocateTimeout, ConnectionManager
from tests.support import Server, full_backlog

from .kit import HOST, Awaited, Gated, Table, exchange, get, until


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
        async with get(mgr, echo_server) as conn:
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
    resolvers = [Table(peer=HOST), Table(peer=HOST)]
    kinds = []

    async def session(resolver: Table) -> None:
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
        async with mgr, get(mgr, echo_server) as conn:
            await exchange(conn)

    for backend in ("asyncio", "trio"):
        anyio.run(use, ConnectionManager(), backend=backend)
    assert echo_server.accepted == 2


async def test_12_extref() -> None:
    """Manager and server end while a connection is held: its user sees an end of stream, nobody crashes."""
    with Server() as server:
        async with ConnectionManager() as mgr, anyio.create_task_group() as group:
            conn = await Awaited(group, get(mgr, server)).connection()
            mgr.shutdown()
            await exchange(conn)
            server.disconnect_all()
            with pytest.raises(EndOfStream):
                await conn.receive()
            conn.release()
            assert mgr.stats().open == 0


async def test_50_bisbee_timeout() -> None:
    """A name that does not resolve and no time to wait: one answer, not a second one of the look-up."""
    resolver = Gated()
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
