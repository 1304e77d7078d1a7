"""Real sockets: black holes, both families, losers, limits, cancellation."""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    Resolution,
    StaticResolver,
)
from tests.support import Server, has_ipv6, refused_port
from tests.support.inside import driver_of
from tests.support.requests import at_rest, exchange
from tests.support.sockets import fill
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_linux = pytest.mark.skipif(not os.path.isdir("/proc"), reason="Linux: all of 127.0.0.0/8 is local")
pytestmark = needs_linux


@contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """Make (host, port) a listener whose queue is full: connecting to it hangs."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        fill(listener, stack, hanging=2)
        yield


@pytest.fixture
def holes() -> Iterator[Server]:
    """Make 127.0.0.2 and 127.0.0.3 hang where 127.0.0.1 has an echo server."""
    for last in (False, False, False, True):
        with ExitStack() as stack:
            server = stack.enter_context(Server())
            try:
                for host in ("127.0.0.2", "127.0.0.3"):
                    stack.enter_context(black_hole(host, server.port))
            except OSError:
                if last:
                    raise
                continue  # somebody else has that port there
            yield server
            return


def sockets_to(port: int) -> int:
    """Count this process's sockets that are on their way to a port, as the kernel lists them."""
    own = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            own.add(os.readlink(f"/proc/self/fd/{number}"))
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    # The kernel reads its table in pieces: while others come and go, a row may be there twice.
    going = {row[9] for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "02"}
    return sum(f"socket:[{inode}]" in own for inode in going)


def manager(*addresses: str, **more: Any) -> ConnectionManager:
    return ConnectionManager(resolver=StaticResolver({"many.test": addresses}), **more)


async def test_a_black_hole_costs_one_stagger_once(holes: Server) -> None:
    async with manager("127.0.0.2", "127.0.0.3", "127.0.0.1", stagger=0.5) as mgr:
        start = time.monotonic()
        async with mgr.allocate("t", "many.test", holes.port, timeout=5) as conn:
            assert 1 <= time.monotonic() - start < 3  # without company they would hang for minutes
            assert sockets_to(holes.port) == 2 * 2  # the holes' own clients
            assert mgr.stats().open == 1
            await exchange(conn)
            # Those that were overtaken are tried last from now on.
            start = time.monotonic()
            async with mgr.allocate("t", "many.test", holes.port, timeout=5) as other:
                assert time.monotonic() - start < 1  # with the holes first it takes two staggers
                await exchange(other)
    assert holes.accepted == 2


@pytest.mark.parametrize("limits", [{"max_per_host": 1}, {"max_open": 1}])
async def test_without_room_one_after_the_other(limits: dict[str, int], holes: Server) -> None:
    hanging = sockets_to(holes.port)
    async with manager("127.0.0.2", "127.0.0.1", stagger=0.05, **limits) as mgr:
        request = mgr.allocate("t", "many.test", holes.port, timeout=30)
        await until(lambda: sockets_to(holes.port) > hanging)
        with anyio.move_on_after(0.12):
            await anyio.sleep_forever()
        assert (mgr.stats().open, sockets_to(holes.port) - hanging) == (1, 1)
        async with request as conn:
            await exchange(conn)


async def test_connect_timeout_is_shared_out(holes: Server) -> None:
    options: dict[str, Any] = {"max_open": 1, "stagger": 0.05, "connect_timeout": 3}
    start = time.monotonic()
    async with (
        manager("127.0.0.2", "127.0.0.1", **options) as mgr,
        mgr.allocate("t", "many.test", holes.port, timeout=30) as conn,
    ):
        assert time.monotonic() - start >= 1.5
        await exchange(conn)


@pytest.mark.parametrize("other", ["many.test", "127.0.0.1"])
async def test_a_second_socket_gives_way(other: str, holes: Server) -> None:
    """A request that could use the place gets it in the same step, of its own key or another."""
    hanging = sockets_to(holes.port)
    addresses = ("127.0.0.2", "127.0.0.3")
    async with manager(*addresses, max_open=2, max_per_host=2, stagger=0.02) as mgr:
        racing = mgr.allocate("t", "many.test", holes.port, timeout=5)
        with anyio.fail_after(5):
            while mgr.stats().open < 2:
                await anyio.lowlevel.checkpoint()
        assert (mgr.stats().connecting, sockets_to(holes.port) - hanging) == (2, 2)
        second = mgr.allocate("t", other, holes.port, timeout=5)
        assert (mgr.stats().open, mgr.stats().queued) == (2, 0)
        assert sockets_to(holes.port) - hanging <= 2
        if other != "many.test":
            async with second as conn:
                await exchange(conn)
        assert second.cancel() is (other == "many.test")
        assert racing.cancel()


async def test_limits_hold_while_racing(holes: Server) -> None:
    """A seeded walk: users come, give up, exchange; sockets never exceed the limits, as the kernel counts."""
    rng = random.Random(4)
    hanging = sockets_to(holes.port)
    table = {
        "a.test": ["127.0.0.2", "127.0.0.3", "127.0.0.1"],
        "b.test": ["127.0.0.2", "127.0.0.4", "127.0.0.1"],
        "c.test": ["127.0.0.3", "127.0.0.2"],
    }
    limits: dict[str, Any] = {"max_open": 4, "max_per_host": 3, "stagger": 0.01, "connect_timeout": 0.1}
    most = 0
    async with ConnectionManager(resolver=StaticResolver(table), **limits) as mgr:

        def count() -> None:
            nonlocal most
            stats = mgr.stats()
            now = sockets_to(holes.port) - hanging + stats.lent + stats.idle
            most = max(most, now)
            assert now <= stats.open <= 4, (now, stats)
            assert all(key.open <= 3 for key in stats.keys.values())

        async def use() -> None:
            for _ in range(6):
                with anyio.move_on_after(rng.choice([0.005, 0.05, 1])):
                    name = rng.choice(list(table))
                    driver_of(mgr).opener.net.failures.clear_all()  # race again
                    try:
                        async with mgr.allocate(
                            "t", name, holes.port, timeout=rng.choice([0.03, 0.2])
                        ) as conn:
                            await exchange(conn)
                            if rng.random() < 0.5:
                                conn.discard()
                    except (AllocateTimeout, ConnectError):
                        pass
                count()

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(use)
        assert mgr.stats().waiting == 0
    assert most > 1
    assert holes.peak <= 4
    assert sockets_to(holes.port) == hanging


async def test_cancelled_at_every_step(holes: Server) -> None:
    # heritage poe 1.77.
    hanging = sockets_to(holes.port)
    async with manager("127.0.0.2", "127.0.0.3", "127.0.0.1", stagger=0.02) as mgr:
        for delay in (0, 0.001, 0.01, 0.021, 0.03, 0.041, 0.05):
            driver_of(mgr).opener.net.failures.clear_all()  # race again
            with anyio.move_on_after(delay):
                (await mgr.allocate("t", "many.test", holes.port, timeout=5)).discard()
        mgr.shutdown()
        await turns()
        assert mgr.stats().open == 0
        assert sockets_to(holes.port) == hanging


async def test_refused_ones_cost_no_time(echo_server: Server) -> None:
    addresses = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1")
    async with (
        manager(*addresses, max_per_host=1, stagger=30) as mgr,
        mgr.allocate("t", "many.test", echo_server.port, timeout=5) as conn,
    ):
        await exchange(conn)


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on the loopback interface")
@pytest.mark.parametrize("first", ["::1", "127.0.0.1"])
async def test_both_families(first: str) -> None:
    """The preferred family hangs, the other one serves."""
    other = "127.0.0.1" if first == "::1" else "::1"
    with Server(host=other) as server, black_hole(first, server.port):
        async with (
            manager(first, other, stagger=0.05) as mgr,
            mgr.allocate("t", "many.test", server.port, timeout=5) as conn,
        ):
            await exchange(conn)


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on the loopback interface")
async def test_bound_in_both_families(echo_server: Server) -> None:
    with Server(host="::1") as six:
        async with ConnectionManager(bind_address=("::1", "127.0.0.9")) as mgr:
            for server in (six, echo_server):
                async with mgr.allocate("t", server.host, server.port, timeout=5) as conn:
                    await exchange(conn)
        assert six.peer_addresses[0][0] == "::1"
    assert echo_server.peer_addresses[0][0] == "127.0.0.9"


async def test_52_failed_addresses_come_back() -> None:
    """heritage pools 3.52: okhttp#7553: one failure of v4 must not shut it out where v6 never works."""
    # heritage pools 2.9.
    with refused_port() as port:
        async with manager("::1", "127.0.0.1") as mgr:
            for _ in range(3):
                with pytest.raises(ConnectError):
                    await mgr.allocate("t", "many.test", port, timeout=5)
            with Server(port=0) as server:
                for _ in range(2):
                    async with mgr.allocate("t", "many.test", server.port, timeout=5) as conn:
                        await exchange(conn)


async def test_the_error_tells_of_every_address() -> None:
    with refused_port() as port:
        async with manager("127.0.0.1", "255.255.255.255") as mgr:
            with pytest.raises(ConnectError) as caught:
                await mgr.allocate("t", "many.test", port, timeout=5)
        assert caught.value.error_num == errno.ECONNREFUSED
        told = "127.0.0.1: Connection refused; 255.255.255.255: "
        assert caught.value.error_str.startswith(told)


async def test_49_50_short_deadlines_before_a_black_hole(holes: Server) -> None:
    """heritage pools 3.49, 3.50: go#59017, go#76784: an abandoned dial goes on for the next; they are
    bounded."""
    hanging = sockets_to(holes.port)
    async with manager("127.0.0.2", "127.0.0.1", stagger=0.05) as mgr:
        for _ in range(40):
            try:
                conn = await mgr.allocate("t", "many.test", holes.port, timeout=0.01)
            except AllocateTimeout:
                continue
            await exchange(conn)
            conn.release()
            break
        else:
            pytest.fail("no dial ever finishes")
    async with manager("127.0.0.2", "127.0.0.3") as mgr:
        for _ in range(1000):
            mgr.allocate("t", "many.test", holes.port).cancel()
        await turns()
        assert mgr.stats().open <= 2
        assert sockets_to(holes.port) - hanging <= 2


async def test_51_the_owner_of_a_dial_goes_away(holes: Server) -> None:
    """heritage pools 3.51: hyper#3199: others are served by it."""
    options: dict[str, Any] = {"stagger": 0.05, "connect_timeout": 1.0, "max_per_host": 1}
    async with manager("127.0.0.2", "127.0.0.1", **options) as mgr:
        first = mgr.allocate("t", "many.test", holes.port, timeout=5)
        second = mgr.allocate("t", "many.test", holes.port, timeout=5)
        await turns()
        first.cancel()
        async with second as conn:
            await exchange(conn)
    assert holes.accepted == 1


async def test_the_end_amid_a_race(holes: Server) -> None:
    hanging = sockets_to(holes.port)
    async with manager("127.0.0.2", "127.0.0.3", stagger=0.01) as mgr:
        requests = [mgr.allocate("t", "many.test", holes.port, timeout=5) for _ in range(2)]
        await anyio.sleep(0.03)
        assert requests[1].cancel()
    assert sockets_to(holes.port) == hanging
    assert at_rest(mgr)


async def test_addresses_that_change(echo_server: Server) -> None:
    """A retry asks the resolver anew."""

    class Moving:
        def __init__(self) -> None:
            self.addresses = ["127.0.0.2", "127.0.0.1"]

        async def resolve(self, host: str) -> Resolution:
            return Resolution((self.addresses.pop(0),))

    async with ConnectionManager(resolver=Moving()) as mgr:
        with pytest.raises(ConnectError):
            await mgr.allocate("t", "moving.test", echo_server.port, timeout=5)
        async with mgr.allocate("t", "moving.test", echo_server.port, timeout=5) as conn:
            await exchange(conn)


# -- plain TCP to a literal address: no task ---------------------------------------------------------


async def test_an_error_keeps_nobody_elses_connection(echo_server: Server) -> None:
    """Whoever made the poller look is in the frames behind an error, and holds a connection in them."""
    async with ConnectionManager() as mgr:
        with refused_port() as port:
            refused = mgr.allocate("t", "127.0.0.1", port, timeout=5)
            conn = await mgr.allocate("t", echo_server.host, echo_server.port, timeout=5)
            with pytest.raises(ConnectError) as caught:
                await refused
        assert caught.value.error_num == errno.ECONNREFUSED
        with pytest.warns(ResourceWarning, match="dropped"):
            del conn
        await turns()
        assert mgr.stats().lent == 0


async def test_others_run_between_connections_that_are_ready_at_once(echo_server: Server) -> None:
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            await anyio.lowlevel.checkpoint()
            ran += 1

    async with ConnectionManager() as mgr, anyio.create_task_group() as group:
        group.start_soon(other)
        for _ in range(160):
            (await mgr.allocate("t", echo_server.host, echo_server.port, timeout=5)).discard()
        assert ran >= 3
        group.cancel_scope.cancel()


async def test_a_hanging_one_ends_in_time_and_when_nobody_wants_it(holes: Server) -> None:
    hanging = sockets_to(holes.port)
    async with ConnectionManager(connect_timeout=0.1, max_per_host=1) as mgr:
        with pytest.raises(AllocateTimeout) as caught:
            await mgr.allocate("t", "127.0.0.2", holes.port, timeout=5)
        assert (caught.value.function, sockets_to(holes.port)) == ("connect", hanging)
        assert caught.value.error_str.startswith("no connection within connect_timeout=0.1 s; ")
        requests = [mgr.allocate("t", "127.0.0.2", holes.port, timeout=5) for _ in range(3)]
        assert sockets_to(holes.port) == hanging + 1
        mgr.shutdown()
        assert (mgr.stats().open, sockets_to(holes.port)) == (0, hanging)
        assert all(not request.cancel() for request in requests)
