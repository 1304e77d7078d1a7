"""What broke pools that lend one connection to many; the numbers are those of the list of such bugs.

1 counts that drift under cancellation (httpcore#943), 2 a request on a connection without a free share
(httpcore PR#1088), 3 a limit lowered below what is lent (httpx2 PR#1219), 4 the idle limit meets the
assignment (E2B#1418), 6 a drained connection stays in the pool (hackney PR#886, hyper#3140), 7 dead but open
(httpcore#1079), 9 wait or open another (golang/go#27044), and some more (go#69205, httpx#3072,
reactor-netty#2018).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream

from keepalive import ConnectionManager, KeySettings, Lifecycle, Request
from tests.support import Lines, Server, Silent
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    from keepalive import Key, Shares
    from keepalive.transport.stream import LinkStream


class Link:
    """The common state of all borrowers."""

    def __init__(self, stream: LinkStream) -> None:
        self.stream = stream
        self.over = anyio.Event()
        self.shares: Shares

    async def wait(self) -> None:
        """Wait for an answer that never comes."""
        await self.over.wait()
        raise BrokenResourceError


class Lending(Lifecycle[Link]):
    """Lends so many shares; a `patience` is how long the peer may be silent."""

    def __init__(self, capacity: int = 3, patience: float | None = None) -> None:
        self.capacity = capacity
        self.patience = patience
        self.links: list[Link] = []

    async def opened(self, stream: LinkStream, key: Key) -> Link:
        return Link(stream)

    async def run(self, stream: LinkStream, state: Link, shares: Shares) -> None:
        self.links.append(state)
        state.shares = shares
        shares.capacity = self.capacity
        try:
            while True:
                with anyio.fail_after(self.patience):
                    await stream.receive()
        finally:
            state.over.set()

    @property
    def lent(self) -> list[int]:
        return [link.shares.lent for link in self.links]


def manager(lending: Lending, **options: object) -> ConnectionManager:
    return ConnectionManager(lifecycles={"line": lending}, **options)  # type: ignore[arg-type]  # by name


def ask(mgr: ConnectionManager, server: Server, timeout: float = 5) -> Request:
    return mgr.allocate("line", server.host, server.port, timeout)


@pytest.mark.parametrize("seed", range(3))
async def test_1_cancelled_requests_leave_all_shares(seed: int) -> None:
    rng, lending = random.Random(seed), Lending(5)
    with Server(Lines()) as server:
        async with manager(lending, max_per_host=1) as mgr:

            async def user() -> None:
                with anyio.move_on_after(rng.choice((0, 0.0001, 0.001, 0.003))):
                    async with ask(mgr, server) as conn:
                        await conn.state.wait()

            for _ in range(10):
                async with anyio.create_task_group() as group:
                    for _ in range(30):
                        group.start_soon(user)
            conns = [await ask(mgr, server) for _ in range(5)]
            assert lending.lent[-1] == 5
            for conn in conns:
                conn.release()
            assert lending.lent[-1] == mgr.stats().waiting == 0


async def test_2_no_request_waits_at_a_connection_without_a_free_share() -> None:
    lending = Lending(2)
    with Server(Lines()) as server:
        async with manager(lending, max_per_host=2) as mgr:
            held = [await ask(mgr, server) for _ in range(2)]
            async with ask(mgr, server) as conn:
                assert conn.state is not held[0].state
            lending.links[1].shares.capacity = 0  # warm, and idle, but without a share to lend
            late = ask(mgr, server)
            await turns()
            assert mgr.stats().waiting == 1
            held[0].release()
            async with await late as conn:
                assert conn.state is held[1].state
            held[1].release()


async def test_3_capacity_below_what_is_lent_is_no_deadlock() -> None:
    lending = Lending(5)
    with Server(Lines()) as server:
        async with manager(lending, max_per_host=1) as mgr:
            held = [await ask(mgr, server) for _ in range(5)]
            late = [ask(mgr, server) for _ in range(5)]
            for capacity in (1, 0, 2):
                lending.links[0].shares.capacity = capacity
            for conn in held:
                conn.release()
            assert (lending.lent, mgr.stats().waiting) == ([2], 3)
            for request in late:
                (await request).release()
            assert (lending.lent, mgr.stats().waiting, server.accepted) == ([0], 0, 1)


async def test_4_idle_limit_never_meets_a_share_on_its_way() -> None:
    lending = Lending()
    with Server(Lines()) as server:
        async with manager(lending, keep_alive=0.03) as mgr:
            (await ask(mgr, server)).release()
            request = ask(mgr, server)
            await anyio.sleep(0.08)
            async with await request as conn:
                assert (conn.state.over.is_set(), conn.uses) == (False, 2)
            await until_equal(lambda: dict(mgr.stats().closed), {"expired": 1})


async def test_6_drained_connection_serves_its_borrowers_and_nobody_else() -> None:
    lending = Lending()
    with Server(Lines()) as server:
        async with manager(lending) as mgr:
            old = await ask(mgr, server)
            request = ask(mgr, server)  # has its share already
            lending.links[0].shares.retire()
            async with await request as conn:
                assert conn.state is old.state
            for _ in range(5):
                async with ask(mgr, server) as conn:
                    assert conn.state is not old.state
            assert not old.state.over.is_set()
            old.release()
            await old_gone(lending)
            assert (server.accepted, mgr.stats().open, mgr.stats().closed) == (2, 1, {"retired": 1})


async def old_gone(lending: Lending) -> None:
    with anyio.fail_after(5):
        await lending.links[0].over.wait()


async def test_7_dead_but_open_is_found_by_its_resident_and_told_to_each_once() -> None:
    lending = Lending(3, patience=0.05)
    told: list[int] = []
    with Server(Silent()) as server:
        async with manager(lending, max_per_host=1) as mgr:

            async def user(n: int) -> None:
                async with ask(mgr, server) as conn:
                    with pytest.raises(BrokenResourceError):
                        await conn.state.wait()
                    told.append(n)

            async with anyio.create_task_group() as group:
                for n in range(6):
                    group.start_soon(user, n)
            assert sorted(told) == list(range(6))
            assert (server.accepted, lending.lent) == (2, [0, 0])


async def test_7_one_that_the_kernel_knows_to_be_dead_is_lent_to_nobody() -> None:
    class Busy(Lending):
        async def run(self, stream: LinkStream, state: Link, shares: Shares) -> None:
            self.links.append(state)
            shares.capacity = 3
            await anyio.sleep_forever()  # and does not look

    with Server(Lines()) as server:
        async with manager(Busy()) as mgr:
            (await ask(mgr, server)).release()
            server.disconnect_all()
            await until(lambda: not server.connections)
            await anyio.sleep(0.02)
            async with ask(mgr, server) as conn:
                assert conn.is_new


@pytest.mark.parametrize("allowed", [1, 2])
async def test_9_waiting_or_opening_another_is_a_choice(allowed: int) -> None:
    with Server(Lines()) as server:
        settings = {"line": KeySettings(max_per_host=allowed)}
        async with manager(Lending(2), settings=settings) as mgr:
            held = [await ask(mgr, server) for _ in range(2)]
            late = ask(mgr, server)
            if allowed == 1:
                await turns()
                assert (mgr.stats().open, mgr.stats().waiting) == (1, 1)
                held[0].release()
            (await late).release()
            assert server.accepted == allowed
            for conn in held:
                conn.release()


async def test_9_opened_ahead_where_shares_are_to_be_spread() -> None:
    lending = Lending(4)
    with Server(Lines()) as server:
        settings = {"line": KeySettings(open_when=0.5, max_per_host=3)}
        async with manager(lending, settings=settings) as mgr:
            held = [await ask(mgr, server) for _ in range(2)]
            assert (mgr.stats().open, mgr.stats().connecting) == (1, 0)
            held.append(await ask(mgr, server))  # served from what is there, beyond one half
            assert (lending.lent, mgr.stats().connecting) == ([3], 1)
            await until(lambda: mgr.stats().idle == 1)
            held += [await ask(mgr, server) for _ in range(2)]
            assert (lending.lent, mgr.stats().connecting) == ([3, 2], 0)
            held.append(await ask(mgr, server))
            assert lending.lent == [3, 3]
            await until(lambda: mgr.stats().idle == 1)
            held += [await ask(mgr, server) for _ in range(6)]  # no room for a fourth
            assert (sorted(lending.lent), mgr.stats().open, mgr.stats().connecting) == ([4, 4, 4], 3, 0)
            for conn in held:
                conn.release()
            assert mgr.stats().idle == 3


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), "1", True])
async def test_9_part_that_is_none(wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match="open_when must be"):
        KeySettings(open_when=wrong)  # type: ignore[arg-type]  # the mistake


async def test_further_idle_limit_and_lifetime_count_for_shared_ones() -> None:
    with Server(Lines()) as server:
        async with manager(Lending(), keep_alive=0.02) as mgr:
            (await ask(mgr, server)).release()
            await until_equal(lambda: dict(mgr.stats().closed), {"expired": 1})
        async with manager(Lending(), max_lifetime=0.05, max_per_host=2) as mgr:
            held = await ask(mgr, server)
            await anyio.sleep(0.06)
            async with ask(mgr, server) as conn:  # lends no more, but serves whom it has
                assert conn.state is not held.state
            assert not held.state.over.is_set()
            held.release()
            assert mgr.stats().closed["lifetime"] >= 1


async def test_further_error_is_told_as_it_is_and_shares_begin_anew() -> None:
    class Raises(Lending):
        async def run(self, stream: LinkStream, state: Link, shares: Shares) -> None:
            state.shares = shares
            self.links.append(state)
            shares.capacity = 2
            try:
                await stream.receive()
            finally:
                state.over.set()

    lending = Raises()
    with Server(Lines()) as server:
        async with manager(lending, max_per_host=1) as mgr:
            held = [await ask(mgr, server) for _ in range(2)]
            late = ask(mgr, server)
            server.reset_all()
            async with await late as conn:
                assert (lending.lent, conn.is_new) == ([0, 1], True)
                for old in held:
                    old.release()  # of the one that has gone: the new one's count is not touched
                    with pytest.raises((EndOfStream, BrokenResourceError)):
                        await old_state(lending).wait()
                assert lending.lent == [0, 1]


def old_state(lending: Lending) -> Link:
    return lending.links[0]
