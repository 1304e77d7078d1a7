"""What ended requests leave in memory: heritage pools 3.19 and 3.50."""

from __future__ import annotations

import gc
import sys
import weakref
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import AllocateTimeout, Connection, ConnectionManager, Link, RequestCancelled
from keepalive.pool.records import Waiter
from tests.support import Server, full_backlog
from tests.support.clocks import passing, timed, unit
from tests.support.inside import driver_of
from tests.support.recorder import Recorder
from tests.support.requests import all_usable, ask, at_rest
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive import Request

_ELSEWHERE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, Link)


class Thing:
    """A context that can be watched."""


def waiters() -> int:
    gc.collect()
    return sum(type(found) is Waiter for found in gc.get_objects())


def size(mgr: ConnectionManager) -> int:
    """Measure all that a manager's pool holds on to, its connections apart."""
    seen: set[int] = set()
    todo: list[object] = [driver_of(mgr).pool]
    total = 0
    while todo:
        found = todo.pop()
        if id(found) not in seen and not isinstance(found, _ELSEWHERE):
            seen.add(id(found))
            total += sys.getsizeof(found)
            todo += gc.get_referents(found)
    return total


@pytest.mark.parametrize("how", ["cancel", "scope", "drop", "deallocate", "serve", "serve and drop"])
async def test_19_nothing_holds_an_ended_request(echo_server: Server, how: str) -> None:
    """heritage pools 3.19: go#33849, #33850, hyper#1315: request and context are dead when their user lets
    go."""
    async with ConnectionManager(max_per_host=1) as mgr:
        held = await ask(mgr, echo_server)
        before = waiters()
        context = Thing()
        seen = weakref.ref(context)
        request = ask(mgr, echo_server, context=context)
        del context
        behind = ask(mgr, echo_server)
        await turns()
        if how.startswith("serve"):
            held.release()
        await _end(mgr, request, how)
        del request
        await turns()
        assert seen() is None
        assert waiters() == before + 1
        assert mgr.stats().waiting == (not how.startswith("serve"))
        behind.cancel()
        del behind
        assert waiters() == before
        held.release()
        await all_usable(mgr, echo_server, 1)


async def _end(mgr: ConnectionManager, request: Request, how: str) -> None:
    if how == "cancel":
        assert request.cancel()
    elif how == "deallocate":
        assert mgr.deallocate(request.id)
        with pytest.raises(RequestCancelled):
            await request
    elif how == "scope":
        with anyio.CancelScope() as scope:
            scope.cancel()
            await request
    elif how == "serve":
        (await request).release()


@timed
async def test_19_nothing_holds_a_timed_out_request(echo_server: Server) -> None:
    """heritage pools 3.19: go#33849: the same when its time runs out, and with it the error it raised."""
    # heritage poe 1.54.
    async with ConnectionManager(max_per_host=1, keep_alive=None) as mgr:
        held = await ask(mgr, echo_server)
        context = Thing()
        seen = weakref.ref(context)
        before = waiters()
        request = ask(mgr, echo_server, 2 * unit(), context=context)
        del context
        await passing(3)
        with pytest.raises(AllocateTimeout) as caught:
            await request
        assert caught.value.context is seen()
        del request, caught
        gc.collect()  # an exception and the frames in its traceback are a cycle
        assert seen() is None
        assert waiters() == before
        held.release()


def _full(mgr: ConnectionManager, server: Server, n: int) -> Request:
    return ask(mgr, server, n=1)


def _many_keys(mgr: ConnectionManager, server: Server, n: int) -> Request:
    return ask(mgr, server, n=1 + n % 500)


def _fresh(mgr: ConnectionManager, server: Server, n: int) -> Request:
    return ask(mgr, server, n=1 + n % 2, fresh=n % 3 == 0)


def _cancel_all(requests: list[Request]) -> None:
    for request in requests[::2] + requests[1::2]:
        assert request.cancel()


@pytest.mark.parametrize(  # each loop once: what the pool keeps depends on none of them
    ("kind", "anyio_backend"),
    [
        (_full, ("asyncio", {"use_uvloop": False})),
        (_many_keys, ("asyncio", {"use_uvloop": True})),
        (_fresh, ("trio", {})),
    ],
    ids=["full-asyncio", "many_keys-uvloop", "fresh-trio"],
)
async def test_19_fifty_thousand_cancelled_requests(
    echo_server: Server, kind: Callable[[ConnectionManager, Server, int], Request]
) -> None:
    """heritage pools 3.19: go#33850: cancelled alone or in crowds, they leave memory flat."""
    async with ConnectionManager(max_per_host=1, max_open=2) as mgr:
        held = [await kind(mgr, echo_server, n) for n in range(1 if kind is _full else 2)]
        sizes: list[int] = []
        for crowd in (1, 500, 1, 500):
            for first in range(0, 12_500, crowd):
                _cancel_all([kind(mgr, echo_server, first + n) for n in range(crowd)])
            sizes.append(size(mgr))
        assert mgr.stats().cancelled == 50_000
        assert waiters() <= 2 * len(held)
        assert sizes[3] < sizes[1] * 1.1 + 1000, sizes
        assert sizes[2] < sizes[1] * 1.1 + 1000, sizes
        for conn in held:
            conn.release()
        assert at_rest(mgr)


@timed
async def test_19_cancelled_requests_that_the_timer_knew(echo_server: Server) -> None:
    """heritage pools 3.19: go#33850: the same when deadlines are on the timer's list already."""
    async with ConnectionManager(max_per_host=1, keep_alive=None) as mgr:
        held = await ask(mgr, echo_server)
        sizes = []
        for _ in range(3):
            for _ in range(20):
                requests = [ask(mgr, echo_server, 1e6) for _ in range(100)]
                short = ask(mgr, echo_server, unit())
                await passing(1.1)
                with pytest.raises(AllocateTimeout):
                    await short
                _cancel_all(requests)
            sizes.append(size(mgr))
        assert (mgr.stats().timeouts, mgr.stats().cancelled, mgr.stats().waiting) == (60, 6000, 0)
        assert sizes[2] < sizes[0] * 1.1 + 1000, sizes
        held.release()


async def test_19_dropped_connections_are_forgotten(echo_server: Server) -> None:
    """heritage pools 3.19: go#33849: neither does a handle given back keep anything of its manager's
    alive."""
    async with ConnectionManager(max_per_host=1) as mgr:
        handles: list[Connection] = []
        contexts = []

        async def use(context: Thing) -> None:
            contexts.append(weakref.ref(context))
            async with ask(mgr, echo_server, context=context) as conn:
                handles.append(conn)

        for _ in range(10):
            await use(Thing())
        assert handles[0].context is contexts[0]()
        handles.clear()
        assert [seen() for seen in contexts] == [None] * 10
        assert echo_server.accepted == 1


async def test_50_ten_thousand_cancelled_requests_to_a_black_hole() -> None:
    """heritage pools 3.50: go#76784: abandoned dials are bounded, one of them is kept, memory is flat."""
    recorder = Recorder()
    with full_backlog() as hole:
        async with ConnectionManager(max_per_host=4, observer=recorder) as mgr:
            sizes = []
            for _ in range(200):
                requests = [mgr.allocate("http", hole.host, hole.port) for _ in range(50)]
                await turns(2)
                assert mgr.stats().open <= 4
                _cancel_all(requests)
                sizes.append(size(mgr))
            await until(lambda: mgr.stats().closing == 0)
            assert (mgr.stats().connecting, mgr.stats().open, recorder.most_connecting) == (1, 1, 4)
            assert mgr.stats().cancelled == 10_000
            assert sizes[-1] < sizes[10] * 1.1 + 1000
        assert mgr.stats().open == 0


async def test_50_one_by_one_a_single_dial_serves_them_all() -> None:
    """heritage pools 3.50: go#76784: requests cancelled one after the other share one abandoned dial."""
    recorder = Recorder()
    with full_backlog() as hole:
        async with ConnectionManager(observer=recorder) as mgr:
            for _ in range(1000):
                assert mgr.allocate("http", hole.host, hole.port).cancel()
            await turns()
            of_connections = [name for name in recorder.names() if name not in ("queued", "cancelled")]
            assert (of_connections, mgr.stats().connecting) == (["opening"], 1)
