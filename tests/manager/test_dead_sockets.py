"""Weak spots of the ancestor (heritage, poe 3): addresses, owners, and what a socket's state says (18, 19,
21, 24)."""

from __future__ import annotations

import errno
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import ConnectError, ConnectionManager, Reuse
from tests.support import Server, has_ipv6, refused_port
from tests.support.requests import Awaited, ask, exchange, warm
from tests.support.resolvers import HOST, TableResolver

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    "first", ["127.0.0.2", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6"))]
)
async def test_all_addresses_are_tried(echo_server: Server, first: str) -> None:
    """heritage poe 3.18, 1.40: the first address refuses, the second serves."""
    async with ConnectionManager(resolver=TableResolver(peer=f"{first} {HOST}")) as mgr:
        async with mgr.allocate("http", "peer", echo_server.port, 5) as conn:
            await exchange(conn)
            assert conn.extra(SocketAttribute.remote_address) == (HOST, echo_server.port)
        assert mgr.stats().failed == {}


async def test_no_address_works() -> None:
    """heritage poe 3.18: one failure, with an errno, when all have been tried."""
    with refused_port() as refused:
        async with ConnectionManager(resolver=TableResolver(peer=f"127.0.0.2 {HOST}")) as mgr:
            with pytest.raises(ConnectError) as caught:
                await mgr.allocate("http", "peer", refused, 5)
            assert (caught.value.function, caught.value.error_num) == ("connect", errno.ECONNREFUSED)
            assert (mgr.stats().open, mgr.stats().failed) == (0, {"connect": 1})


async def test_each_manager_has_its_own_resolver(echo_server: Server) -> None:
    """heritage poe 3.19, 1.8: a resolver serves the manager it was given to, and others' ends do not end
    it."""
    one, two = TableResolver(peer=HOST), TableResolver(peer=HOST)
    async with ConnectionManager(resolver=one) as first:
        async with ConnectionManager(resolver=two) as second:
            async with ConnectionManager(resolver=one) as third, ConnectionManager() as fourth:
                for mgr in (first, second, third):
                    async with mgr.allocate("http", "peer", echo_server.port, 5) as conn:
                        await exchange(conn)
                async with fourth.allocate("http", "localhost", echo_server.port, 5) as conn:
                    await exchange(conn)
            async with first.allocate("http", "peer", echo_server.port, 5, fresh=True) as conn:
                await exchange(conn)
        async with first.allocate("http", "peer", echo_server.port, 5, fresh=True) as conn:
            await exchange(conn)
    assert set(one.asked) == set(two.asked) == {"peer"}
    assert len(one.asked) >= 2
    assert len(two.asked) == 1


DEATHS: dict[str, Callable[[Server], None]] = {
    "end of stream": Server.disconnect_all,
    "reset": Server.reset_all,
    "half-close": Server.half_close_all,
    "data": lambda server: server.push(b"unasked"),
}


@pytest.mark.parametrize("death", DEATHS)
async def test_no_dead_connection_is_handed_out(echo_server: Server, death: str) -> None:
    """heritage poe 3.21: what the kernel knows counts, though no turn of the loop has told it."""
    async with ConnectionManager() as mgr:
        await warm(mgr, echo_server)
        DEATHS[death](echo_server)
        async with ask(mgr, echo_server) as conn:
            assert conn.from_cache is None
            await exchange(conn)
        assert (echo_server.accepted, echo_server.connections) == (2, 1)


@pytest.mark.parametrize("death", DEATHS)
async def test_nor_one_that_dies_between_allocate_and_await(echo_server: Server, death: str) -> None:
    """heritage poe 3.21: the moment of the hand-out counts, not that of the request."""
    async with ConnectionManager() as mgr:
        await warm(mgr, echo_server)
        request = ask(mgr, echo_server)
        DEATHS[death](echo_server)
        async with request as conn:
            assert conn.from_cache is None
            await exchange(conn)


@pytest.mark.parametrize("death", DEATHS)
async def test_nor_one_that_dies_on_its_way_to_who_waits(echo_server: Server, death: str) -> None:
    """heritage poe 3.21: the same for a deferred one; the request keeps its place in the line."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        waiting, last = (Awaited(group, ask(mgr, echo_server)) for _ in range(2))
        await anyio.wait_all_tasks_blocked()
        held.release()
        DEATHS[death](echo_server)
        async with await waiting.connection() as conn:
            assert conn.from_cache is None
            await exchange(conn)
            assert not last.done.is_set()
        async with await last.connection() as conn:
            assert conn.from_cache is Reuse.DEFERRED
        assert (echo_server.accepted, echo_server.peak) == (2, 1)


async def test_of_several_idle_ones_a_living_one_is_found(line_server: Server) -> None:
    """heritage poe 3.21: the dead are passed over, also if the one that lives is the coldest."""
    async with ConnectionManager() as mgr:
        survivor, *dying = [await ask(mgr, line_server, fresh=True) for _ in range(3)]
        port = survivor.extra(SocketAttribute.local_port)
        survivor.release()
        for conn in dying:
            await conn.send(b"quit\n")
            conn.release()
        line_server.wait_for(lambda server: server.connections == 1)  # the loop has not had a turn
        async with ask(mgr, line_server) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
            assert conn.extra(SocketAttribute.local_port) == port
            await conn.send(b"alive\n")
            assert await conn.receive() == b"ALIVE\n"
        assert (line_server.connections, mgr.stats().open) == (1, 1)


@pytest.mark.parametrize("how", ["closed", "detached"])
async def test_a_raw_socket_taken_away(echo_server: Server, how: str) -> None:
    """heritage poe 3.24, 1.66: its handle can be given back, its place is free, the socket is left alone."""
    async with ConnectionManager(max_open=1) as mgr:
        conn = await ask(mgr, echo_server)
        raw: socket.socket = conn.extra(SocketAttribute.raw_socket)
        number = raw.fileno()
        if how == "closed":
            raw.close()
        else:
            raw.detach()
        conn.release()
        assert mgr.stats().open == 0
        if how == "detached":
            with closing(socket.socket(fileno=number)) as own:
                own.setblocking(True)
                own.sendall(b"mine")
                assert own.recv(9) == b"mine"
        async with ask(mgr, echo_server) as conn:
            assert conn.from_cache is None
            await exchange(conn)
