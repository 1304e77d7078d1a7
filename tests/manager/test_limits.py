"""heritage poe 1.1 to 1.10, 1.45 to 1.62: managers, their limits, and attempts; peers count."""

from __future__ import annotations

import errno
import inspect
import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectError, ConnectionManager, Key, Observer, Reuse
from tests.support import Server, refused_port

from .kit import HOST, Awaited, Gated, exchange, get, run_out, until, warm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keepalive import Connection


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
        requests = [get(mgr, echo_server, for_port=1 + n // 5) for n in range(33 * 5)]
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
        held = [await get(mgr, echo_server) for _ in range(150)]
        assert echo_server.connections == 150
        for conn in held:
            conn.release()


async def test_managers_share_nothing(echo_server: Server) -> None:
    """heritage poe 1.7: neither limits nor connections nor numbers nor ends."""
    async with ConnectionManager(max_open=1) as one:
        async with ConnectionManager(max_open=1) as two:
            first, second = get(one, echo_server), get(two, echo_server)
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
        async with get(one, echo_server) as conn:
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
                await get(mgr, echo_server)
            assert (caught.value.function, caught.value.error_num) == ("bind", errno.EADDRNOTAVAIL)
            assert isinstance(caught.value.__cause__, OSError)
        assert (mgr.stats().open, mgr.stats().failed) == (0, {"bind": 2})


async def test_open_counts_attempts_lent_and_idle(echo_server: Server, other_server: Server) -> None:
    """heritage poe 1.45, 1.46: an attempt takes its place from its first moment, in all and per key."""
    resolver = Gated()
    async with (
        ConnectionManager(max_open=3, max_per_host=2, resolver=resolver) as mgr,
        anyio.create_task_group() as group,
    ):
        held = await get(mgr, echo_server)
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
        held = await get(mgr, echo_server)
        waiting = get(mgr, echo_server)
        held.release()
        stats = mgr.stats()
        assert (stats.waiting, stats.lent, stats.idle, stats.connecting) == (0, 1, 0, 0)
        assert (await run_out(mgr, echo_server, 0)).function == "queue"
        async with waiting as conn:
            assert conn.from_cache is Reuse.DEFERRED


async def test_attempts_start_together(echo_server: Server) -> None:
    """heritage poe 1.50, 1.56: within the limits nobody waits for another's attempt, nor does the caller."""
    resolver = Gated()
    async with ConnectionManager(max_per_host=3, resolver=resolver) as mgr:
        requests = [mgr.allocate("http", "peer", echo_server.port, 5) for _ in range(5)]
        assert (mgr.stats().connecting, mgr.stats().queued) == (3, 2)
        resolver.open()
        for request in requests:
            (await request).release()
        assert echo_server.accepted == 3


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
            group.start_soon(use, Awaited(group, get(mgr, echo_server)))
    assert order == list(range(1, 21))
    assert echo_server.accepted == 1


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
    resolver = Gated()
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
    resolver = Gated()
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
