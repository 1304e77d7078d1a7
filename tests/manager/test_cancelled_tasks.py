"""A cancelled task costs nothing; see also test_storm."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectionManager,
)
from tests.support.cancelling import cancel_everywhere
from tests.support.clocks import native, skip, timed, unit, virtual
from tests.support.connectors import Gate
from tests.support.requests import Awaited, all_usable, ask, at_rest, exchange
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keepalive import Connection, Request
    from tests.support import Server


async def test_11_cancelled_between_allocate_and_await(echo_server: Server) -> None:
    """heritage pools 3.11: httpcore#830: a request whose owner is cancelled before its await leaves the
    queue."""
    async with ConnectionManager(max_per_host=1) as mgr:
        held = await ask(mgr, echo_server)
        with anyio.CancelScope() as scope:
            request = ask(mgr, echo_server)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            await request
        assert scope.cancelled_caught
        del request
        await until(lambda: mgr.stats().waiting == 0)
        held.release()
        await all_usable(mgr, echo_server, 1)
        assert echo_server.accepted == 1


async def test_11_cancelled_at_the_await_itself(echo_server: Server) -> None:
    """heritage pools 3.11: httpcore#830: the same when the await begins in a scope that is cancelled
    already."""
    async with ConnectionManager(max_per_host=1) as mgr:
        held = await ask(mgr, echo_server)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ask(mgr, echo_server)
        assert (scope.cancelled_caught, mgr.stats().waiting, mgr.stats().cancelled) == (True, 0, 1)
        waiting = ask(mgr, echo_server).__await__()  # a coroutine that is never run
        assert mgr.stats().waiting == 1
        del waiting
        await until(lambda: mgr.stats().waiting == 0)
        held.release()
        await all_usable(mgr, echo_server, 1)


@native
async def test_11_task_cancelled_before_its_first_step(echo_server: Server) -> None:
    """heritage pools 3.11: httpcore#830: a task that is cancelled before it runs never awaits its request."""
    async with ConnectionManager(max_per_host=1) as mgr:
        held = await ask(mgr, echo_server)
        task = asyncio.ensure_future(ask(mgr, echo_server))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await until(lambda: mgr.stats().waiting == 0)
        held.release()
        await all_usable(mgr, echo_server, 1)


@native
@pytest.mark.parametrize("first", ["release", "cancel"])
async def test_14_task_cancel_at_the_hand_over(echo_server: Server, first: str) -> None:
    """heritage pools 3.14: psycopg#1275, #1345: `task.cancel()` in the same tick ends in CancelledError."""
    async with ConnectionManager(max_per_host=1) as mgr:
        held = await ask(mgr, echo_server)
        task = asyncio.ensure_future(ask(mgr, echo_server))
        await turns()
        if first == "release":
            held.release()
        assert task.cancel()
        if first == "cancel":
            held.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (at_rest(mgr), mgr.stats().idle) == (True, 1)
        await all_usable(mgr, echo_server, 1)
        assert echo_server.accepted == 1


@pytest.mark.parametrize("first", ["release", "cancel"])
@pytest.mark.parametrize("limit", [1, 2], ids=["queued", "dialling"])
async def test_14_scope_cancel_at_the_hand_over(echo_server: Server, first: str, limit: int) -> None:
    """heritage pools 3.14: psycopg#1275, #1345: a cancelled scope wins over the hand-over, on every loop."""
    gate = Gate()
    gate.open()
    async with (
        ConnectionManager(max_per_host=limit, connectors={"http": gate}) as mgr,
        anyio.create_task_group() as group,
    ):
        held = await ask(mgr, echo_server)
        gate.shut()
        scope = anyio.CancelScope()
        request = ask(mgr, echo_server)

        async def victim() -> None:
            with scope:
                await request

        group.start_soon(victim)
        await turns()
        assert (mgr.stats().waiting, gate.waiting) == (1, limit - 1)
        if first == "release":
            held.release()
        scope.cancel()
        if first == "cancel":
            held.release()
        await until(lambda: scope.cancelled_caught)
        gate.open()
        await until(lambda: at_rest(mgr))
        assert (mgr.stats().cancelled, mgr.stats().idle) == (1, limit)
        await all_usable(mgr, echo_server, limit)


@virtual
@pytest.mark.parametrize("first", ["cancel", "timeout"])
async def test_14_cancel_at_the_timeout_stays_a_cancel(echo_server: Server, first: str) -> None:
    """heritage pools 3.14: psycopg#1401: a cancel never turns into a timeout error."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        scope = anyio.CancelScope()
        request = ask(mgr, echo_server, 1)

        async def victim() -> None:
            with scope:
                await request

        group.start_soon(victim)
        await turns()
        if first == "cancel":
            scope.cancel()
        skip(2)
        if first == "timeout":
            scope.cancel()  # the timer, too, rings in the next turn
        await until(lambda: scope.cancelled_caught)
        held.release()
        assert at_rest(mgr)


async def test_15_cancelled_in_the_health_check_or_the_reset(echo_server: Server) -> None:
    """heritage pools 3.15: psycopg#1208, redis-py#4121: a check after the hand-out, a reset before the
    release."""
    async with ConnectionManager(max_per_host=1) as mgr:

        async def work() -> None:
            async with ask(mgr, echo_server) as conn:
                await exchange(conn, b"check")
                await exchange(conn, b"work")
                await exchange(conn, b"reset")

        async def check() -> None:
            await until(lambda: at_rest(mgr))
            await all_usable(mgr, echo_server, 1)

        await check()
        assert await cancel_everywhere(work, check) >= 3
        assert echo_server.peak == 1


async def test_15_cancelled_anywhere_on_a_new_connection(tls_server: Server) -> None:
    """heritage pools 3.15: psycopg#1208: the same from the first dial on, each time with a manager of its
    own."""

    async def work() -> None:
        async with ConnectionManager(max_per_host=1) as mgr:
            async with ask(mgr, tls_server) as conn:
                await conn.send(b"hello")
            async with ask(mgr, tls_server, fresh=True) as conn:
                await conn.aclose()

    async def check() -> None:
        await tls_server.until(lambda server: server.connections == 0)

    assert await cancel_everywhere(work, check) >= 2


def _wait_for(request: Request, seconds: float) -> Awaitable[Connection]:
    return asyncio.wait_for(request, seconds)


async def _timeout(request: Request, seconds: float) -> Connection:
    async with asyncio.timeout(seconds):
        return await request


async def _fail_after(request: Request, seconds: float) -> Connection:
    with anyio.fail_after(seconds):
        return await request


async def _lose_patience(
    server: Server, released: str, wrapper: Callable[[Request, float], Awaitable[Connection]]
) -> None:
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, server)
        outcome: list[object] = []

        async def impatient() -> None:
            try:
                (await wrapper(ask(mgr, server, 60 * unit()), 5 * unit())).release()
                outcome.append(None)
            except TimeoutError as exc:
                outcome.append(exc)

        group.start_soon(impatient)
        await turns()
        if released == "before":
            held.release()
        if unit() == 1.0:
            skip(6)
        else:
            await anyio.sleep(5 * unit())
        if released == "with":
            held.release()
        await until(lambda: bool(outcome))
        held.release()
        assert not isinstance(outcome[0], AllocateTimeout)
        assert (at_rest(mgr), mgr.stats().idle) == (True, 1)
        await all_usable(mgr, server, 1)
        await mgr.aclose(grace=None)


@timed
@pytest.mark.parametrize("released", ["before", "with", "after"])
async def test_16_timeout_scope_around_the_request(echo_server: Server, released: str) -> None:
    """heritage pools 3.16: asyncpg#467, #547: no connection is lost, and the manager can be closed."""
    await _lose_patience(echo_server, released, _fail_after)


@native
@pytest.mark.parametrize("released", ["before", "with", "after"])
@pytest.mark.parametrize("wrapper", [_timeout, _wait_for])
async def test_16_asyncio_timeout_around_the_request(
    echo_server: Server, released: str, wrapper: Callable[[Request, float], Awaitable[Connection]]
) -> None:
    """heritage pools 3.16: asyncpg#467, #547: the same with asyncio's own wrappers, which make a task or
    not."""
    await _lose_patience(echo_server, released, wrapper)


async def test_a_cancelled_task_cancels_its_request(echo_server: Server) -> None:
    """heritage poe 3.2: a request ends with the task that awaits it; its place in the line is another's."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        async with anyio.create_task_group() as cancelled:
            Awaited(cancelled, ask(mgr, echo_server))
            following = Awaited(group, ask(mgr, echo_server))
            await anyio.wait_all_tasks_blocked()
            cancelled.cancel_scope.cancel()
        assert (mgr.stats().waiting, mgr.stats().cancelled) == (1, 1)
        held.release()
        (await following.connection()).release()
        assert echo_server.accepted == 1
