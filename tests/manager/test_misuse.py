"""Calls at the wrong time or from the wrong place (heritage poe 1.15, 1.26, 1.78, 1.83; contract)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from anyio import to_thread

from keepalive import AllocateTimeout, ConnectionManager, ManagerClosed, QueueFull, RequestCancelled, Reuse
from tests.support.requests import Awaited, ask, exchange
from tests.support.resolvers import HOST, GatedResolver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keepalive import Connection, Request
    from tests.support import Server


def calls(mgr: ConnectionManager) -> dict[str, Callable[[], Any]]:
    """List all plain calls of a manager, with right arguments."""
    return {
        "allocate": lambda: mgr.allocate("http", HOST, 80),
        "deallocate": lambda: mgr.deallocate(1),
        "free": lambda: mgr.free(None),  # type: ignore[arg-type]  # that is the test
        "shutdown": mgr.shutdown,
        "set_limits": lambda: mgr.set_limits(max_open=1),
    }


async def test_not_entered() -> None:
    """The contract: a manager begins with its block."""
    mgr = ConnectionManager()
    for call in calls(mgr).values():
        with pytest.raises(RuntimeError, match="has not been entered"):
            call()
    with pytest.raises(RuntimeError, match="has not been entered"):
        await mgr.aclose()
    with pytest.raises(RuntimeError, match="has not been entered"):
        mgr.stats()
    assert "new: open=0" in repr(mgr)


def test_entered_without_a_loop() -> None:
    """The contract: nor can it begin where there is no loop."""
    mgr = ConnectionManager()
    with pytest.raises(RuntimeError):
        mgr.__aenter__().send(None)


async def test_entered_twice(echo_server: Server) -> None:
    """The contract: one manager, one block, be it open or left; the first is not disturbed."""
    mgr = ConnectionManager()
    async with mgr:
        with pytest.raises(RuntimeError, match="only once"):
            await mgr.__aenter__()
        async with ask(mgr, echo_server) as conn:
            await exchange(conn)
    with pytest.raises(RuntimeError, match="only once"):
        async with mgr:
            pass


class Elsewhere:
    """All that belongs to one manager, tried from another place."""

    def __init__(self, mgr: ConnectionManager, conn: Connection, request: Request) -> None:
        self._mgr = mgr
        self._conn = conn
        self._request = request
        self.refused: set[str] = set()

    def plain(self) -> None:
        for name, call in {
            **calls(self._mgr),
            "release": self._conn.release,
            "discard": self._conn.discard,
            "cancel": self._request.cancel,
        }.items():
            with pytest.raises(RuntimeError, match="belong to the event loop"):
                call()
            self.refused.add(name)

    async def awaited(self) -> None:
        coroutines: dict[str, Callable[[], Awaitable[object]]] = {
            "aclose of the manager": self._mgr.aclose,
            "aclose": self._conn.aclose,
            "request": lambda: self._request,
        }
        for name, call in coroutines.items():
            with pytest.raises(RuntimeError, match="belong to the event loop"):
                await call()
            self.refused.add(name)

    async def everything(self) -> None:
        self.plain()
        await self.awaited()


@pytest.mark.parametrize("place", ["thread", "asyncio", "trio"])
async def test_elsewhere(echo_server: Server, place: str) -> None:
    """The contract: another thread, with a loop of its own or without one, is told so; nothing happens."""
    async with ConnectionManager(max_per_host=1) as mgr:
        conn = await ask(mgr, echo_server)
        request = ask(mgr, echo_server)
        elsewhere = Elsewhere(mgr, conn, request)

        def run() -> None:
            if place == "thread":
                elsewhere.plain()
            elif place == "asyncio":
                asyncio.run(elsewhere.everything())
            else:
                trio.run(elsewhere.everything)

        await to_thread.run_sync(run, limiter=anyio.CapacityLimiter(1))
        assert len(elsewhere.refused) == (8 if place == "thread" else 11)
        await exchange(conn)
        conn.release()
        async with request as conn:
            assert conn.from_cache is Reuse.DEFERRED
            await exchange(conn)


async def test_a_manager_of_a_loop_that_has_ended() -> None:
    """The contract: what was handed out there cannot be used here."""
    kept: list[ConnectionManager] = []

    def run() -> None:
        async def enter() -> None:
            async with ConnectionManager() as mgr:
                kept.append(mgr)

        asyncio.run(enter())

    await to_thread.run_sync(run, limiter=anyio.CapacityLimiter(1))
    with pytest.raises(RuntimeError, match="belong to the event loop"):
        kept[0].allocate("http", HOST, 80)


async def test_a_request_awaited_twice(echo_server: Server) -> None:
    """heritage poe 1.26: also while the first await is under way, which goes on."""
    resolver = GatedResolver()
    async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
        request = mgr.allocate("http", "peer", echo_server.port, 5)
        first = Awaited(group, request)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=f"request {request.id} was awaited before"):
            await request
        with pytest.raises(RuntimeError, match="awaited before"):
            async with request:
                pass
        resolver.open()
        async with await first.connection() as conn:
            await exchange(conn)


async def test_the_queue_is_full(echo_server: Server) -> None:
    """The contract: `allocate` itself says so; whoever waits or has an attempt does not count against it."""
    async with ConnectionManager(max_per_host=1, max_waiting=1, timeout=60) as mgr:
        held = await ask(mgr, echo_server, None)
        waiting = ask(mgr, echo_server, None)
        for _ in range(3):
            with pytest.raises(
                QueueFull, match="1 of 128 connections open, 1 of 1 for this key, 1 requests queued"
            ):
                ask(mgr, echo_server, None)
        async with ask(mgr, echo_server, None, for_port=1) as conn:  # starts an attempt, need not queue
            await exchange(conn)
        with pytest.raises(AllocateTimeout):
            await ask(mgr, echo_server, 0)  # does not wait at all
        stats = mgr.stats()
        assert (stats.waiting, stats.requests, sum(stats.failed.values())) == (1, 7, 3)
        assert waiting.cancel()
        again = ask(mgr, echo_server, None)
        held.release()
        (await again).release()
        with pytest.raises(RequestCancelled):
            await waiting


async def test_the_queue_counts_all_keys(echo_server: Server) -> None:
    """The contract: `max_waiting` is the manager's, not a key's."""
    async with ConnectionManager(max_open=1, max_waiting=2) as mgr:
        held = await ask(mgr, echo_server)
        waiting = [ask(mgr, echo_server, for_port=1 + n) for n in range(2)]
        with pytest.raises(QueueFull):
            ask(mgr, echo_server, for_port=3)
        held.discard()
        waiting.append(ask(mgr, echo_server, for_port=3))
        for request in waiting:
            (await request).release()


async def test_the_manager_is_closed(echo_server: Server) -> None:
    """heritage poe 1.15, 1.83: `allocate` itself says so."""
    async with ConnectionManager() as mgr:
        mgr.shutdown()
        with pytest.raises(ManagerClosed, match="has been shut down"):
            ask(mgr, echo_server)
    with pytest.raises(ManagerClosed, match="has been shut down"):
        ask(mgr, echo_server)
    assert mgr.stats().requests == 0


async def test_dropped_requests_are_cancelled(echo_server: Server) -> None:
    """The contract: one that nobody awaits any more leaves the queue by itself."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        ask(mgr, echo_server)
        last = Awaited(group, ask(mgr, echo_server))
        held.release()
        async with await last.connection() as conn:
            assert conn.from_cache is Reuse.DEFERRED
        assert (mgr.stats().cancelled, mgr.stats().waiting) == (1, 0)
