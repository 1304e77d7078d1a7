"""Requests that are cancelled, in every phase."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectionManager,
    Dial,
    Link,
    ManagerClosed,
    RequestCancelled,
    Reuse,
    TLSConnector,
)
from tests.support import Server, Silent, full_backlog
from tests.support.connectors import Gate
from tests.support.requests import Awaited, all_usable, ask, at_rest, exchange, take
from tests.support.resolvers import HOST, GatedResolver
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keepalive import Request


PHASES = ["queue", "resolve", "connect", "tls"]


class Stage:
    """A manager with room for one connection, and requests that stay in a wanted phase."""

    def __init__(self, stack: ExitStack) -> None:
        self.resolver = GatedResolver()
        self.server = stack.enter_context(Server())
        self._silent = stack.enter_context(Server(Silent()))
        self._stack = stack
        self.mgr = ConnectionManager(
            max_open=1, resolver=self.resolver, connectors={"tls": TLSConnector()}, timeout=5
        )

    async def start(self, phase: str) -> Request:
        """Start a request and wait until it is in that phase."""
        request = self._begin(phase)
        stats = self.mgr.stats
        await until(lambda: stats().queued == 1 if phase == "queue" else stats().connecting == 1)
        if phase == "resolve":
            await until(lambda: bool(self.resolver.asked))
        elif phase == "tls":
            await self._silent.until(lambda server: server.received > 0)
        return request

    def _begin(self, phase: str) -> Request:
        if phase == "resolve":
            return self.mgr.allocate("http", "peer", self.server.port)
        if phase == "connect":
            hanging = self._stack.enter_context(full_backlog())
            return self.mgr.allocate("http", HOST, hanging.port)
        if phase == "tls":
            return self.mgr.allocate("tls", HOST, self._silent.port)
        return ask(self.mgr, self.server)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


@pytest.mark.parametrize("by", ["deallocate", "cancel"])
@pytest.mark.parametrize("phase", PHASES)
async def test_cancelled_in_every_phase(stage: Stage, phase: str, by: str) -> None:
    """heritage poe 3.2 (B2), 1.75: the awaiter is told, the place goes to the next, and the id has had its
    time."""
    async with stage.mgr as mgr, anyio.create_task_group() as group:
        held = [await ask(mgr, stage.server)] if phase == "queue" else []
        request = await stage.start(phase)
        awaited = Awaited(group, request)
        following = Awaited(group, ask(mgr, stage.server))
        await anyio.wait_all_tasks_blocked()
        assert mgr.deallocate(request.id) if by == "deallocate" else request.cancel()
        assert isinstance(await awaited.error(), RequestCancelled)
        for conn in held:
            conn.release()
        async with await following.connection() as conn:
            assert conn.from_cache is (Reuse.DEFERRED if held else None)
            await exchange(conn)
        assert not mgr.deallocate(request.id)
        assert not request.cancel()
        stats = mgr.stats()
        assert (stats.cancelled, stats.waiting, stats.open, awaited.answers) == (1, 0, 1, 1)
        assert stage.server.connections == 1


@pytest.mark.parametrize("phase", PHASES)
async def test_deallocated_before_the_await(stage: Stage, phase: str) -> None:
    """heritage poe 3.2 (B2): the one defined outcome holds for who comes to ask later, too."""
    async with stage.mgr as mgr:
        held = [await ask(mgr, stage.server)] if phase == "queue" else []
        request = await stage.start(phase)
        assert mgr.deallocate(request.id)
        with pytest.raises(RequestCancelled, match=f"request {request.id} "):
            await request
        for conn in held:
            conn.release()


async def test_deallocated_when_served(echo_server: Server) -> None:
    """heritage poe 3.2 (B2): a request that has its connection, unfetched, passes it on to the next."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        served, following = ask(mgr, echo_server), ask(mgr, echo_server)
        awaited = Awaited(group, following)
        held.release()
        assert mgr.deallocate(served.id)
        with pytest.raises(RequestCancelled):
            await served
        (await awaited.connection()).release()
        at_once = ask(mgr, echo_server)
        assert mgr.deallocate(at_once.id)
        with pytest.raises(RequestCancelled):
            await at_once
        assert (mgr.stats().idle, echo_server.accepted) == (1, 1)


async def test_deallocate_never_touches_idle_connections(echo_server: Server) -> None:
    """heritage poe 3.3 (B3): a pending request beside an idle connection of its key."""
    resolver = GatedResolver()
    async with ConnectionManager(resolver=resolver) as mgr:
        resolver.open()
        held = await mgr.allocate("http", "peer", echo_server.port, 5)
        resolver.gate = anyio.Event()
        pending = mgr.allocate("http", "peer", echo_server.port, 5, fresh=True)
        held.release()
        assert (mgr.stats().idle, mgr.stats().waiting) == (1, 1)
        assert mgr.deallocate(pending.id)
        assert (mgr.stats().idle, mgr.stats().waiting, echo_server.connections) == (1, 0, 1)
        async with mgr.allocate("http", "peer", echo_server.port, 0) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
            await exchange(conn)


async def test_deallocate_never_touches_lent_connections(echo_server: Server) -> None:
    """heritage poe 3.3 (B3), 1.74: a request that was answered has ended; its connection is its user's."""
    async with ConnectionManager() as mgr:
        request = ask(mgr, echo_server)
        async with request as conn:
            assert not mgr.deallocate(request.id)
            await exchange(conn)
        assert not mgr.deallocate(request.id)
        assert (mgr.stats().idle, echo_server.connections) == (1, 1)


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("pressed", [False, True])
async def test_a_late_answer_of_a_look_up_is_harmless(
    echo_server: Server, stubborn: bool, pressed: bool
) -> None:
    """heritage poe 3.4 (B11), 1.42: the look-up of a cancelled request goes on, or not, and answers late."""
    resolver = GatedResolver(stubborn=stubborn)
    async with ConnectionManager(max_open=1, resolver=resolver) as mgr, anyio.create_task_group() as group:
        request = mgr.allocate("http", "peer", echo_server.port, 5)
        await until(lambda: resolver.asked == ["peer"])
        assert mgr.deallocate(request.id)
        if pressed:  # somebody else needs the place of its attempt
            (await Awaited(group, ask(mgr, echo_server)).connection()).discard()
            await until(lambda: resolver.cancelled == ["peer"])
        resolver.open()
        async with mgr.allocate("http", "peer", echo_server.port, 5) as conn:
            await exchange(conn)
        await until(lambda: not mgr.stats().connecting)
        assert (mgr.stats().open, mgr.stats().cancelled) == (1, 1)


async def test_a_time_out_leaves_a_shared_look_up_to_the_others(echo_server: Server) -> None:
    """heritage poe 3.17, 1.76: a look-up ends with the last who wants it, and not before."""
    resolver = GatedResolver()
    with Server() as other:
        async with ConnectionManager(max_open=2, resolver=resolver) as mgr:
            hasty = mgr.allocate("http", "peer", other.port, 0.02)
            patient = mgr.allocate("http", "peer", echo_server.port, 5)
            with pytest.raises(AllocateTimeout) as caught:
                await hasty
            assert caught.value.function == "resolve"
            # The place of the hasty one's attempt is needed, so that it leaves the look-up.
            async with ask(mgr, other) as conn:
                await exchange(conn)
            assert (resolver.asked, resolver.cancelled) == (["peer"], [])
            resolver.open()
            async with patient as conn:
                await exchange(conn)
            async with mgr.allocate("http", "peer", echo_server.port, 5, fresh=True) as conn:
                await exchange(conn)  # no dead record of the name is left


async def test_a_look_up_ends_with_the_last_who_asks() -> None:
    """heritage poe 3.17, 1.76: both requests that share it are given up, and so is the look-up."""
    resolver = GatedResolver()
    with Server() as server, Server() as other:
        async with ConnectionManager(max_open=2, resolver=resolver) as mgr:
            both = [mgr.allocate("http", "peer", each.port, 5) for each in (server, other)]
            await until(lambda: resolver.asked == ["peer"])
            for request in both:
                assert mgr.deallocate(request.id)
            held = [await ask(mgr, each) for each in (server, other)]
            assert (resolver.asked, resolver.cancelled) == (["peer"], ["peer"])
            for conn in held:
                conn.release()


class Greeted:
    """A connector that has its connection once the server has greeted."""

    async def connect(self, dial: Dial) -> Link:
        link = await dial.connect_tcp(dial.key.addr, dial.key.port)
        await dial.stream(link).receive()
        return link


@pytest.mark.parametrize("limit", ["timeout", "connect_timeout"])
async def test_a_result_that_meets_the_timer(silent_server: Server, limit: str) -> None:
    """heritage poe 3.15: both are due in one turn of the loop; whichever wins, the books are right."""
    timeouts: dict[str, Any] = {limit: 0.02}
    for turn in range(3):
        async with ConnectionManager(max_open=1, connectors={"http": Greeted()}, **timeouts) as mgr:
            request = mgr.allocate("http", HOST, silent_server.port)
            deadline = time.monotonic() + 0.03
            # On a busy machine its time may be over by now, and the connection too.
            await silent_server.until(lambda server: server.accepted > turn)  # noqa: B023  # awaited here
            silent_server.push(b"hello")
            while time.monotonic() < deadline:
                pass  # the loop stands still until the timer is overdue
            try:
                conn = await request
            except AllocateTimeout:
                pass
            else:
                assert conn.from_cache is None
                conn.discard()
            await until(lambda: mgr.stats().connecting == mgr.stats().closing == 0)
            stats = mgr.stats()
            # What came too late may wait for the next one as a spare.
            assert stats.open == stats.idle == silent_server.connections <= 1
            assert stats.new + stats.timeouts == 1
        assert (silent_server.connections, silent_server.peak, silent_server.accepted) == (0, 1, turn + 1)


async def test_shutdown_between_answer_and_attempt(echo_server: Server) -> None:
    """heritage poe 3.26: the name is known, the attempt not yet started, and the manager ends."""
    resolver = GatedResolver()
    async with ConnectionManager(resolver=resolver) as mgr:
        request = mgr.allocate("http", "peer", echo_server.port, 5)
        await until(lambda: resolver.asked == ["peer"])
        resolver.open()
        mgr.shutdown()
        with pytest.raises(ManagerClosed):
            await request
        await until(lambda: not mgr.stats().open)
        assert (mgr.stats().waiting, echo_server.accepted) == (0, 0)


async def test_17_delivered_to_a_request_that_is_cancelled(echo_server: Server) -> None:
    """heritage pools 3.17: httpcomponents-core PR#277, netty PR#17287: the next has it in the same step."""
    async with ConnectionManager(max_per_host=1) as mgr:
        held = await ask(mgr, echo_server)
        b, c, d = (ask(mgr, echo_server) for _ in range(3))
        held.release()
        assert b.cancel()
        assert (mgr.stats().waiting, mgr.stats().lent) == (1, 1)
        assert mgr.deallocate(c.id)
        assert (mgr.stats().waiting, mgr.stats().lent) == (0, 1)
        conn = await d
        assert (conn.from_cache, echo_server.accepted) == (Reuse.DEFERRED, 1)
        for request in (b, c):
            assert not request.cancel()
            with pytest.raises(RequestCancelled):
                await request
        conn.release()
        assert at_rest(mgr)


async def test_17_opened_for_a_request_that_is_cancelled(echo_server: Server) -> None:
    """heritage pools 3.17: httpcomponents-core PR#294, aws-crt-java#437: the same for a new connection."""
    gate = Gate()
    async with ConnectionManager(max_per_host=1, connectors={"http": gate}) as mgr:
        b, c = ask(mgr, echo_server), ask(mgr, echo_server)
        await until(lambda: gate.waiting == 1)
        gate.open()
        await until(lambda: mgr.stats().lent == 1)  # served, not fetched
        assert b.cancel()
        conn = await c
        assert (conn.from_cache, conn.uses, gate.begun) == (None, 1, 1)
        conn.release()
        with pytest.raises(RequestCancelled):
            await b
        assert at_rest(mgr)


async def test_17_a_served_request_that_nobody_wants_leaves_an_idle_one(echo_server: Server) -> None:
    """heritage pools 3.17: aws-crt-java#437: with nobody in line the connection waits idle."""
    async with ConnectionManager(max_per_host=2) as mgr:
        held = await take(mgr, echo_server, 2)
        b = ask(mgr, echo_server)
        for conn in held:
            conn.release()
        b.cancel()
        assert (mgr.stats().idle, mgr.stats().lent) == (2, 0)
        dropped = ask(mgr, echo_server)
        assert mgr.stats().lent == 1
        del dropped
        await until(lambda: mgr.stats().idle == 2)
        await all_usable(mgr, echo_server, 2)
        assert echo_server.accepted == 2
