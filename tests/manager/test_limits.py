"""Managers and their limits, exact in the peer's eyes."""

from __future__ import annotations

import errno
import inspect
import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectError,
    Connection,
    ConnectionManager,
    QueueFull,
    Reuse,
    TCPConnector,
    TLSConnector,
)
from tests.support import Server, refused_port
from tests.support.clocks import passing, timed, unit
from tests.support.connectors import Gate
from tests.support.requests import Awaited, all_usable, ask, at_rest, exchange, run_out, take, warm
from tests.support.resolvers import HOST, GatedResolver
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from keepalive import Dial, Link


@pytest.fixture
def other_server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_defaults_are_the_ancestor_s() -> None:
    """heritage poe 1.1, 1.2: all arguments are optional and named."""
    parameters = inspect.signature(ConnectionManager).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    expected = {"max_per_host": 4, "max_open": 128, "keep_alive": 15.0, "timeout": 120.0}
    assert expected.items() <= defaults.items()
    assert defaults["resolver"] is None
    assert defaults["bind_address"] is None


async def test_default_limits(echo_server: Server) -> None:
    """heritage poe 1.2: four per key, 128 in all, and not one more."""
    async with ConnectionManager() as mgr:
        requests = [ask(mgr, echo_server, for_port=1 + n // 5) for n in range(33 * 5)]
        await until(lambda: mgr.stats().lent == 128)
        assert (echo_server.connections, mgr.stats().waiting) == (128, 33 * 5 - 128)
        assert max(key.open for key in mgr.stats().keys.values()) == 4
        served = 0
        for request in requests:
            async with request as conn:
                served += conn.from_cache is None
        assert (echo_server.peak, mgr.stats().waiting) == (128, 0)
        assert served == mgr.stats().opened


async def test_no_limits(echo_server: Server) -> None:
    """heritage poe 1.2, contract: `None` is no limit."""
    async with ConnectionManager(max_per_host=None, max_open=None) as mgr:
        held = [await ask(mgr, echo_server) for _ in range(150)]
        assert echo_server.connections == 150
        for conn in held:
            conn.release()


async def test_managers_share_nothing(echo_server: Server) -> None:
    """heritage poe 1.7: neither limits nor connections nor numbers nor ends."""
    async with ConnectionManager(max_open=1) as one:
        async with ConnectionManager(max_open=1) as two:
            first, second = ask(one, echo_server), ask(two, echo_server)
            assert first.id == second.id
            async with first as conn, second as other:
                assert (conn.from_cache, other.from_cache) == (None, None)
                assert echo_server.connections == 2
                with pytest.raises(ValueError, match="not a connection of this manager"):
                    two.free(conn)
                two.shutdown()
                await exchange(conn)
                await exchange(other)
            two.shutdown()
        async with ask(one, echo_server) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE


async def test_bind_address(echo_server: Server) -> None:
    """heritage poe 1.9: the peer sees it; with a port, that one."""
    async with ConnectionManager(bind_address="127.0.0.2") as mgr:
        await warm(mgr, echo_server, 2)
    with refused_port() as free:
        pass
    async with ConnectionManager(bind_address=("127.0.0.3", free)) as mgr:
        await warm(mgr, echo_server)
    assert echo_server.accepted == 3
    assert [address[0] for address in echo_server.peer_addresses] == ["127.0.0.2"] * 2 + ["127.0.0.3"]
    assert echo_server.peer_addresses[-1][1] == free


async def test_bind_address_that_is_not_ours(echo_server: Server) -> None:
    """heritage poe 1.32, 1.33: the failing call is "bind"."""
    async with ConnectionManager(bind_address="192.0.2.1", max_open=1) as mgr:
        for _ in range(2):
            with pytest.raises(ConnectError) as caught:
                await ask(mgr, echo_server)
            assert (caught.value.function, caught.value.error_num) == ("bind", errno.EADDRNOTAVAIL)
            assert isinstance(caught.value.__cause__, OSError)
        assert (mgr.stats().open, mgr.stats().failed) == (0, {"bind": 2})


async def test_open_counts_attempts_lent_and_idle(echo_server: Server, other_server: Server) -> None:
    """heritage poe 1.45, 1.46: an attempt takes its place from its first moment, in all and per key."""
    resolver = GatedResolver()
    async with (
        ConnectionManager(max_open=3, max_per_host=2, resolver=resolver) as mgr,
        anyio.create_task_group() as group,
    ):
        held = await ask(mgr, echo_server)
        await warm(mgr, other_server)
        attempts = [Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5)) for _ in range(3)]
        stats = mgr.stats()
        assert (stats.open, stats.connecting, stats.lent, stats.idle) == (3, 2, 1, 0)  # the idle one is gone
        assert (stats.waiting, stats.queued) == (3, 1)
        assert (await run_out(mgr, other_server)).function == "queue"
        resolver.open()
        for attempt in attempts:
            (await attempt.connection()).release()
        held.release()
        assert (echo_server.peak, other_server.accepted) == (3, 1)


async def test_a_released_connection_goes_before_a_new_one(echo_server: Server) -> None:
    """heritage poe 1.48, 1.52: handed over within the release itself."""
    async with ConnectionManager(max_per_host=1) as mgr:
        held = await ask(mgr, echo_server)
        waiting = ask(mgr, echo_server)
        held.release()
        stats = mgr.stats()
        assert (stats.waiting, stats.lent, stats.idle, stats.connecting) == (0, 1, 0, 0)
        assert (await run_out(mgr, echo_server, 0)).function == "queue"
        async with waiting as conn:
            assert conn.from_cache is Reuse.DEFERRED


async def test_first_come_first_served(echo_server: Server) -> None:
    """heritage poe 1.53: with one connection, exactly in order."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        order: list[int] = []

        async def use(request: Awaited) -> None:
            conn = await request.connection()
            order.append(request.request.id)
            await exchange(conn)
            conn.release()

        for _ in range(20):
            group.start_soon(use, Awaited(group, ask(mgr, echo_server)))
    assert order == list(range(1, 21))
    assert echo_server.accepted == 1


async def test_https_alone_is_tls(echo_server: Server) -> None:
    """heritage poe 1.58: exactly this text; every other scheme is plain."""
    async with ConnectionManager() as mgr:
        for scheme in ("http", "ftp", "HTTPS", "https+plain", "x"):
            async with mgr.allocate(scheme, HOST, echo_server.port, 5) as conn:
                await exchange(conn)
        request = mgr.allocate("https", HOST, echo_server.port, 5)
        with pytest.raises(OSError, match="tls"):
            await request


async def test_unix_sockets(unix_server: Server) -> None:
    """heritage poe 1.7, contract: `unix` takes a path, and port 0."""
    async with ConnectionManager(max_per_host=1) as mgr:
        for kind in (None, Reuse.IMMEDIATE):
            async with mgr.allocate("unix", unix_server.host, 0, 5) as conn:
                assert conn.from_cache is kind
                await exchange(conn)
                assert conn.extra(anyio.abc.SocketAttribute.family) is socket.AF_UNIX
        assert unix_server.accepted == 1


@pytest.mark.parametrize("end", ["release", "discard"])
async def test_25_newcomer_between_wake_and_run(echo_server: Server, end: str) -> None:
    """heritage pools 3.25: aiohttp#4936, anyio#1170: what is freed belongs to the waiter from that moment
    on."""
    async with ConnectionManager(max_per_host=2) as mgr:
        held = await take(mgr, echo_server, 2)
        for _ in range(20):
            waiting = [ask(mgr, echo_server) for _ in range(2)]
            for conn in held:
                getattr(conn, end)()
            newcomers = [ask(mgr, echo_server) for _ in range(2)]
            assert mgr.stats().open == 2
            held = [await request for request in waiting]
            assert mgr.stats().queued == 2
            for newcomer in newcomers:
                newcomer.cancel()
            for conn in held:
                await exchange(conn)
        assert echo_server.peak == 2


async def test_25_crowd_of_newcomers(echo_server: Server) -> None:
    """heritage pools 3.25: aiohttp#4936: tasks that come at every moment of a hand-over, under both
    limits."""
    async with ConnectionManager(max_per_host=3, max_open=5) as mgr, anyio.create_task_group() as group:

        async def user(number: int) -> None:
            for turn in range(20):
                async with ask(mgr, echo_server, 30, n=1 + (number + turn) % 3) as conn:
                    if turn % 5 == 4:
                        await conn.aclose()
                    else:
                        await exchange(conn)
                    now = mgr.stats()
                    assert now.open <= 5
                    assert max(key.open for key in now.keys.values()) <= 3
                await turns(number % 4)

        for number in range(30):
            group.start_soon(user, number)
    assert echo_server.peak == 5


@timed
async def test_26_counters_after_queued_requests_fail(echo_server: Server) -> None:
    """heritage pools 3.26: netty#3988, #4031, go#29889: timed out, refused, cancelled or too many, no slot
    goes."""
    with refused_port() as refused:
        async with ConnectionManager(max_per_host=2, max_open=2, max_waiting=9, keep_alive=None) as mgr:
            for _ in range(3):
                held = await take(mgr, echo_server, 2)
                late = [ask(mgr, echo_server, 2 * unit()) for _ in range(3)]
                gone = [ask(mgr, echo_server) for _ in range(3)]
                bad = [mgr.allocate("http", "127.0.0.1", refused, 60) for _ in range(3)]
                with pytest.raises(QueueFull, match="cannot be queued"):
                    ask(mgr, echo_server)
                assert (mgr.stats().open, mgr.stats().waiting, mgr.stats().queued) == (2, 9, 9)
                await passing(3)
                for request in late:
                    with pytest.raises(AllocateTimeout):
                        await request
                assert all(request.cancel() for request in gone)
                for conn in held:
                    conn.release()
                for request in bad:
                    with pytest.raises(ConnectError):
                        await request
                assert at_rest(mgr)
                await all_usable(mgr, echo_server, 2)
            now = mgr.stats()
            assert (now.timeouts, now.cancelled, sum(now.failed.values())) == (9, 9, 12)
    assert echo_server.peak == 2


async def test_27_idle_ones_count() -> None:
    """heritage pools 3.27: measured with aiohttp (M2): limit 2, ten hosts in turn: never more than two
    sockets."""
    with Server(host="0.0.0.0") as server:
        async with ConnectionManager(max_open=2) as mgr:
            for _ in range(2):
                for host in range(1, 11):
                    async with mgr.allocate("http", f"127.0.0.{host}", server.port, 5) as conn:
                        await exchange(conn)
                    assert mgr.stats().open <= 2
            assert mgr.stats().closed == {"evicted": 18}
        assert (server.peak, server.accepted) == (2, 20)


async def test_28_closed_before_the_next_is_opened(
    tls_server: Server, client_context: ssl.SSLContext
) -> None:
    """heritage pools 3.28: curl#15857: at limit 1 the old socket is closed, TLS and all, before the new
    one."""
    tls = {"https": TLSConnector(client_context)}
    async with ConnectionManager(max_open=1, connectors=tls) as mgr:
        for number in range(30):
            async with mgr.allocate(
                "https", "127.0.0.1", tls_server.port, 5, for_addr="localhost", for_port=1 + number % 3
            ) as conn:
                await exchange(conn)
                if number % 2:
                    conn.discard()
    assert (tls_server.peak, tls_server.accepted) == (1, 30)


class Lingering(TCPConnector):
    """Has a socket open, and needs its time to give up."""

    def __init__(self) -> None:
        self.may_end = anyio.Event()

    async def connect(self, dial: Dial) -> Link:
        link = await super().connect(dial)
        if dial.key.for_port == 1:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await self.may_end.wait()
        return link


async def test_28_aborted_attempts_count_until_they_are_gone(echo_server: Server) -> None:
    """heritage pools 3.28: curl#15857: an attempt that is being given up still has its socket, and its
    place."""
    lingering = Lingering()
    async with ConnectionManager(max_open=1, connectors={"http": lingering}) as mgr:
        stuck = ask(mgr, echo_server, n=1)
        await echo_server.until(lambda server: server.connections == 1)
        other = ask(mgr, echo_server, n=2)
        stuck.cancel()
        await turns()
        assert (mgr.stats().closing, mgr.stats().open, mgr.stats().queued) == (1, 1, 1)
        assert echo_server.accepted == 1
        lingering.may_end.set()
        async with other as conn:
            await exchange(conn)
        assert (echo_server.peak, echo_server.accepted) == (1, 2)


async def test_29_eviction_touches_idle_ones_only(echo_server: Server) -> None:
    """heritage pools 3.29: urllib3#1252, #1262, #951: what is lent stays, the least recently used idle one
    goes."""
    async with ConnectionManager(max_open=3) as mgr:
        lent = await ask(mgr, echo_server, n=1)
        old, young = await ask(mgr, echo_server, n=2), await ask(mgr, echo_server, n=3)
        old.release()
        young.release()
        third = await ask(mgr, echo_server, n=4)
        assert mgr.stats().closed == {"evicted": 1}
        young = await ask(mgr, echo_server, n=3)
        assert young.from_cache is Reuse.IMMEDIATE  # it was not the one
        blocked = ask(mgr, echo_server, n=5)
        await turns()
        assert (mgr.stats().lent, mgr.stats().queued) == (3, 1)
        await exchange(lent)
        await exchange(third)
        lent.release()  # closed in the step of its release, since an older request of another key waits
        assert mgr.stats().closed == {"evicted": 2}
        async with blocked as conn:
            await exchange(conn)
        young.release()
        third.release()
        assert (at_rest(mgr), echo_server.peak) == (True, 3)


async def test_29_eviction_and_hand_out_in_one_tick(echo_server: Server) -> None:
    """heritage pools 3.29: urllib3#1262: what is reserved for a request is not idle any more."""
    async with ConnectionManager(max_open=1) as mgr:
        for _ in range(20):
            (await ask(mgr, echo_server, n=1)).release()
            mine = ask(mgr, echo_server, n=1)
            other = ask(mgr, echo_server, n=2)
            async with mine as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
                await exchange(conn)
            async with other as conn:
                assert conn.from_cache is None
                await exchange(conn)
        assert echo_server.peak == 1


async def test_30_limits_raised_at_run_time(echo_server: Server) -> None:
    """heritage pools 3.30: anyio PR#1223: a raised limit lets in exactly as many more, in order."""
    gate = Gate()
    gate.open()
    async with ConnectionManager(max_per_host=1, max_open=1, connectors={"http": gate}) as mgr:
        held = await take(mgr, echo_server, 1)
        requests = [ask(mgr, echo_server) for _ in range(8)]
        for limit, new in ((3, 2), (4, 1), (4, 0), (6, 2)):
            gate.shut()
            mgr.set_limits(max_per_host=limit, max_open=limit)
            await until_equal(lambda: gate.waiting, new)
            assert (mgr.stats().connecting, mgr.stats().queued) == (new, len(requests) - new)
            gate.open()
            held += [await requests.pop(0) for _ in range(new)]
            assert mgr.stats().open == limit == len(held)
        for conn in held:
            conn.release()
        for request in requests:
            (await request).release()
        assert (at_rest(mgr), echo_server.peak) == (True, 6)


async def test_30_limits_lowered_at_run_time(echo_server: Server) -> None:
    """heritage pools 3.30: anyio PR#1223: a lowered limit closes idle ones now, lent ones when they come
    back."""
    async with ConnectionManager(max_per_host=6, max_open=6) as mgr:
        conns = await take(mgr, echo_server, 6)
        for conn in conns[:2]:
            conn.release()
        mgr.set_limits(max_per_host=3, max_open=3)
        assert (mgr.stats().open, mgr.stats().idle, echo_server.connections) == (4, 0, 4)
        waiting = [ask(mgr, echo_server) for _ in range(3)]
        for conn in conns[2:]:
            await exchange(conn)
            conn.release()
            assert mgr.stats().open == 3
        for request in waiting:
            (await request).release()
        assert (at_rest(mgr), mgr.stats().open, echo_server.connections) == (True, 3, 3)
        await all_usable(mgr, echo_server, 3)


async def test_30_limits_moved_in_a_crowd(echo_server: Server) -> None:
    """heritage pools 3.30: anyio PR#1223: up and down in the middle of traffic, never more than the
    highest."""
    async with ConnectionManager(max_per_host=2, max_open=2) as mgr:
        done: list[Connection] = []

        async def user() -> None:
            for _ in range(15):
                async with ask(mgr, echo_server, 30) as conn:
                    await exchange(conn)
                done.append(conn)

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(user)
            for limit in (5, 1, 4, 2, 6, 1, 3) * 3:
                mgr.set_limits(max_per_host=limit, max_open=limit)
                await turns(10)
                assert mgr.stats().open <= 6
        assert mgr.stats().open <= 3
        assert (at_rest(mgr), len(done)) == (True, 180)
        await all_usable(mgr, echo_server, 3)
        assert echo_server.peak <= 6
