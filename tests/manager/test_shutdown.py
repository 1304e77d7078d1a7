"""heritage poe 3.7, 3.8, 1.78-1.83: the end of a manager."""

from __future__ import annotations

import time
from contextlib import ExitStack

import anyio
import pytest
from anyio import ClosedResourceError

from keepalive import ConnectionManager, ManagerClosed, TLSConnector
from tests.support import Server, full_backlog

from .kit import HOST, Awaited, Gated, exchange, get, until, warm


async def test_everybody_who_waits_is_told(echo_server: Server) -> None:
    """heritage poe 3.7 (B7), 1.79: each waiting request ends with `ManagerClosed`, awaited or not."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await get(mgr, echo_server)
        awaited = [Awaited(group, get(mgr, echo_server)) for _ in range(3)]
        later = get(mgr, echo_server)
        await anyio.wait_all_tasks_blocked()
        mgr.shutdown()
        for request in awaited:
            assert isinstance(await request.error(), ManagerClosed)
        with pytest.raises(ManagerClosed, match="shut down before request"):
            await later
        assert mgr.stats().waiting == 0
        held.release()


async def test_idle_connections_close_at_once_lent_ones_when_given_back(echo_server: Server) -> None:
    """heritage poe 3.7 (B7, B7c), 1.80, 1.82: nothing stays open that nobody uses."""
    async with ConnectionManager() as mgr:
        held = await get(mgr, echo_server)
        await warm(mgr, echo_server, 2)
        assert echo_server.connections == 3
        mgr.shutdown()
        assert (echo_server.connections, mgr.stats().open, mgr.stats().lent) == (1, 1, 1)
        await exchange(held)
        mgr.free(held)
        assert (echo_server.connections, mgr.stats().open) == (0, 0)
        assert mgr.stats().closed == {"shutdown": 3}


async def test_one_served_but_not_fetched(echo_server: Server) -> None:
    """heritage poe 3.7 (B7): it is nobody's yet: its request fails and it is closed."""
    async with ConnectionManager() as mgr:
        await warm(mgr, echo_server)
        request = get(mgr, echo_server)
        mgr.shutdown()
        with pytest.raises(ManagerClosed):
            await request
        assert (echo_server.connections, mgr.stats().open) == (0, 0)


@pytest.mark.parametrize("phase", ["resolve", "connect", "tls"])
async def test_attempts_are_aborted(silent_server: Server, phase: str) -> None:
    """heritage poe 3.8 (B7b), 1.79: no connection comes after the end, whatever the attempt waits for."""
    resolver = Gated()
    connectors = {"tls": TLSConnector()}
    with ExitStack() as stack:
        port = silent_server.port if phase != "connect" else stack.enter_context(full_backlog()).port
        async with (
            ConnectionManager(resolver=resolver, connectors=connectors) as mgr,
            anyio.create_task_group() as group,
        ):
            scheme, addr = "tls" if phase == "tls" else "http", "peer" if phase == "resolve" else HOST
            request = Awaited(group, mgr.allocate(scheme, addr, port, 5))
            if phase == "tls":
                await silent_server.until(lambda server: server.received > 0)
            elif phase == "resolve":
                await until(lambda: resolver.asked == ["peer"])
            mgr.shutdown()
            assert isinstance(await request.error(), ManagerClosed)
            await until(lambda: mgr.stats().open == 0)
            assert silent_server.connections == 0
            await until(lambda: resolver.cancelled == (["peer"] if phase == "resolve" else []))


async def test_an_answer_after_the_end_is_ignored(echo_server: Server) -> None:
    """heritage poe 1.44: a resolver that answers although it was cancelled."""
    resolver = Gated(stubborn=True)
    async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
        request = Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5))
        await until(lambda: resolver.asked == ["peer"])
        mgr.shutdown()
        assert isinstance(await request.error(), ManagerClosed)
        await until(lambda: resolver.answered == ["peer"] and not mgr.stats().open)
    assert echo_server.accepted == 0


async def test_after_the_end(echo_server: Server) -> None:
    """heritage poe 1.78, 1.83: ending twice is harmless; allocate fails at the call, free and deallocate do
    not."""
    mgr = ConnectionManager()
    async with mgr:
        request = get(mgr, echo_server)
        held = await request
        for _ in range(2):
            mgr.shutdown()
            with pytest.raises(ManagerClosed):
                get(mgr, echo_server)
        assert not mgr.deallocate(request.id)
        with pytest.raises(ValueError, match="never issued"):
            mgr.deallocate(request.id + 1)
        mgr.free(held)
        with pytest.raises(ValueError, match="is not lent"):
            mgr.free(held)
        await mgr.aclose()
        await mgr.aclose()
        mgr.shutdown()
        with pytest.raises(ManagerClosed):
            get(mgr, echo_server)
    with pytest.raises(ManagerClosed):
        get(mgr, echo_server)
    assert not mgr.deallocate(request.id)
    assert mgr.stats().requests == 1


async def test_leaving_the_block_cuts_what_is_lent(echo_server: Server) -> None:
    """heritage poe 3.7 (B7): handles that outlive their manager are closed, and harmless."""
    async with ConnectionManager() as mgr:
        held = await get(mgr, echo_server)
    assert (echo_server.connections, mgr.stats().open) == (0, 0)
    with pytest.raises(ClosedResourceError):
        await held.send(b"late")
    with pytest.raises(ClosedResourceError):
        await held.receive()
    held.release()
    held.discard()
    await held.aclose()


async def test_who_is_inside_receive_is_told(echo_server: Server) -> None:
    """heritage poe 3.7 (B7): a task that waits for bytes when the connection is cut gets an error, not
    silence."""
    ended: list[type[BaseException]] = []

    async def listen() -> None:
        conn = await get(mgr, echo_server)
        try:
            await conn.receive()
        except ClosedResourceError as exc:
            ended.append(type(exc))

    async with anyio.create_task_group() as group, ConnectionManager() as mgr:
        group.start_soon(listen)
        await until(lambda: mgr.stats().lent == 1)
        await anyio.wait_all_tasks_blocked()
    assert ended == [ClosedResourceError]


@pytest.mark.parametrize("grace", [None, 5.0])
async def test_a_graceful_end_waits_for_lent_ones(echo_server: Server, grace: float | None) -> None:
    """heritage poe 3.7 (B7): the variant that waits, with a deadline or none, ends with the last return."""
    async with ConnectionManager() as mgr, anyio.create_task_group() as group:
        held = [await get(mgr, echo_server) for _ in range(2)]
        await warm(mgr, echo_server)
        closing = anyio.Event()

        async def close() -> None:
            await mgr.aclose(grace)
            closing.set()

        group.start_soon(close)
        for conn in held:
            await anyio.wait_all_tasks_blocked()
            assert not closing.is_set()
            with pytest.raises(ManagerClosed):
                get(mgr, echo_server)
            await exchange(conn)
            conn.release()
        await closing.wait()
        assert echo_server.connections == 0


async def test_a_graceful_end_has_its_end(echo_server: Server) -> None:
    """heritage poe 3.7 (B7): what is still lent when the grace is over is cut."""
    async with ConnectionManager() as mgr:
        held = await get(mgr, echo_server)
        began = time.monotonic()
        await mgr.aclose(0.05)
        assert time.monotonic() - began >= 0.045
        assert echo_server.connections == 0
        with pytest.raises(ClosedResourceError):
            await held.send(b"late")


@pytest.mark.parametrize("during", ["shutdown", "block"])
async def test_an_exception_leaves_the_block_as_it_is(echo_server: Server, during: str) -> None:
    """heritage poe 1.78: the manager's end hides nothing and groups nothing."""
    with pytest.raises(ZeroDivisionError):
        async with ConnectionManager(resolver=Gated()) as mgr:
            held = await get(mgr, echo_server)
            mgr.allocate("http", "peer", 80)
            if during == "shutdown":
                mgr.shutdown()
            raise ZeroDivisionError
    assert echo_server.connections == 0
    held.release()


async def test_the_end_in_the_turn_of_the_last_news(
    echo_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """heritage poe 3.26: what the loop has for a manager that ends in the same turn is dropped, quietly."""
    async with ConnectionManager() as other:
        pacer = await get(other, echo_server)
        for _ in range(10):
            async with ConnectionManager() as mgr:
                held = await get(mgr, echo_server)
                await until(lambda: echo_server.connections == 2)
                echo_server.push(b"news")
                await pacer.receive()
            held.discard()
            await anyio.wait_all_tasks_blocked()
        pacer.release()
    assert caplog.records == []
