"""heritage poe 3.13: every event that frees a place wakes the one who waits for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import ConnectionManager, Dial, KeepaliveError, Link
from tests.support import Server

from .kit import HOST, Awaited, Gated, exchange, get, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from keepalive import Connection

    Way = Callable[[Connection, Server], Awaitable[None]]


async def quiet(conn: Connection, server: Server) -> None:
    conn.release()


async def unread(conn: Connection, server: Server) -> None:
    server.push(b"unread")
    conn.release()


async def ended_by_peer(conn: Connection, server: Server) -> None:
    server.disconnect_all()
    conn.release()


async def reset_by_peer(conn: Connection, server: Server) -> None:
    server.reset_all()
    conn.release()


async def half_closed(conn: Connection, server: Server) -> None:
    await conn.send_eof()
    conn.release()


async def raw_socket_closed(conn: Connection, server: Server) -> None:
    conn.extra(SocketAttribute.raw_socket).close()
    conn.release()


async def closed(conn: Connection, server: Server) -> None:
    await conn.aclose()


async def discarded(conn: Connection, server: Server) -> None:
    conn.discard()


async def left_by_exception(conn: Connection, server: Server) -> None:
    with pytest.raises(ZeroDivisionError):
        async with conn:
            raise ZeroDivisionError


async def left_by_cancellation(conn: Connection, server: Server) -> None:
    with anyio.CancelScope() as scope:
        async with conn:
            scope.cancel()
            await conn.receive()


WAYS: list[Way] = [
    quiet,
    unread,
    ended_by_peer,
    reset_by_peer,
    half_closed,
    raw_socket_closed,
    closed,
    discarded,
    left_by_exception,
    left_by_cancellation,
]


@pytest.fixture
def other_server() -> Iterator[Server]:
    with Server() as server:
        yield server


@contextmanager
def unchanged_limit(*servers: Server) -> Iterator[None]:
    """Check that the peers never saw more than one connection at a time."""
    yield
    assert max(server.peak for server in servers) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("waits", ["same key", "other key"])
async def test_every_way_of_giving_back(
    echo_server: Server,
    other_server: Server,
    way: Way,
    waits: str,
) -> None:
    """heritage poe 3.13: whoever waits for the key or for room in all goes on, whatever the connection's
    fate."""
    wanted = echo_server if waits == "same key" else other_server
    with unchanged_limit(echo_server, other_server):
        async with ConnectionManager(max_open=1) as mgr, anyio.create_task_group() as group:
            conn = await get(mgr, echo_server)
            waiting = Awaited(group, get(mgr, wanted))
            await anyio.wait_all_tasks_blocked()
            await way(conn, echo_server)
            async with await waiting.connection() as conn:
                await exchange(conn)
            assert (echo_server.connections, other_server.connections, mgr.stats().open) == (
                (1, 0, 1) if waits == "same key" else (0, 1, 1)
            )


async def test_a_dropped_handle(echo_server: Server) -> None:
    """heritage poe 3.13, 1.63: a connection dropped in use frees its place by itself."""
    with unchanged_limit(echo_server):
        async with ConnectionManager(max_open=1) as mgr, anyio.create_task_group() as group:
            handles = [await get(mgr, echo_server)]
            await exchange(handles[0])
            waiting = Awaited(group, get(mgr, echo_server))
            with pytest.warns(ResourceWarning, match="dropped without being given back"):
                handles.clear()
            async with await waiting.connection() as again:
                assert again.from_cache is None


class Stuck:
    """A connector whose attempts end only when told to, or from outside."""

    def __init__(self) -> None:
        self.goes_on = anyio.Event()
        self.cancelled = 0

    async def connect(self, dial: Dial) -> Link:
        link = await dial.connect_tcp(dial.key.addr, dial.key.port)
        try:
            await self.goes_on.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        dial.give_up(link)
        raise ConnectionRefusedError("told to")


async def failing(mgr: ConnectionManager, first: Awaited, connector: Stuck) -> None:
    connector.goes_on.set()
    await first.error()


async def out_of_time(mgr: ConnectionManager, first: Awaited, connector: Stuck) -> None:
    await first.error()


async def deallocated(mgr: ConnectionManager, first: Awaited, connector: Stuck) -> None:
    assert mgr.deallocate(first.request.id)


async def cancelled(mgr: ConnectionManager, first: Awaited, connector: Stuck) -> None:
    assert first.request.cancel()


ENDS: list[Callable[[ConnectionManager, Awaited, Stuck], Awaitable[None]]] = [
    failing,
    out_of_time,
    deallocated,
    cancelled,
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("limit", ["connect_timeout", "timeout"])
async def test_every_end_of_an_attempt(
    echo_server: Server,
    other_server: Server,
    end: Callable[[ConnectionManager, Awaited, Stuck], Awaitable[None]],
    limit: str,
) -> None:
    """heritage poe 3.13, 1.61, 1.62: the place of an attempt that failed or is not wanted any more is
    used."""
    connector = Stuck()
    short = 0.03 if end is out_of_time else 5.0
    async with (
        ConnectionManager(
            max_open=1, connectors={"stuck": connector}, connect_timeout=short if limit != "timeout" else None
        ) as mgr,
        anyio.create_task_group() as group,
    ):
        request = mgr.allocate("stuck", HOST, echo_server.port, short if limit == "timeout" else 5)
        first = Awaited(group, request)
        await echo_server.until(lambda server: server.connections == 1)
        waiting = Awaited(group, get(mgr, other_server))
        await end(mgr, first, connector)
        assert isinstance(await first.error(), KeepaliveError)
        async with await waiting.connection() as conn:
            await exchange(conn)
        assert (echo_server.connections, mgr.stats().open) == (0, 1)
        assert connector.cancelled == (end is not failing)


async def test_a_failed_look_up(echo_server: Server) -> None:
    """heritage poe 3.13: so does the place of an attempt whose name could not be resolved."""
    resolver = Gated()
    async with (
        ConnectionManager(max_open=1, resolver=resolver) as mgr,
        anyio.create_task_group() as group,
    ):
        first = Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5))
        waiting = Awaited(group, get(mgr, echo_server))
        await until(lambda: resolver.asked == ["peer"])
        resolver.open(OSError("no such name"))
        await first.error()
        (await waiting.connection()).release()


async def test_a_connection_served_but_not_fetched_in_time(echo_server: Server, other_server: Server) -> None:
    """heritage poe 3.13: what was handed to a request nobody awaits goes on when that one's time is over."""
    async with ConnectionManager(max_open=1) as mgr, anyio.create_task_group() as group:
        conn = await get(mgr, echo_server)
        forgotten = get(mgr, echo_server, 0.03)
        conn.release()
        waiting = Awaited(group, get(mgr, other_server))
        assert (mgr.stats().lent, mgr.stats().waiting) == (1, 1)
        (await waiting.connection()).release()
        with pytest.raises(KeepaliveError):
            await forgotten
