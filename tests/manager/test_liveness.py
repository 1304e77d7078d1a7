"""TLS, liveness and time: heritage pools 3.34 to 3.39."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from keepalive import AllocateTimeout, Connection, ConnectionManager, Request, Reuse, TLSConnector
from tests.support import Greeting, Lines, Server
from tests.support.clocks import passing, skip, timed, unit, virtual
from tests.support.connectors import Gate
from tests.support.inside import driver_of
from tests.support.leaks import descriptors
from tests.support.recorder import Recorder
from tests.support.requests import all_gone, ask, at_rest, exchange, take
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tests.support import Authority


def ask_tls(mgr: ConnectionManager, server: Server) -> Request:
    return mgr.allocate("https", server.host, server.port, 5, for_addr="localhost")


def has_accepted(count: int) -> Callable[[Server], bool]:
    return lambda server: server.accepted == count


def has_ticket(conn: Connection) -> bool:
    session = conn.extra(TLSAttribute.ssl_object).session
    return session is not None and session.has_ticket


@pytest.mark.parametrize("tickets", [0, 1, 2, 20])
async def test_34_tickets_on_an_idle_connection(
    ca: Authority, client_context: ssl.SSLContext, tickets: int
) -> None:
    """heritage pools 3.34: jetty#4113, ClickHouse#110402: never used, or after an exchange: still reused."""
    tls = {"https": TLSConnector(client_context)}
    with Server(tls=ca.server(tickets=tickets)) as server:
        async with ConnectionManager(max_per_host=1, connectors=tls) as mgr:
            (await ask_tls(mgr, server)).release()  # before the tickets are there
            await server.until(lambda server: server.handshakes == 1)
            await turns()
            for _ in range(5):
                async with ask_tls(mgr, server) as conn:
                    assert conn.from_cache is Reuse.IMMEDIATE
                    assert has_ticket(conn) == (tickets > 0)
                await turns(3)
            for _ in range(5):
                async with ask_tls(mgr, server) as conn:
                    await exchange(conn)
                await turns(3)
            assert (mgr.stats().closed, server.accepted) == ({}, 1)


async def test_34_tickets_on_a_spare_connection(tls_server: Server, client_context: ssl.SSLContext) -> None:
    """heritage pools 3.34: ClickHouse#110402: one opened ahead of its first use keeps, and counts as new."""
    gate = Gate(TLSConnector(client_context))
    async with ConnectionManager(connectors={"https": gate}) as mgr:
        ask_tls(mgr, tls_server).cancel()
        gate.open()
        await until(lambda: mgr.stats().idle == 1)
        await tls_server.until(lambda server: server.handshakes == 1)
        await turns()
        conn = await mgr.allocate(
            "https", tls_server.host, tls_server.port, 5, for_addr="localhost", fresh=True
        )
        assert (conn.from_cache, conn.uses, has_ticket(conn)) == (None, 1, True)
        await exchange(conn)
        conn.release()
        assert tls_server.accepted == 1


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_35_a_thousand_hand_outs_with_answers_at_once(
    ca: Authority, client_context: ssl.SSLContext, tls: bool
) -> None:
    """heritage pools 3.35: HTTP.jl#912: the watch never takes a byte from the user, nor stands in his way."""
    connectors = {"https": TLSConnector(client_context)}
    with Server(Lines(), tls=ca.server() if tls else None) as server:
        async with ConnectionManager(max_per_host=1, connectors=connectors) as mgr:
            for number in range(1000):
                async with ask_tls(mgr, server) if tls else ask(mgr, server) as conn:
                    await conn.send(b"line %d\n" % number)
                    if number % 3 == 0:
                        await turns(2)  # the answer is there before anybody asks for it
                    answer = b""
                    while not answer.endswith(b"\n"):
                        answer += await conn.receive()
                    assert answer == b"LINE %d\n" % number
            assert (mgr.stats().immediate, server.accepted) == (999, 1)


@pytest.mark.parametrize("spare", [False, True], ids=["asked for", "spare"])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_35_greetings(ca: Authority, client_context: ssl.SSLContext, tls: bool, spare: bool) -> None:
    """heritage pools 3.35: HTTP.jl#912: what a server says first reaches the first user, of a spare one
    too."""
    connectors = {"https": TLSConnector(client_context)}
    with Server(Greeting(b"220 ready\r\n"), tls=ca.server() if tls else None) as server:
        async with ConnectionManager(max_per_host=2, connectors=connectors) as mgr:
            for number in range(1, 30):
                asked = ask_tls(mgr, server) if tls else ask(mgr, server)
                if spare:
                    asked.cancel()
                    await until_equal(lambda: (mgr.stats().idle, mgr.stats().connecting), (1, 0))
                    await server.until(has_accepted(number))
                    await turns()
                    asked = ask_tls(mgr, server) if tls else ask(mgr, server)
                conn = await asked
                assert conn.from_cache is None
                assert await conn.receive() == b"220 ready\r\n"
                await exchange(conn)
                conn.discard()
            assert (mgr.stats().opened, server.accepted) == (29, 29)


@pytest.mark.parametrize("how", ["disconnect_all", "reset_all", "cut_all", "half_close_all"])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_36_a_hundred_idle_ones_closed_by_their_server(
    echo_server: Server, tls_server: Server, client_context: ssl.SSLContext, how: str, tls: bool
) -> None:
    """heritage pools 3.36: hyper#1389, redis-py#306: descriptors gone within 100 ms, without traffic."""
    server, count = (tls_server, 30) if tls else (echo_server, 100)
    recorder = Recorder()
    connectors = {"https": TLSConnector(client_context)}
    async with ConnectionManager(max_per_host=None, connectors=connectors, observer=recorder) as mgr:
        before = descriptors()
        requests = [ask_tls(mgr, server) if tls else ask(mgr, server) for _ in range(count)]
        for conn in [await request for request in requests]:
            await exchange(conn)
            conn.release()
        await server.until(lambda server: server.connections == count)
        getattr(server, how)()
        closed = time.thread_time()  # of others on a busy machine it does not tell
        await until(lambda: len(recorder.closed_at) == count)
        assert time.thread_time() - closed < 0.1
        assert (mgr.stats().open, mgr.stats().closed) == (0, {"peer": count})
        await all_gone(server)
        assert descriptors() == before


async def expiry(server: Server, keep_alive: float) -> tuple[float, float]:
    """Return how long after their release the first and the last of three connections were closed."""
    recorder = Recorder()
    async with ConnectionManager(keep_alive=keep_alive, observer=recorder) as mgr:
        conns = await take(mgr, server, 3)
        released = time.monotonic()
        for conn in conns:
            conn.release()
        await until(lambda: len(recorder.closed_at) == 3)
        assert recorder.reasons() == ["expired"] * 3
        assert server.connections == 0
    return recorder.closed_at[0] - released, recorder.closed_at[-1] - released


async def test_37_idle_expiry_without_traffic(echo_server: Server) -> None:
    """heritage pools 3.37: httpcore2: closed by a timer after keep_alive seconds +-10 %, though nobody
    calls."""
    for _ in range(3):  # chances, on a busy machine
        first, last = await expiry(echo_server, 0.3)
        assert first > 0.27
        if last < 0.33:
            break
    else:
        pytest.fail("too late, each time")


@virtual
async def test_37_each_at_its_own_time(echo_server: Server) -> None:
    """heritage pools 3.37: httpcore2: the same for many, one second apart, and with a time of their own."""
    async with ConnectionManager(max_per_host=20, keep_alive=15) as mgr:
        conns = await take(mgr, echo_server, 10)
        for conn in conns[:8]:
            conn.release()
            await passing(1)
        conns[8].release(keep_for=1)
        conns[9].release(keep_for=100)
        await passing(1.1)
        assert (mgr.stats().idle, echo_server.connections) == (9, 9)
        await passing(5.8)
        assert echo_server.connections == 9
        for left in range(8, 1, -1):
            await passing(1)
            assert echo_server.connections == left
        await passing(1.5)
        assert (echo_server.connections, mgr.stats().closed) == (0, {"expired": 10})


@virtual
@pytest.mark.parametrize("offset", [-1.0, -0.001, 0.0, 0.0004, 0.0006, 0.001, 1.0])
async def test_38_asked_for_at_the_moment_of_expiry(echo_server: Server, offset: float) -> None:
    """heritage pools 3.38: agentkeepalive#23, undici#3141: a valid one or a new one, never a closed one."""
    async with ConnectionManager(max_per_host=1, keep_alive=15) as mgr:
        for early in (True, False):
            (await ask(mgr, echo_server)).release()
            skip(15 + offset)
            if early:  # the timer rings in the next turn
                request = ask(mgr, echo_server)
                await turns()
            else:  # the timer and this task run in the same turn
                await anyio.lowlevel.checkpoint()
                request = ask(mgr, echo_server)
            conn = await request
            assert (conn.from_cache is None) == (offset >= 0)
            await exchange(conn)
            conn.discard()
        assert echo_server.peak == 1


@timed
async def test_38_asked_for_around_the_expiry(echo_server: Server) -> None:
    """heritage pools 3.38: agentkeepalive#23: the same at random moments, on the real clock too."""
    rng = random.Random(38)
    async with ConnectionManager(max_per_host=1, keep_alive=0.5 * unit()) as mgr:
        for _ in range(100):
            async with ask(mgr, echo_server) as conn:
                await exchange(conn)
            await passing(rng.uniform(0.2, 0.6))
            assert mgr.stats().open <= 1
        assert mgr.stats().immediate > 0
        assert mgr.stats().closed["expired"] > 0
        assert echo_server.peak == 1


@virtual
async def test_38_reserved_beyond_its_expiry(echo_server: Server) -> None:
    """heritage pools 3.38: undici#3141: once given to a request, the idle time does not count any more."""
    async with ConnectionManager(max_per_host=1, keep_alive=15) as mgr:
        (await ask(mgr, echo_server)).release()
        await passing(14.9)
        request = ask(mgr, echo_server, 60)
        await passing(10)
        async with request as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
            await exchange(conn)


@virtual
async def test_39_after_the_machine_slept(echo_server: Server) -> None:
    """heritage pools 3.39: Go's transport.go: time has jumped, no timer has rung yet: old ones are not
    reused."""
    async with ConnectionManager(max_per_host=4, keep_alive=15, max_lifetime=3600) as mgr:
        lent, *idle = await take(mgr, echo_server, 4)
        for conn in idle:
            conn.release()
        waiting = mgr.allocate("http", "127.0.0.1", 9, 0)
        skip(8 * 3600)
        async with ask(mgr, echo_server) as conn:
            assert conn.from_cache is None
            await exchange(conn)
            await turns()
            assert mgr.stats().open == 2
        await exchange(lent)  # whose user knows nothing of it
        lent.release()
        assert (mgr.stats().closed, mgr.stats().idle) == ({"lifetime": 4}, 1)
        with pytest.raises(AllocateTimeout):
            await waiting
        assert at_rest(mgr)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no such clock")
async def test_39_the_clock_counts_the_machines_sleep(echo_server: Server) -> None:
    """heritage pools 3.39: Go's transport.go: the monotonic clock stands still meanwhile; this one does
    not."""
    async with ConnectionManager() as mgr:
        assert abs(driver_of(mgr).now() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1
        # On a machine that has never slept both clocks show the same.
        assert getattr(driver_of(mgr).now, "args", ()) == (time.CLOCK_BOOTTIME,)
