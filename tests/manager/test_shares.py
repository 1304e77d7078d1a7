"""Connections that are lent to many at once."""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import ClosedResourceError, EndOfStream

from keepalive import ConnectionManager, KeySettings, Lifecycle, Request, Reuse, SetupError
from tests.support import Lines, Server
from tests.support.requests import at_rest
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    from keepalive import Connection, Key, Shares
    from keepalive.transport.stream import LinkStream


class Pipe:
    """The common state: lines go out as they come, answers come back in order."""

    def __init__(self, stream: LinkStream) -> None:
        self.stream = stream
        self.waiting: list[tuple[anyio.Event, list[bytes]]] = []
        self.shares: Shares
        self.over = anyio.Event()
        self.lock = anyio.Lock()

    async def ask(self, word: bytes) -> bytes:
        event, got = anyio.Event(), list[bytes]()
        async with self.lock:
            self.waiting.append((event, got))
            await self.stream.send(word + b"\n")
        await event.wait()
        if not got:
            raise EndOfStream
        return got[0]


class Piped(Lifecycle[Pipe]):
    """Lines, many at once."""

    def __init__(self, capacity: int = 3) -> None:
        self.capacity = capacity
        self.pipes: list[Pipe] = []

    async def opened(self, stream: LinkStream, key: Key) -> Pipe:
        return Pipe(stream)

    async def run(self, stream: LinkStream, state: Pipe, shares: Shares) -> None:
        state.stream, state.shares = stream, shares
        self.pipes.append(state)
        shares.capacity = self.capacity
        try:
            while True:
                answer = await stream.receive_until(b"\n", 1000)
                event, got = state.waiting.pop(0)
                got.append(answer)
                event.set()
        finally:
            state.over.set()
            for event, _ in state.waiting:
                event.set()


def manager(lifecycle: Lifecycle[Pipe], **options: object) -> ConnectionManager:
    return ConnectionManager(lifecycles={"line": lifecycle}, **options)  # type: ignore[arg-type]  # by name


def ask(mgr: ConnectionManager, server: Server, timeout: float = 5, *, fresh: bool = False) -> Request:
    return mgr.allocate("line", server.host, server.port, timeout, fresh=fresh)


async def test_so_many_at_once_on_one_connection() -> None:
    with Server(Lines()) as server:
        async with manager(Piped()) as mgr:
            conns = [await ask(mgr, server) for _ in range(3)]
            assert [conn.from_cache for conn in conns] == [None, Reuse.IMMEDIATE, Reuse.IMMEDIATE]
            assert len({id(conn.state) for conn in conns}) == 1
            assert await conns[1].state.ask(b"hello") == b"HELLO"
            assert (mgr.stats().open, mgr.stats().lent, mgr.stats().idle) == (1, 1, 0)
            for conn in conns:
                conn.release()
            assert (mgr.stats().open, mgr.stats().idle) == (1, 1)
            again = await ask(mgr, server)
            assert (again.uses, again.from_cache) == (4, Reuse.IMMEDIATE)
            again.discard()
            assert mgr.stats().idle == 1
        assert server.accepted == 1


async def test_a_burst_opens_no_more_than_its_shares_need() -> None:
    with Server(Lines()) as server:
        async with manager(Piped(4), max_per_host=3) as mgr:
            requests = [ask(mgr, server) for _ in range(8)]
            conns = [await request for request in requests]
            assert (server.accepted, mgr.stats().open) == (2, 2)
            assert sorted(conn.uses for conn in conns) == [1, 1, 2, 2, 3, 3, 4, 4]
            for conn in conns:
                conn.release()


async def test_first_come_first_served_when_all_shares_are_lent() -> None:
    with Server(Lines()) as server:
        async with manager(Piped(2), max_per_host=1) as mgr:
            held = [await ask(mgr, server) for _ in range(2)]
            served: list[int] = []

            async def user(n: int, request: Request) -> None:
                async with await request as conn:
                    served.append(n)
                    assert conn.from_cache is Reuse.DEFERRED

            async with anyio.create_task_group() as group:
                for n in range(4):
                    group.start_soon(user, n, ask(mgr, server))
                await turns()
                assert (mgr.stats().waiting, served) == (4, [])
                held[0].release()
                await until_equal(lambda: served, [0, 1, 2, 3])
            held[1].release()


async def test_capacity_up_and_down() -> None:
    piped = Piped(2)
    with Server(Lines()) as server:
        async with manager(piped, max_per_host=1) as mgr:
            held = [await ask(mgr, server) for _ in range(2)]
            requests = [ask(mgr, server) for _ in range(3)]
            pipe = piped.pipes[0]
            pipe.shares.capacity = 4
            conns = [await requests[0], await requests[1]]
            assert (pipe.shares.lent, mgr.stats().waiting) == (4, 1)
            pipe.shares.capacity = 1
            for conn in (*held, conns[0]):
                conn.release()
            assert (pipe.shares.lent, mgr.stats().waiting) == (1, 1)
            conns[1].release()
            conn = await requests[2]
            assert pipe.shares.lent == 1
            pipe.shares.capacity = 0
            conn.release()
            assert mgr.stats().idle == 1
            late = ask(mgr, server)
            await turns()
            assert mgr.stats().waiting == 1
            pipe.shares.capacity = 1
            (await late).release()


async def test_retired_one_ends_with_its_last_share_and_another_is_opened() -> None:
    piped = Piped(2)
    with Server(Lines()) as server:
        async with manager(piped) as mgr:
            first = await ask(mgr, server)
            piped.pipes[0].shares.retire()
            second = await ask(mgr, server)
            assert second.state is not first.state
            assert await first.state.ask(b"still") == b"STILL"
            first.release()
            assert (mgr.stats().open, mgr.stats().closed) == (1, {"retired": 1})
            await piped.pipes[0].over.wait()
            second.release()


async def test_death_with_a_hundred_borrowers_is_told_to_each_once() -> None:
    piped = Piped(100)
    with Server(Lines()) as server:
        async with manager(piped, max_per_host=1) as mgr:
            conns = [await ask(mgr, server) for _ in range(100)]
            other = ask(mgr, server)
            told: list[int] = []

            async def user(n: int, conn: Connection) -> None:
                with pytest.raises((EndOfStream, ClosedResourceError, anyio.BrokenResourceError)):
                    await conn.state.ask(b"quit" if n == 99 else b"x")
                    await conn.state.ask(b"y")
                told.append(n)

            async with anyio.create_task_group() as group:
                for n, conn in enumerate(conns):
                    group.start_soon(user, n, conn)
            assert sorted(told) == list(range(100))
            async with await other as conn:
                assert conn.is_new
            for conn in conns:
                conn.release()
            at_rest(mgr)
            assert mgr.stats().closed == {"ended": 1}


async def test_byte_stream_is_not_the_borrowers() -> None:
    with Server(Lines()) as server:
        async with manager(Piped()) as mgr, ask(mgr, server) as conn:
            for refused in (
                conn.receive(),
                conn.send(b"x"),
                conn.send_eof(),
                conn.receive_until(b"x", 1),
                conn.receive_exactly(1),
            ):
                with pytest.raises(ClosedResourceError):
                    await refused


async def test_fresh_never_takes_a_share_of_a_used_one() -> None:
    with Server(Lines()) as server:
        async with manager(Piped()) as mgr:
            async with ask(mgr, server), ask(mgr, server, fresh=True) as conn:
                assert conn.is_new
            assert server.accepted == 2


async def test_cancelled_unfetched_and_dropped_shares_come_back() -> None:
    piped = Piped(1)
    with Server(Lines()) as server:
        async with manager(piped, max_per_host=1) as mgr:
            (await ask(mgr, server)).release()
            ask(mgr, server)  # dropped unawaited
            gc.collect()
            await until_equal(lambda: piped.pipes[0].shares.lent, 0)
            ask(mgr, server).cancel()
            assert piped.pipes[0].shares.lent == 0
            with pytest.warns(ResourceWarning, match="dropped"):  # noqa: PT031  # two lines for one drop
                await ask(mgr, server)
                gc.collect()
            async with ask(mgr, server):
                pass


async def test_idle_one_expires_and_makes_room() -> None:
    with Server(Lines()) as server, Server(Lines()) as other:
        async with manager(Piped(), max_open=1) as mgr:
            (await ask(mgr, server)).release()
            async with ask(mgr, other) as conn:
                assert conn.is_new
            assert mgr.stats().closed == {"evicted": 1}
        async with manager(Piped(), keep_alive=0.02) as mgr:
            (await ask(mgr, server)).release()
            await until(lambda: mgr.stats().open == 0)


async def test_run_that_ends_before_it_set_a_capacity_fails_the_attempt() -> None:
    class Ends(Piped):
        async def run(self, stream: LinkStream, state: Pipe, shares: Shares) -> None:
            if self.capacity:
                shares.capacity = -1

    with Server(Lines()) as server:
        async with manager(Ends(0)) as mgr:
            with pytest.raises(SetupError, match="ended before it set a capacity"):
                await ask(mgr, server)
        async with manager(Ends(1)) as mgr:
            with pytest.raises(SetupError, match="capacity must be from 0"):
                await ask(mgr, server)
            at_rest(mgr)


async def test_exclusive_where_the_set_up_says_so() -> None:
    class Asks(Piped):
        def shared(self, state: Pipe) -> bool:
            return False

    with Server(Lines()) as server:
        async with manager(Asks(), max_per_host=2) as mgr:
            first, second = await ask(mgr, server), await ask(mgr, server)
            await first.send(b"hi\n")
            assert await first.receive() == b"HI\n"
            assert first.state is not second.state
            first.release()
            second.release()


async def test_lifetime_and_uses_end_the_lending() -> None:
    with Server(Lines()) as server:
        async with manager(Piped(), settings={"line": KeySettings(max_uses=2)}) as mgr:
            held = [await ask(mgr, server) for _ in range(3)]
            assert server.accepted == 2
            for conn in held:
                conn.release()
            assert mgr.stats().closed == {"uses": 1}


@pytest.mark.parametrize("seed", range(6))
async def test_storm_of_borrowers_loses_no_share(seed: int) -> None:
    rng = random.Random(seed)
    piped = Piped(3)
    with Server(Lines()) as server:
        async with manager(piped, max_per_host=2) as mgr:

            async def user() -> None:
                for _ in range(20):
                    with anyio.move_on_after(rng.choice((0.0005, 0.002, 5))):
                        try:
                            async with ask(mgr, server) as conn:
                                await conn.state.ask(b"x")
                                if rng.random() < 0.05:
                                    await conn.state.ask(b"quit")
                        except (EndOfStream, ClosedResourceError, anyio.BrokenResourceError):
                            pass

            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(user)
            stats = mgr.stats()
            assert stats.lent == stats.waiting == 0
            assert server.peak <= 2
            assert sum(pipe.shares.lent for pipe in piped.pipes) == 0
            at_rest(mgr)
