"""Attempts: how many begin, whose they are, hosts that fail, and what outlives a request."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectError,
    Connection,
    ConnectionManager,
    Key,
    Observer,
    Request,
    RequestCancelled,
    ResolveError,
    Reuse,
    StaticResolver,
    TLSConnector,
)
from tests.support import Server, Silent, full_backlog, refused_port
from tests.support.clocks import passing, timed, unit, virtual
from tests.support.connectors import Gate
from tests.support.requests import Awaited, all_usable, ask, at_rest, exchange, take
from tests.support.resolvers import HOST, GatedResolver
from tests.support.waiting import until

if TYPE_CHECKING:
    import ssl


async def test_attempts_start_together(echo_server: Server) -> None:
    """heritage poe 1.50, 1.56: within the limits nobody waits for another's attempt, nor does the caller."""
    resolver = GatedResolver()
    async with ConnectionManager(max_per_host=3, resolver=resolver) as mgr:
        requests = [mgr.allocate("http", "peer", echo_server.port, 5) for _ in range(5)]
        assert (mgr.stats().connecting, mgr.stats().queued) == (3, 2)
        resolver.open()
        for request in requests:
            (await request).release()
        assert echo_server.accepted == 3


class Attempts(Observer):
    """Counts attempts."""

    def __init__(self) -> None:
        self.count = 0

    def opening(self, key: Key, connection_id: int) -> None:
        self.count += 1


async def test_one_attempt_and_no_other_after_it_failed() -> None:
    """heritage poe 1.56, 1.61: no retry; the failure is the requester's to judge."""
    attempts = Attempts()
    with refused_port() as refused:
        async with ConnectionManager(observer=attempts) as mgr:
            with pytest.raises(ConnectError):
                await mgr.allocate("http", HOST, refused, 5)
            assert (attempts.count, mgr.stats().open, mgr.stats().opened) == (1, 0, 0)


async def test_each_failed_attempt_fails_the_oldest_alone() -> None:
    """heritage poe 1.61, contract: one after the other, each by an attempt of its own."""
    attempts = Attempts()
    resolver = GatedResolver()
    with refused_port() as refused:
        async with (
            ConnectionManager(max_per_host=1, observer=attempts, resolver=resolver) as mgr,
            anyio.create_task_group() as group,
        ):
            requests = [Awaited(group, mgr.allocate("http", "peer", refused, 5)) for _ in range(3)]
            resolver.open()
            for done, request in enumerate(requests, 1):
                assert isinstance(await request.error(), ConnectError)
                assert attempts.count >= done
            assert (attempts.count, mgr.stats().failed) == (3, {"connect": 3})


async def test_an_attempt_belongs_to_its_key(echo_server: Server) -> None:
    """heritage poe 1.57, as the contract changes it: who is served otherwise leaves its attempt to the
    next."""
    resolver = GatedResolver()
    async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
        resolver.open()
        held: Connection = await mgr.allocate("http", "peer", echo_server.port, 5)
        resolver.gate = anyio.Event()
        first = mgr.allocate("http", "peer", echo_server.port, 5)
        held.release()
        held = await first
        assert (held.from_cache, mgr.stats().connecting) == (Reuse.DEFERRED, 1)
        second = Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5))
        resolver.open()
        async with await second.connection() as conn:
            assert conn.from_cache is None
            await exchange(conn)
        held.release()
        assert echo_server.accepted == mgr.stats().opened == 2


async def test_3_a_failing_host_passes_the_slot_on(echo_server: Server) -> None:
    """heritage pools 3.3: aiohttp#835, #1623: limit 1, two requests to a bad host both fail, the next
    succeeds."""
    resolver = StaticResolver({"good.test": "127.0.0.1"})
    async with ConnectionManager(max_open=1, max_per_host=1, resolver=resolver) as mgr:
        with refused_port() as refused, anyio.fail_after(5):
            bad = [mgr.allocate("http", "bad.test", 80) for _ in range(2)]
            bad += [mgr.allocate("http", "127.0.0.1", refused) for _ in range(2)]
            good = mgr.allocate("http", "good.test", echo_server.port)
            for request, error in zip(bad, [ResolveError] * 2 + [ConnectError] * 2, strict=True):
                with pytest.raises(error):
                    await request
            async with good as conn:
                await exchange(conn)
        assert mgr.stats().failed == {"resolve": 2, "connect": 2}
        assert at_rest(mgr)


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
                requests = [mgr.allocate("http", hole.host, hole.port) for _ in range(3)]
                await passing(13)
                for request in requests:
                    with pytest.raises(AllocateTimeout):
                        await request
            hole.drain(stack)
            await passing(13)
            async with mgr.allocate("http", hole.host, hole.port):
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
                    await mgr.allocate("http", "127.0.0.1", port)
            with Server(port=port) as server:
                await all_usable(mgr, server, 1)


@timed
async def test_49_short_deadlines(echo_server: Server) -> None:
    """heritage pools 3.49: go#59017: time-out 10 ms, dial 50 ms, ten requests in a row: one gets a
    connection."""
    gate = Gate()
    served: list[bool] = []
    async with (
        ConnectionManager(connectors={"http": gate}) as mgr,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_let_time_pass)
        group.start_soon(_open_after, gate, 5)
        while len(served) < 10:
            try:
                (await ask(mgr, echo_server, unit())).release()
                served.append(True)
            except AllocateTimeout:
                served.append(False)
        group.cancel_scope.cancel()
        assert not served[0]
        assert served[9]
        assert (gate.begun, echo_server.accepted, mgr.stats().idle) == (1, 1, 1)


async def _let_time_pass() -> None:
    while True:
        await passing(0.25)


async def _open_after(gate: Gate, seconds: float) -> None:
    await anyio.sleep(seconds * unit())
    gate.open()


@virtual
async def test_49_one_spare_attempt_for_ten_seconds_at_most(echo_server: Server) -> None:
    """heritage pools 3.49: go#59017, go#76784: an attempt that nobody waits for has its time, too."""
    gate = Gate()
    async with ConnectionManager(connectors={"http": gate}, max_per_host=4) as mgr:
        requests = [ask(mgr, echo_server) for _ in range(4)]
        await until(lambda: gate.waiting == 4)
        for request in requests:
            request.cancel()
        await until(lambda: gate.waiting == 1)
        await passing(9.9)
        assert (gate.waiting, mgr.stats().connecting) == (1, 1)
        await passing(0.2)
        assert (gate.waiting, mgr.stats().open) == (0, 0)
        gate.open()
        await all_usable(mgr, echo_server, 4)


@pytest.mark.parametrize("how", ["cancel", "deallocate", "scope", "drop"])
async def test_51_the_request_that_began_the_dial_goes_away(echo_server: Server, how: str) -> None:
    """heritage pools 3.51: hyper#3199: its attempt goes on, and serves the next; nobody is failed by it."""
    gate = Gate()
    async with (
        ConnectionManager(max_per_host=1, connectors={"http": gate}) as mgr,
        anyio.create_task_group() as group,
    ):
        owner = ask(mgr, echo_server)
        others = [ask(mgr, echo_server) for _ in range(3)]
        await until(lambda: gate.waiting == 1)
        await _go_away(mgr, owner, how)
        del owner
        await until(lambda: mgr.stats().cancelled == 1)
        served: list[int] = []

        async def user(request: Request) -> None:
            async with request as conn:
                await exchange(conn)
                served.append(request.id)

        for request in others:
            group.start_soon(user, request)
        gate.open()
        await until(lambda: len(served) == 3)
        assert served == [request.id for request in others]
        assert (gate.begun, echo_server.accepted) == (1, 1)


async def _go_away(mgr: ConnectionManager, request: Request, how: str) -> None:
    if how == "cancel":
        assert request.cancel()
    elif how == "deallocate":
        assert mgr.deallocate(request.id)
        with pytest.raises(RequestCancelled):
            await request
    elif how == "scope":
        with anyio.CancelScope() as scope:
            scope.cancel()
            await request
        assert scope.cancelled_caught


@timed
async def test_51_the_request_that_began_the_dial_times_out(echo_server: Server) -> None:
    """heritage pools 3.51: hyper#3199: the same when its time runs out in the middle of the attempt."""
    gate = Gate()
    async with ConnectionManager(max_per_host=1, connectors={"http": gate}) as mgr:
        owner, other = ask(mgr, echo_server, unit()), ask(mgr, echo_server, 500 * unit())
        await passing(1.2)
        with pytest.raises(AllocateTimeout):
            await owner
        gate.open()
        async with other as conn:
            await exchange(conn)
        assert (gate.begun, echo_server.accepted) == (1, 1)
