"""Every event that frees a place wakes one who waits, and none is lost."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import (
    AllocateTimeout,
    Connection,
    ConnectionManager,
    Dial,
    KeepaliveError,
    Link,
    RequestCancelled,
    Reuse,
)
from tests.support import Server
from tests.support.clocks import passing, timed, unit
from tests.support.connectors import Gate
from tests.support.requests import Awaited, all_usable, ask, at_rest, exchange, take
from tests.support.resolvers import HOST, GatedResolver
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from keepalive import Request

    Way = Callable[[Connection, Server], Awaitable[None]]


async def fetch(mgr: ConnectionManager, server: Server, into: list[Connection]) -> None:
    into.append(await ask(mgr, server))


@pytest.mark.parametrize("how", ["scope", "cancel", "deallocate"])
async def test_1_woken_waiter_is_cancelled_before_it_runs(echo_server: Server, how: str) -> None:
    """heritage pools 3.1: aiohttp#9670, cpython#90155: A frees and B is cancelled in the same tick; C gets
    it."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        b = ask(mgr, echo_server)
        scope = anyio.CancelScope()
        got: list[Connection] = []

        async def task_b() -> None:
            with scope:
                with pytest.raises(RequestCancelled):
                    await b
                assert how != "scope"

        group.start_soon(task_b)
        await turns()
        group.start_soon(fetch, mgr, echo_server, got)
        await turns()
        held.release()
        if how == "scope":
            scope.cancel()
        else:
            assert b.cancel() if how == "cancel" else mgr.deallocate(b.id)
        await until(lambda: bool(got))
        assert (got[0].from_cache, echo_server.accepted) == (Reuse.DEFERRED, 1)
        got[0].release()
        assert at_rest(mgr)


async def test_2_every_second_waiter_is_cancelled_at_its_wake_up(echo_server: Server) -> None:
    """heritage pools 3.2: anyio#947, anyio#1170: no token is lost to a cancelled waiter, none granted
    twice."""
    async with ConnectionManager(max_per_host=3) as mgr, anyio.create_task_group() as group:
        held = await take(mgr, echo_server, 3)
        scopes = [anyio.CancelScope() for _ in range(30)]
        got: list[Connection] = []

        async def waiter(scope: anyio.CancelScope, request: Request) -> None:
            with scope:
                got.append(await request)

        for scope in scopes:
            group.start_soon(waiter, scope, ask(mgr, echo_server))
        await turns()
        for first in range(0, 30, 6):
            for conn in held:
                conn.release()  # wakes three, in order
            for scope in scopes[first : first + 3]:
                scope.cancel()
            await until(lambda: len(got) == 3)
            assert mgr.stats().lent == 3
            held, got[:] = got[:], []
        assert (mgr.stats().waiting, mgr.stats().cancelled, echo_server.accepted) == (0, 15, 3)
        for conn in held:
            conn.release()
        assert at_rest(mgr)


@timed
async def test_4_timed_out_waiters_leave_the_queue(echo_server: Server) -> None:
    """heritage pools 3.4: httpcore PR#502: after the timeouts nobody waits and the slots are free."""
    async with ConnectionManager(max_per_host=2, keep_alive=None) as mgr, anyio.create_task_group() as group:
        held = await take(mgr, echo_server, 2)
        requests = [ask(mgr, echo_server, 10 * unit()) for _ in range(20)]

        async def late(number: int) -> None:
            with pytest.raises(AllocateTimeout) as caught:
                await requests[number]
            assert caught.value.function == "queue"

        for number in range(0, 20, 2):  # every second one has nobody who awaits it
            group.start_soon(late, number)
        await passing(11)
        await until(lambda: mgr.stats().timeouts == 20)
        assert (mgr.stats().waiting, mgr.stats().queued) == (0, 0)
        for conn in held:
            conn.release()
        await all_usable(mgr, echo_server, 2)
        assert echo_server.accepted == 2


@pytest.mark.parametrize("when", ["before the release", "before the fetch", "after the fetch"])
async def test_5_peer_closes_at_hand_over(echo_server: Server, when: str) -> None:
    """heritage pools 3.5: go#32336, go#65705: the next waiter is dialled for, nobody waits for ever."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        got: list[Connection] = []
        group.start_soon(fetch, mgr, echo_server, got)
        group.start_soon(fetch, mgr, echo_server, got)
        await turns()
        if when == "before the release":
            echo_server.disconnect_all()
        held.release()
        if when == "before the fetch":
            echo_server.disconnect_all()
        await until(lambda: len(got) == 1)
        if when == "after the fetch":
            echo_server.disconnect_all()
            with pytest.raises(anyio.EndOfStream):
                await got[0].receive()
        else:
            await exchange(got[0])
        got[0].release()
        await until(lambda: len(got) == 2)
        await exchange(got[1])
        got[1].release()
        assert (at_rest(mgr), echo_server.peak, echo_server.accepted) == (True, 1, 2)


@pytest.mark.parametrize("free_ones", range(5))
@pytest.mark.parametrize("released", ["before", "while dialling", "after"])
async def test_7_as_many_dials_or_hand_overs_as_waiters(
    echo_server: Server, free_ones: int, released: str
) -> None:
    """heritage pools 3.7: HikariCP#452: N waiters and N slots make N dials or hand-overs, always."""
    gate = Gate()
    async with ConnectionManager(connectors={"http": gate}, max_per_host=4) as mgr:
        gate.open()
        held = await take(mgr, echo_server, free_ones)
        gate.shut()
        if released == "before":
            for conn in held:
                conn.release()
        requests = [ask(mgr, echo_server) for _ in range(4)]
        await turns()
        if released == "while dialling":
            for conn in held:
                conn.release()
        gate.open()
        got = [await request for request in requests[: 4 - free_ones]]
        if released == "after":
            for conn in held:
                conn.release()
        got += [await request for request in requests[4 - free_ones :]]
        assert len({id(conn) for conn in got}) == 4
        assert mgr.stats().lent == 4
        for conn in got:
            await exchange(conn)
            conn.release()
        assert at_rest(mgr)
        assert echo_server.accepted == echo_server.peak == 4


async def test_7_waiters_and_releases_in_random_order(echo_server: Server) -> None:
    """heritage pools 3.7: HikariCP#452, in 300 random orders of requests, releases, discards and turns."""
    rng = random.Random(7)
    async with ConnectionManager(max_per_host=4) as mgr:
        held: list[Connection] = []
        for _ in range(300):
            requests = [ask(mgr, echo_server) for _ in range(4)]
            while held:
                conn = held.pop(rng.randrange(len(held)))
                conn.release() if rng.random() < 0.8 else conn.discard()
                await turns(rng.randrange(3))
            held = [await request for request in requests]
        for conn in held:
            conn.release()
        assert at_rest(mgr)
        assert echo_server.peak == 4


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
    # heritage poe 1.51.
    wanted = echo_server if waits == "same key" else other_server
    with unchanged_limit(echo_server, other_server):
        async with ConnectionManager(max_open=1) as mgr, anyio.create_task_group() as group:
            conn = await ask(mgr, echo_server)
            waiting = Awaited(group, ask(mgr, wanted))
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
            handles = [await ask(mgr, echo_server)]
            await exchange(handles[0])
            waiting = Awaited(group, ask(mgr, echo_server))
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
        waiting = Awaited(group, ask(mgr, other_server))
        await end(mgr, first, connector)
        assert isinstance(await first.error(), KeepaliveError)
        async with await waiting.connection() as conn:
            await exchange(conn)
        assert (echo_server.connections, mgr.stats().open) == (0, 1)
        assert connector.cancelled == (end is not failing)


async def test_a_failed_look_up(echo_server: Server) -> None:
    """heritage poe 3.13: so does the place of an attempt whose name could not be resolved."""
    resolver = GatedResolver()
    async with (
        ConnectionManager(max_open=1, resolver=resolver) as mgr,
        anyio.create_task_group() as group,
    ):
        first = Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5))
        waiting = Awaited(group, ask(mgr, echo_server))
        await until(lambda: resolver.asked == ["peer"])
        resolver.open(OSError("no such name"))
        await first.error()
        (await waiting.connection()).release()


async def test_a_connection_served_but_not_fetched_in_time(echo_server: Server, other_server: Server) -> None:
    """heritage poe 3.13: what was handed to a request nobody awaits goes on when that one's time is over."""
    async with ConnectionManager(max_open=1) as mgr, anyio.create_task_group() as group:
        conn = await ask(mgr, echo_server)
        forgotten = ask(mgr, echo_server, 0.03)
        conn.release()
        waiting = Awaited(group, ask(mgr, other_server))
        assert (mgr.stats().lent, mgr.stats().waiting) == (1, 1)
        (await waiting.connection()).release()
        with pytest.raises(KeepaliveError):
            await forgotten
