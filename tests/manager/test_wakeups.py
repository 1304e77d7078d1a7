"""Lost wake-ups and deadlocks: heritage pools 3.1 to 3.9."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectError,
    Connection,
    ConnectionManager,
    RequestCancelled,
    ResolveError,
    Reuse,
    StaticResolver,
    TLSConnector,
)
from tests.support import Server, Silent, full_backlog, refused_port

from .stepping import (
    Gate,
    all_usable,
    ask,
    at_rest,
    exchange,
    passing,
    take,
    timed,
    turns,
    unit,
    until,
    virtual,
)

if TYPE_CHECKING:
    import ssl

    from keepalive import Request


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


async def test_3_a_failing_host_passes_the_slot_on(echo_server: Server) -> None:
    """heritage pools 3.3: aiohttp#835, #1623: limit 1, two requests to a bad host both fail, the next
    succeeds."""
    resolver = StaticResolver({"good.test": "127.0.0.1"})
    async with ConnectionManager(max_open=1, max_per_host=1, resolver=resolver) as mgr:
        with refused_port() as refused, anyio.fail_after(5):
            bad = [mgr.allocate("tcp", "bad.test", 80) for _ in range(2)]
            bad += [mgr.allocate("tcp", "127.0.0.1", refused) for _ in range(2)]
            good = mgr.allocate("tcp", "good.test", echo_server.port)
            for request, error in zip(bad, [ResolveError] * 2 + [ConnectError] * 2, strict=True):
                with pytest.raises(error):
                    await request
            async with good as conn:
                await exchange(conn)
        assert mgr.stats().failed == {"resolve": 2, "connect": 2}
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


async def test_6_a_hundred_slow_hosts_are_dialled_at_once(
    echo_server: Server, client_context: ssl.SSLContext
) -> None:
    """heritage pools 3.6: redis-py#3056, PR#2997: no lock serialises dials, nor makes a release wait."""
    tls = {"https": TLSConnector(client_context)}
    with Server(Silent()) as slow:
        async with ConnectionManager(connectors=tls) as mgr:
            held = await ask(mgr, echo_server)
            slow_ones = [
                mgr.allocate("https", slow.host, slow.port, for_addr="localhost", for_port=1 + n)
                for n in range(100)
            ]
            await slow.until(lambda server: server.connections == 100)
            assert mgr.stats().connecting == 100
            held.release()
            async with ask(mgr, echo_server) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
            assert sum(request.cancel() for request in slow_ones) == 100
        assert slow.connections == 0


@pytest.mark.parametrize("free_ones", range(5))
@pytest.mark.parametrize("released", ["before", "while dialling", "after"])
async def test_7_as_many_dials_or_hand_overs_as_waiters(
    echo_server: Server, free_ones: int, released: str
) -> None:
    """heritage pools 3.7: HikariCP#452: N waiters and N slots make N dials or hand-overs, always."""
    gate = Gate()
    async with ConnectionManager(connectors={"tcp": gate}, max_per_host=4) as mgr:
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


async def test_8_server_away_for_long_then_back() -> None:
    """heritage pools 3.8: psycopg#1315, #370: when a refusing server is back, the next request succeeds."""
    async with ConnectionManager(max_per_host=2) as mgr:
        with Server() as server:
            for conn in await take(mgr, server, 2):
                conn.release()
        for _ in range(50):
            with pytest.raises(ConnectError):
                await ask(mgr, server)
        with Server(port=server.port) as back:
            await all_usable(mgr, back, 2)


@virtual
async def test_8_black_hole_for_ten_timeouts_then_back() -> None:
    """heritage pools 3.8: psycopg#1315, #370: the same with a server whose network drops everything."""
    with full_backlog() as hole, ExitStack() as stack:
        async with ConnectionManager(max_per_host=2, max_open=2, timeout=12) as mgr:
            for _ in range(10):
                requests = [mgr.allocate("tcp", hole.host, hole.port) for _ in range(3)]
                await passing(13)
                for request in requests:
                    with pytest.raises(AllocateTimeout):
                        await request
            hole.drain(stack)
            await passing(13)
            async with mgr.allocate("tcp", hole.host, hole.port):
                assert mgr.stats().lent == 1
            assert at_rest(mgr)


async def test_9_success_wipes_out_failures() -> None:
    """heritage pools 3.9: pgbouncer#328: failures leave nothing behind that refuses later requests."""
    async with ConnectionManager(max_per_host=1) as mgr:
        with refused_port() as port:
            pass
        for _ in range(5):
            for _ in range(3):
                with pytest.raises(ConnectError):
                    await mgr.allocate("tcp", "127.0.0.1", port)
            with Server(port=port) as server:
                await all_usable(mgr, server, 1)
