"""One question for all who ask, and what is remembered: the look-ups of a manager."""

from __future__ import annotations

import math
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectionManager, DNSResolver, Resolution, ResolveError
from keepalive.base.failure import DialFailure
from keepalive.resolve.service import STALE_PATIENCE, Names
from keepalive.transport.loops import current_runtime
from keepalive.transport.reactor import Reactor
from tests.support import Server
from tests.support.clocks import passing, virtual
from tests.support.inside import driver_of
from tests.support.nameserver import NameServer, Zone
from tests.support.requests import Awaited, exchange
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from keepalive import Resolver

HERE = "127.0.0.1"
A, B = "192.0.2.1", "192.0.2.2"


class Told:
    """A resolver that answers what it is told to, when it is told to."""

    def __init__(self, *answers: Resolution | Exception) -> None:
        self.asked: list[str] = []
        self.ended = 0
        self.answers = list(answers)
        self.gate = anyio.Event()
        self.gate.set()

    async def resolve(self, host: str) -> Resolution:
        self.asked.append(host)
        try:
            await self.gate.wait()
        finally:
            self.ended += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class InParts(Told):
    """One that hears of the first address at once, and of all when the gate is open."""

    async def resolve_parts(self, host: str, part: Callable[[Resolution], None]) -> Resolution:
        part(Resolution((A,), 60.0))
        part(Resolution(("no address",), 60.0))
        return await self.resolve(host)


@asynccontextmanager
async def names_of(resolver: Resolver) -> AsyncIterator[Names]:
    """Make the look-ups of a manager without the rest of one."""
    reactor = Reactor(current_runtime(), lambda _: None, lambda: None)
    names = Names(resolver, reactor)
    try:
        yield names
    finally:
        names.close()
        await reactor.wait_for_tasks()
        await reactor.aclose()


def look_ups(mgr: ConnectionManager) -> int:
    """Count the look-ups of a manager that have not ended yet."""
    return driver_of(mgr).reactor.tasks


def missing(ttl: float) -> OSError:
    error = OSError("no such name")
    error.ttl = ttl  # type: ignore[attr-defined]  # how a resolver says that it knows
    return error


# -- one question for all ----------------------------------------------------------------------------


async def test_a_thousand_requests_make_one_question_per_family(echo_server: Server) -> None:
    """heritage pools 3.46: aiohttp#1924. Nobody asks again while the answer lives."""
    with NameServer(Zone({"peer.test": [f"60 A {HERE}"]})) as server:
        resolver = DNSResolver([server.address], hosts=None)
        async with ConnectionManager(resolver=resolver, max_per_host=20, max_open=None) as mgr:

            async def use(n: int) -> None:
                async with mgr.allocate("t", "peer.test", echo_server.port, 30, for_port=n % 50 + 1) as conn:
                    await exchange(conn)

            async with anyio.create_task_group() as group:
                for n in range(1000):
                    group.start_soon(use, n)
        assert sorted(question.kind for question in server.asked) == ["A", "AAAA"]


@pytest.mark.parametrize("first_by", ["cancel", "timeout", "scope"])
async def test_the_first_asker_goes(echo_server: Server, first_by: str) -> None:
    """heritage pools 3.47, heritage poe 3.17: aiohttp PR#2910, go#22724, go#10117: the others are
    answered."""
    with NameServer(Zone({"peer.test": [f"60 A {HERE}"]})) as server:
        server.holding = True
        resolver = DNSResolver([server.address], hosts=None, timeout=30)
        async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            first = mgr.allocate("t", "peer.test", echo_server.port, 0.1 if first_by == "timeout" else 20)

            async def ask_first() -> None:
                with scope:
                    await first

            if first_by == "scope":
                group.start_soon(ask_first)
            others = [Awaited(group, mgr.allocate("t", "peer.test", echo_server.port, 20, for_port=9))]
            others.append(Awaited(group, mgr.allocate("t", "peer.test", echo_server.port, 20, for_port=8)))
            await until(lambda: len(server.asked) == 2)
            if first_by == "cancel":
                assert first.cancel()
            elif first_by == "scope":
                scope.cancel()
            else:
                with pytest.raises(TimeoutError, match="resolve"):
                    await first
            await turns()
            server.release()
            for other in others:
                (await other.connection()).release()
            assert len(server.asked) == 2


async def test_all_askers_go(echo_server: Server) -> None:
    """heritage pools 3.47, heritage poe 3.4: the question is dropped; what is answered later is nobody's."""
    with NameServer(Zone({"peer.test": [f"60 A {HERE}"]})) as server:
        server.holding = True
        resolver = DNSResolver([server.address], hosts=None, timeout=30)
        async with ConnectionManager(resolver=resolver, max_open=2) as mgr:
            for _ in range(3):
                requests = [mgr.allocate("t", "peer.test", echo_server.port, 20, for_port=n) for n in (1, 2)]
                await until(lambda: len(server.asked) == 2)
                assert all(mgr.deallocate(request.id) for request in requests)
                # Two keys, so both spare attempts end when another key needs their room.
                held = [await mgr.allocate(scheme, HERE, echo_server.port, 5) for scheme in ("t", "u")]
                await until(lambda: look_ups(mgr) == 0)
                for conn in held:
                    conn.discard()
                server.release()
                server.asked.clear()
            server.holding = False
            async with mgr.allocate("t", "peer.test", echo_server.port, 5) as conn:
                await exchange(conn)


async def test_two_managers_share_a_resolver_and_nothing_else(echo_server: Server) -> None:
    """heritage poe 3.19: the end of one is not the end of the other's look-ups."""
    resolver = Told(Resolution((HERE,)))
    resolver.gate = anyio.Event()
    async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
        async with ConnectionManager(resolver=resolver) as other:
            other.allocate("t", "peer.test", echo_server.port)
            request = Awaited(group, mgr.allocate("t", "peer.test", echo_server.port, 5))
            await until(lambda: len(resolver.asked) == 2)
        assert resolver.ended == 1
        resolver.gate.set()
        (await request.connection()).release()


async def test_order_is_by_request_not_by_look_up() -> None:
    """heritage poe 3.16: within a key, who asked first is served first; here for one connection in all."""
    resolver = Told(Resolution((HERE,)))
    resolver.gate = anyio.Event()
    with Server() as server:
        async with ConnectionManager(resolver=resolver, max_per_host=1) as mgr:
            order: list[int] = []

            async def use(n: int) -> None:
                async with mgr.allocate("t", "peer.test", server.port, 5):
                    order.append(n)

            async with anyio.create_task_group() as group:
                for n in range(5):
                    group.start_soon(use, n)
                    await turns(2)
                resolver.gate.set()
            assert order == [0, 1, 2, 3, 4]


# -- what is remembered ------------------------------------------------------------------------------


@virtual
async def test_answers_live_for_their_time() -> None:
    resolver = Told(Resolution((A,), 10.0), Resolution((B,), 10.0))
    async with names_of(resolver) as names:
        assert await names.resolve("Peer.test") == (A,)
        await passing(9.9)
        with pytest.raises(StopIteration) as ended:  # not a single wait
            names.resolve("peer.test.").send(None)
        assert ended.value.value == (A,)
        await passing(0.1)
        assert await names.resolve("peer.test") == (B,)
        assert resolver.asked == ["peer.test"] * 2


@virtual
async def test_that_there_is_nothing_is_remembered_too() -> None:
    """RFC 2308."""
    answers = missing(10.0), Resolution((), 10.0), OSError("nobody knows"), Resolution((A,), 10.0)
    async with names_of(resolver := Told(*answers)) as names:
        for text in ("no such name", "peer.test has no address"):
            errors = []
            for _ in range(3):
                with pytest.raises(DialFailure) as caught:
                    await names.resolve("peer.test")
                errors.append(caught.value)
                assert (caught.value.phase, caught.value.text) == ("resolve", text)
                await passing(3.0)
            assert len({id(error) for error in errors}) == 3
            await passing(1.0)
        assert len(resolver.asked) == 2
        with pytest.raises(DialFailure, match="nobody knows"):
            await names.resolve("peer.test")
        assert await names.resolve("peer.test") == (A,)  # a failure to ask is not


@virtual
async def test_an_outdated_answer_serves_while_nobody_answers() -> None:
    """RFC 8767: and the server is left in peace between tries."""
    resolver = Told(Resolution((A,), 10.0, stale=1000.0), OSError("nobody knows"))
    async with names_of(resolver) as names:
        await names.resolve("peer.test")
        await passing(10.0)
        assert await names.resolve("peer.test") == (A,)
        assert len(resolver.asked) == 2
        await passing(29.0)
        assert await names.resolve("peer.test") == (A,)
        assert len(resolver.asked) == 2
        await passing(1.0)
        assert await names.resolve("peer.test") == (A,)
        assert len(resolver.asked) == 3
        await passing(970.0)
        with pytest.raises(DialFailure, match="nobody knows"):
            await names.resolve("peer.test")


@virtual
async def test_an_outdated_answer_does_not_outlive_a_new_one() -> None:
    resolver = Told(Resolution((A,), 10.0, stale=1000.0), Resolution((B,), 10.0, stale=1000.0), missing(0.0))
    async with names_of(resolver) as names:
        await names.resolve("peer.test")
        await passing(10.0)
        assert await names.resolve("peer.test") == (B,)
        await passing(10.0)
        for _ in range(2):
            with pytest.raises(DialFailure, match="no such name"):
                await names.resolve("peer.test")


@virtual
async def test_a_slow_refresh_goes_on_by_itself() -> None:
    resolver = Told(Resolution((A,), 10.0, stale=1000.0), Resolution((B,), 10.0, stale=1000.0))
    async with names_of(resolver) as names:
        await names.resolve("peer.test")
        await passing(10.0)
        resolver.gate = anyio.Event()
        got: list[tuple[str, ...]] = []

        async def ask() -> None:
            got.append(await names.resolve("peer.test"))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)
            await turns()
            assert got == []
            await passing(STALE_PATIENCE)
        assert got == [(A,)] * 2
        assert (len(resolver.asked), resolver.ended, names.reactor.tasks) == (2, 1, 1)
        with pytest.raises(StopIteration):  # nobody else waits for it
            names.resolve("peer.test").send(None)
        resolver.gate.set()
        await turns()
        assert names.reactor.tasks == 0
        assert await names.resolve("peer.test") == (B,)
        assert len(resolver.asked) == 2


@virtual
async def test_a_refresh_ends_with_its_manager() -> None:
    resolver = Told(Resolution((A,), 10.0, stale=1000.0))
    async with names_of(resolver) as names:
        await names.resolve("peer.test")
        await passing(10.0)
        resolver.gate = anyio.Event()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(names.resolve, "peer.test")
                await turns()
                scope.cancel()
        assert names.reactor.tasks == 1  # it goes on, since the old answer may serve meanwhile
    assert (names.reactor.tasks, resolver.ended) == (0, 2)


async def test_a_manager_remembers(echo_server: Server) -> None:
    resolver = Told(Resolution((HERE,), math.inf))
    async with ConnectionManager(resolver=resolver, keep_alive=0) as mgr:
        for n in range(5):
            (await mgr.allocate("t", "peer.test", echo_server.port, 5, for_port=n + 1)).release()
    assert resolver.asked == ["peer.test"]


async def test_a_trailing_dot_reaches_who_knows_about_it(echo_server: Server) -> None:
    table = {"peer": [f"60 A {HERE}"], "peer.a.test": [f"60 A {HERE}"]}
    with NameServer(Zone(table)) as server:
        resolver = DNSResolver([server.address], hosts=None, search=["a.test"])
        async with ConnectionManager(resolver=resolver) as mgr:
            for host in ("peer", "peer.", "PEER."):
                (await mgr.allocate("t", host, echo_server.port, 5)).release()
        assert server.names() == ["peer.a.test", "peer"]


# -- addresses as they come --------------------------------------------------------------------------


async def test_addresses_as_they_come() -> None:
    resolver = InParts(Resolution((B, A), 60.0))
    resolver.gate = anyio.Event()
    async with names_of(resolver) as names:
        got: list[tuple[str, ...]] = []

        async def listen() -> None:
            with names.ask("peer.test") as asking:
                async for addresses in asking:
                    got.append(addresses)  # noqa: PERF401  # each as it comes

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(listen)
            await turns()
            assert got == [(A,), (A,)]
            resolver.gate.set()
        assert got == [(A,), (A,), (B,), (B,)]
        assert resolver.asked == ["peer.test"]
        got.clear()
        await listen()  # what is known is told at once
        assert got == [(B, A)]


async def test_who_has_enough_goes() -> None:
    """The part that was told is remembered, though not for long."""
    resolver = InParts(Resolution((A, B), 60.0))
    resolver.gate = anyio.Event()
    async with names_of(resolver) as names:
        with names.ask("peer.test") as asking:
            assert await anext(asking) == (A,)
        with pytest.raises(StopAsyncIteration):
            await anext(asking)
        await until(lambda: names.reactor.tasks == 0)
        assert await names.resolve("peer.test") == (A,)


@pytest.mark.parametrize("host", ["peer.test", "127.0.0.1", "localhost"])
async def test_all_ways_to_ask_agree(host: str) -> None:
    for resolver in (Told(Resolution((A, B))), InParts(Resolution((A, B)))):
        async with names_of(resolver) as names:
            with names.ask(host) as asking:
                got = [address async for addresses in asking for address in addresses]
            assert tuple(got) == await names.resolve(host)


async def test_asking_for_nothing() -> None:
    async with names_of(Told(missing(60.0))) as names:
        for _ in range(2):
            with pytest.raises(DialFailure, match="no such name"), names.ask("peer.test") as asking:
                await anext(asking)
        with pytest.raises(DialFailure, match="a label is empty"), names.ask("peer..test"):
            pass
    resolver = InParts(OSError("nobody knows"))
    async with names_of(resolver) as names:
        with names.ask("peer.test") as asking:
            assert [addresses async for addresses in asking] == [(A,)]  # some are better than an error


@virtual
async def test_asking_where_an_outdated_answer_may_serve() -> None:
    resolver = Told(Resolution((A,), 10.0, stale=1000.0), OSError("nobody knows"))
    async with names_of(resolver) as names:
        await names.resolve("peer.test")
        await passing(10.0)
        with names.ask("peer.test") as asking:
            assert [addresses async for addresses in asking] == [(A,)]


async def test_families_of_a_real_answer_come_one_by_one() -> None:
    with NameServer(Zone({"peer.test": [f"60 A {A}", "60 AAAA 2001:db8::1"]})) as server:
        held: list[Any] = []
        answer = server.answer

        def one_family(question: Any) -> Any:
            if question.kind == "AAAA" and not held:
                held.append(question)
                return ()
            return answer(question)

        server.answer = one_family
        async with names_of(DNSResolver([server.address], hosts=None, timeout=0.2)) as names:
            with names.ask("peer.test") as asking:
                got = [addresses async for addresses in asking]
        assert got == [(A,), ("2001:db8::1",)]


# -- failures ----------------------------------------------------------------------------------------


async def test_failures_tell_the_phase_and_the_cause() -> None:
    """heritage poe 3.22, 3.23."""
    with NameServer(Zone({})) as server:
        async with ConnectionManager(resolver=DNSResolver([server.address], hosts=None)) as mgr:
            for _ in range(2):
                with pytest.raises(ResolveError, match=r"missing\.test:80: resolve: no such name") as caught:
                    await mgr.allocate("t", "missing.test", 80, 5)
                assert (caught.value.function, caught.value.error_num) == ("resolve", None)
                assert isinstance(caught.value.__cause__, socket.gaierror)
            server.holding = True
            with pytest.raises(TimeoutError) as late:
                await mgr.allocate("t", "late.test", 80, 0.5)
            assert getattr(late.value, "function", None) == "resolve"
        await until_equal(server.names, ["missing.test", "late.test"])
