"""The end of a manager."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import ClosedResourceError

from keepalive import (
    ConnectionManager,
    ManagerClosed,
    Request,
    Resolution,
    TLSConnector,
)
from tests.support import Server, Silent, full_backlog
from tests.support.leaks import descriptors
from tests.support.recorder import Recorder
from tests.support.requests import Awaited, all_gone, ask, at_rest, exchange, take, warm
from tests.support.resolvers import HOST, GatedResolver
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    import ssl

    from keepalive import Connection


async def test_everybody_who_waits_is_told(echo_server: Server) -> None:
    """heritage poe 3.7 (B7), 1.79: each waiting request ends with `ManagerClosed`, awaited or not."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        awaited = [Awaited(group, ask(mgr, echo_server)) for _ in range(3)]
        later = ask(mgr, echo_server)
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
        held = await ask(mgr, echo_server)
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
        request = ask(mgr, echo_server)
        mgr.shutdown()
        with pytest.raises(ManagerClosed):
            await request
        assert (echo_server.connections, mgr.stats().open) == (0, 0)


@pytest.mark.parametrize("phase", ["resolve", "connect", "tls"])
async def test_attempts_are_aborted(silent_server: Server, phase: str) -> None:
    """heritage poe 3.8 (B7b), 1.79: no connection comes after the end, whatever the attempt waits for."""
    resolver = GatedResolver()
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
    resolver = GatedResolver(stubborn=True)
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
        request = ask(mgr, echo_server)
        held = await request
        for _ in range(2):
            mgr.shutdown()
            with pytest.raises(ManagerClosed):
                ask(mgr, echo_server)
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
            ask(mgr, echo_server)
    with pytest.raises(ManagerClosed):
        ask(mgr, echo_server)
    assert not mgr.deallocate(request.id)
    assert mgr.stats().requests == 1


async def test_leaving_the_block_cuts_what_is_lent(echo_server: Server) -> None:
    """heritage poe 3.7 (B7): handles that outlive their manager are closed, and harmless."""
    async with ConnectionManager() as mgr:
        held = await ask(mgr, echo_server)
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
        conn = await ask(mgr, echo_server)
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
        held = [await ask(mgr, echo_server) for _ in range(2)]
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
                ask(mgr, echo_server)
            await exchange(conn)
            conn.release()
        await closing.wait()
        assert echo_server.connections == 0


async def test_a_graceful_end_has_its_end(echo_server: Server) -> None:
    """heritage poe 3.7 (B7): what is still lent when the grace is over is cut."""
    async with ConnectionManager() as mgr:
        held = await ask(mgr, echo_server)
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
        async with ConnectionManager(resolver=GatedResolver()) as mgr:
            held = await ask(mgr, echo_server)
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
        pacer = await ask(other, echo_server)
        for _ in range(10):
            async with ConnectionManager() as mgr:
                held = await ask(mgr, echo_server)
                await until(lambda: echo_server.connections == 2)
                echo_server.push(b"news")
                await pacer.receive()
            held.discard()
            await anyio.wait_all_tasks_blocked()
        pacer.release()
    assert caplog.records == []


class Nowhere:
    """A resolver that never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def resolve(self, host: str) -> Resolution:
        self.asked += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.asked -= 1
        raise AssertionError


class Busy:
    """A manager with something in every phase: looking up, dialling, shaking hands, queueing, lent, idle."""

    def __init__(self, stack: ExitStack, server: Server, context: ssl.SSLContext) -> None:
        self.server = server
        self.mute = stack.enter_context(Server(Silent()))
        self.hole = stack.enter_context(full_backlog())
        self.names = Nowhere()
        self.recorder = Recorder()
        self.mgr = ConnectionManager(
            max_per_host=2,
            connectors={"https": TLSConnector(context)},
            observer=self.recorder,
            resolver=self.names,
        )
        self.lent: list[Connection] = []
        self.pending: list[Request] = []

    async def begin(self) -> None:
        mgr, mute = self.mgr, self.mute
        self.lent = await take(mgr, self.server, 2)
        for conn in await take(mgr, self.server, 2, n=2):
            conn.release()
        for _ in range(3):
            self.pending.append(ask(mgr, self.server))
            self.pending.append(mgr.allocate("http", "nowhere.test", 80))
            self.pending.append(mgr.allocate("http", self.hole.host, self.hole.port))
            self.pending.append(mgr.allocate("https", mute.host, mute.port, for_addr="localhost"))
        await mute.until(lambda server: server.received > 400)
        await until(lambda: self.names.asked == 1)
        assert (mgr.stats().waiting, mgr.stats().connecting, mgr.stats().open) == (12, 6, 10)

    async def all_pending_told(self) -> None:
        for request in self.pending:
            with pytest.raises(ManagerClosed):
                await request


@pytest.mark.parametrize("grace", [0.0, 0.05, 60.0, None])
async def test_53_aclose_in_the_middle_of_everything(
    echo_server: Server, client_context: ssl.SSLContext, grace: float | None
) -> None:
    """heritage pools 3.53: envoy#22527, PR#19780: waiters are told, no dial starts, no descriptor is left."""
    with ExitStack() as stack:
        busy = Busy(stack, echo_server, client_context)
        before = descriptors()
        async with busy.mgr as mgr:
            await busy.begin()
            dials = busy.recorder.names().count("opening")
            async with anyio.create_task_group() as group:
                group.start_soon(busy.all_pending_told)
                group.start_soon(mgr.aclose, grace)
                await until(lambda: mgr.stats().waiting == 0)
                if grace is None or grace > 1:  # lent ones go on for so long; otherwise they are cut
                    for conn in busy.lent:
                        await exchange(conn)
                        conn.release()
            assert (mgr.stats().open, busy.names.asked) == (0, 0)
            assert busy.recorder.names().count("opening") == dials
            assert (echo_server.connections, busy.mute.connections) == (0, 0)
            await all_gone(echo_server, busy.mute)
            assert descriptors() - before == set()
            for conn in busy.lent:
                with pytest.raises(anyio.ClosedResourceError):
                    await conn.send(b"x")
                conn.release()


async def test_53_shutdown_in_the_middle_of_everything(
    echo_server: Server, client_context: ssl.SSLContext
) -> None:
    """heritage pools 3.53: envoy#22527: lent ones stay usable, are closed at their release, and not
    replaced."""
    with ExitStack() as stack:
        busy = Busy(stack, echo_server, client_context)
        async with busy.mgr as mgr:
            await busy.begin()
            mgr.shutdown()
            mgr.shutdown()
            assert (mgr.stats().waiting, mgr.stats().lent, mgr.stats().idle) == (0, 2, 0)
            await busy.all_pending_told()
            await until(lambda: mgr.stats().open == 2)
            assert (echo_server.connections, busy.mute.connections) == (2, 0)
            for left, conn in zip((1, 0), busy.lent, strict=True):
                await exchange(conn)
                conn.release()
                assert (mgr.stats().open, echo_server.connections) == (left, left)
            assert at_rest(mgr)
            assert busy.recorder.reasons() == ["shutdown"] * 4


async def test_53_served_but_not_fetched_at_the_end(echo_server: Server) -> None:
    """heritage pools 3.53: envoy#22527: whoever was served but has not fetched is told as well."""
    async with ConnectionManager(max_per_host=1) as mgr:
        (await ask(mgr, echo_server)).release()
        served, queued = ask(mgr, echo_server), ask(mgr, echo_server)
        assert mgr.stats().lent == 1
        mgr.shutdown()
        assert (mgr.stats().open, echo_server.connections) == (0, 0)
        for request in (served, queued):
            with pytest.raises(ManagerClosed):
                await request


async def test_54_requests_during_the_shutdown(echo_server: Server) -> None:
    """heritage pools 3.54: async-http-client PR#2251, akka-http#1245: refused at once, never left hanging."""
    refused: list[str] = []

    def try_one(where: str) -> None:
        with pytest.raises(ManagerClosed):
            ask(mgr, echo_server)
        refused.append(where)

    class Late(Recorder):
        def failed(self, *_: object) -> None:
            try_one("hook")

    async def told_to_go() -> None:
        with pytest.raises(ManagerClosed):
            await ask(mgr, echo_server)
        try_one("waiter")

    async def come_by() -> None:
        while mgr.stats().open:
            try_one("passer-by")
            await turns(2)

    async with ConnectionManager(max_per_host=2, observer=Late()) as mgr:
        lent = await take(mgr, echo_server, 2)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(told_to_go)
                await turns()
                group.start_soon(mgr.aclose, 60)
                await turns()
                group.start_soon(come_by)
                await turns()
                for conn in lent:
                    try_one("user")
                    conn.release()
    try_one("afterwards")
    assert set(refused) == {"hook", "waiter", "passer-by", "user", "afterwards"}
    assert mgr.stats().failed == {"shutdown": 1}
