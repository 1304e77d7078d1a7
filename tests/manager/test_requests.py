"""heritage poe 1.11 to 1.35: what a request takes, what it answers, and when."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    Key,
    Observer,
    RequestCancelled,
    Reuse,
)
from tests.support import Server, refused_port
from tests.support.clocks import passing, timed, unit
from tests.support.requests import Awaited, ask, exchange, run_out, warm
from tests.support.resolvers import HOST, GatedResolver, TableResolver
from tests.support.waiting import until


async def test_the_manager_s_timeout_is_the_default(echo_server: Server) -> None:
    """heritage poe 1.17: None means the manager's; a request's own, negative ones too, goes first."""
    async with ConnectionManager(max_per_host=1, timeout=0.02) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, echo_server)
        for timeout in (None, 0.02, -5):
            with pytest.raises(AllocateTimeout):
                await ask(mgr, echo_server, timeout)
        patient = Awaited(group, ask(mgr, echo_server, 60))
        await run_out(mgr, echo_server, 0.04)
        assert not patient.done.is_set()
        held.release()
        (await patient.connection()).release()


async def test_no_timeout_at_all(echo_server: Server) -> None:
    """heritage poe 1.17, contract: `None` for the manager means no limit."""
    async with ConnectionManager(max_per_host=1, timeout=None) as mgr:
        held = await ask(mgr, echo_server, None)
        patient = ask(mgr, echo_server, None)
        await run_out(mgr, echo_server)
        held.release()
        (await patient).release()


class Failures(Observer):
    """Notes who fails, in order, and in which phase."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def failed(self, key: Key, request_id: int, failure: str, phase: str) -> None:
        self.seen.append((request_id, phase))


async def test_time_counts_from_the_call(echo_server: Server) -> None:
    """heritage poe 1.17, 1.43: not from the await."""
    failures = Failures()
    async with ConnectionManager(max_per_host=1, observer=failures) as mgr:
        held = await ask(mgr, echo_server)
        early, late = ask(mgr, echo_server, 0.02), ask(mgr, echo_server, 0.03)
        for request in (late, early):
            with pytest.raises(AllocateTimeout):
                await request
        assert failures.seen == [(early.id, "queue"), (late.id, "queue")]
        held.release()


@timed
async def test_time_covers_all_phases_together(echo_server: Server) -> None:
    """heritage poe 1.43: waiting in the queue and in the look-up spend one and the same time."""
    failures = Failures()
    async with ConnectionManager(
        max_per_host=1, max_open=2, resolver=GatedResolver(), observer=failures
    ) as mgr:
        full, other = await ask(mgr, echo_server), await ask(mgr, echo_server, for_port=1)
        first = mgr.allocate("http", "peer", echo_server.port, 60 * unit())
        second = ask(mgr, echo_server, 80 * unit())
        await passing(30)
        other.discard()
        await passing(55)  # had the first's time begun anew amid, it would not have failed yet
        for request in (second, first):
            with pytest.raises(AllocateTimeout):
                await request
        assert failures.seen == [(first.id, "resolve"), (second.id, "queue")]
        full.release()


@timed
async def test_a_served_request_has_no_timer(echo_server: Server) -> None:
    """heritage poe 1.27: its time is over once it has its connection."""
    async with ConnectionManager() as mgr, ask(mgr, echo_server, 30 * unit()) as conn:
        await passing(50)
        await exchange(conn)
        assert mgr.stats().timeouts == 0


async def test_for_parts_default_to_the_address(echo_server: Server) -> None:
    """heritage poe 1.18, 1.28: each by itself; the answer echoes all six and the context, by reference."""
    port = echo_server.port
    cases: list[tuple[dict[str, Any], tuple[str, str, int]]] = [
        ({}, ("http", HOST, port)),
        ({"for_scheme": "https"}, ("https", HOST, port)),
        ({"for_addr": "far.test"}, ("http", "far.test", port)),
        ({"for_port": 443}, ("http", HOST, 443)),
    ]
    async with ConnectionManager() as mgr:
        for given, expected in cases:
            tag: list[int] = []
            async with ask(mgr, echo_server, context=tag, **given) as conn:
                assert (conn.scheme, conn.addr, conn.port) == ("http", HOST, port)
                assert (conn.for_scheme, conn.for_addr, conn.for_port) == expected
                assert conn.context is tag
                await exchange(conn)


async def test_six_parts_make_the_key(echo_server: Server) -> None:
    """heritage poe 1.19, 1.20, 1.55: compared as text; the same server under another name is another key."""
    port = echo_server.port
    resolver = TableResolver(one=HOST, two=HOST)
    keys: list[tuple[tuple[str, str, int], dict[str, Any]]] = [
        (("http", HOST, port), {}),
        (("HTTP", HOST, port), {}),
        (("http", "localhost", port), {}),
        (("http", "one", port), {}),
        (("http", "two", port), {}),
        (("http", HOST, port), {"for_scheme": "https"}),
        (("http", HOST, port), {"for_addr": "one"}),
        (("http", HOST, port), {"for_port": 443}),
    ]
    async with ConnectionManager(max_per_host=1, resolver=resolver) as mgr:
        for kind in (None, Reuse.IMMEDIATE):
            for place, behind in keys:
                async with mgr.allocate(*place, timeout=5, **behind) as conn:
                    assert conn.from_cache is kind
                    assert conn.uses == (1 if kind is None else 2)
        assert len(mgr.stats().keys) == len(keys)
        assert {key.idle for key in mgr.stats().keys.values()} == {1}
        assert echo_server.connections == len(keys)


async def test_an_idle_connection_needs_no_task_switch(echo_server: Server) -> None:
    """heritage poe 1.21, 1.25: nor does it need room."""
    async with ConnectionManager(max_open=1) as mgr, anyio.create_task_group() as group:
        await warm(mgr, echo_server)
        turn = anyio.Event()

        async def other() -> None:
            turn.set()

        group.start_soon(other)
        for _ in range(3):
            async with ask(mgr, echo_server) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
        assert not turn.is_set()
        await turn.wait()


async def test_numbers(echo_server: Server) -> None:
    """heritage poe 1.23: every request has one at once, > 0 and never used before."""
    with refused_port() as refused:
        async with ConnectionManager(max_per_host=1) as mgr:
            requests = [ask(mgr, echo_server), ask(mgr, echo_server), mgr.allocate("http", HOST, refused)]
            numbers = [request.id for request in requests]
            for request in requests[:2]:
                (await request).release()
            with pytest.raises(ConnectError) as caught:
                await requests[2]
            assert caught.value.request_id == numbers[2]
            at_once = ask(mgr, echo_server)
            numbers.append(at_once.id)
            (await at_once).release()
            assert all(type(number) is int and number > 0 for number in numbers)
            assert numbers == sorted(set(numbers))


async def test_one_answer_per_request(echo_server: Server) -> None:
    """heritage poe 1.26: however many ends meet, the request counts once, and a second await is an error."""
    resolver = GatedResolver()
    async with ConnectionManager(max_per_host=1, resolver=resolver) as mgr:
        request = mgr.allocate("http", "peer", echo_server.port, 0.02)
        cancelled = mgr.allocate("http", "peer", echo_server.port, 0.02)
        assert cancelled.cancel()
        with pytest.raises(AllocateTimeout):
            await request
        resolver.open(OSError("no such name"))
        await until(lambda: not mgr.stats().open)
        with pytest.raises(RequestCancelled):
            await cancelled
        for each in (request, cancelled):
            assert not each.cancel()
            with pytest.raises(RuntimeError, match=f"request {each.id} was awaited before"):
                await each
        served = ask(mgr, echo_server)
        async with served as conn:
            assert not served.cancel()
            with pytest.raises(RuntimeError, match="awaited before"):
                await served
            await exchange(conn)
        stats = mgr.stats()
        assert (stats.timeouts, stats.cancelled, stats.new, stats.failed) == (1, 1, 1, {})


async def test_failures_echo_the_request() -> None:
    """heritage poe 1.29, 1.31: what was asked for, for whom, and the context, by reference."""
    tag = object()
    with refused_port() as refused:
        async with ConnectionManager() as mgr:
            request = mgr.allocate("http", HOST, refused, for_addr="far.test", for_port=443, context=tag)
            with pytest.raises(ConnectError) as caught:
                await request
            error = caught.value
            assert (error.scheme, error.addr, error.port) == ("http", HOST, refused)
            assert (error.for_scheme, error.for_addr, error.for_port) == ("http", "far.test", 443)
            assert error.context is tag
            assert (error.errno, error.strerror) == (error.error_num, error.error_str)
            assert not hasattr(error, "from_cache")
