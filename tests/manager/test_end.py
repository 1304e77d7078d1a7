"""Dials that outlive their requests, and the end of a manager: heritage pools 3.49, 3.51, 3.53 and 3.54."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectionManager,
    ManagerClosed,
    Request,
    RequestCancelled,
    Resolution,
    TLSConnector,
)
from tests.support import Server, Silent, full_backlog
from tests.support.leaks import descriptors

from .stepping import (
    Gate,
    Notes,
    all_gone,
    all_usable,
    ask,
    at_rest,
    exchange,
    passing,
    take,
    timed,
    turns,
    unit,
    until,
    virtual,
)

if TYPE_CHECKING:
    import ssl

    from keepalive import Connection


@timed
async def test_49_short_deadlines(echo_server: Server) -> None:
    """heritage pools 3.49: go#59017: time-out 10 ms, dial 50 ms, ten requests in a row: one gets a
    connection."""
    gate = Gate()
    served: list[bool] = []
    async with (
        ConnectionManager(connectors={"tcp": gate}) as mgr,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_let_time_pass)
        group.start_soon(_open_after, gate, 5)
        while len(served) < 10:
            try:
                (await ask(mgr, echo_server, unit())).release()
                served.append(True)
            except AllocateTimeout:
                served.append(False)
        group.cancel_scope.cancel()
        assert not served[0]
        assert served[9]
        assert (gate.begun, echo_server.accepted, mgr.stats().idle) == (1, 1, 1)


async def _let_time_pass() -> None:
    while True:
        await passing(0.25)


async def _open_after(gate: Gate, seconds: float) -> None:
    await anyio.sleep(seconds * unit())
    gate.open()


@virtual
async def test_49_one_spare_attempt_for_ten_seconds_at_most(echo_server: Server) -> None:
    """heritage pools 3.49: go#59017, go#76784: an attempt that nobody waits for has its time, too."""
    gate = Gate()
    async with ConnectionManager(connectors={"tcp": gate}, max_per_host=4) as mgr:
        requests = [ask(mgr, echo_server) for _ in range(4)]
        await until(lambda: gate.waiting == 4)
        for request in requests:
            request.cancel()
        await until(lambda: gate.waiting == 1)
        await passing(9.9)
        assert (gate.waiting, mgr.stats().connecting) == (1, 1)
        await passing(0.2)
        assert (gate.waiting, mgr.stats().open) == (0, 0)
        gate.open()
        await all_usable(mgr, echo_server, 4)


@pytest.mark.parametrize("how", ["cancel", "deallocate", "scope", "drop"])
async def test_51_the_request_that_began_the_dial_goes_away(echo_server: Server, how: str) -> None:
    """heritage pools 3.51: hyper#3199: its attempt goes on, and serves the next; nobody is failed by it."""
    gate = Gate()
    async with (
        ConnectionManager(max_per_host=1, connectors={"tcp": gate}) as mgr,
        anyio.create_task_group() as group,
    ):
        owner = ask(mgr, echo_server)
        others = [ask(mgr, echo_server) for _ in range(3)]
        await until(lambda: gate.waiting == 1)
        await _go_away(mgr, owner, how)
        del owner
        await until(lambda: mgr.stats().cancelled == 1)
        served: list[int] = []

        async def user(request: Request) -> None:
            async with request as conn:
                await exchange(conn)
                served.append(request.id)

        for request in others:
            group.start_soon(user, request)
        gate.open()
        await until(lambda: len(served) == 3)
        assert served == [request.id for request in others]
        assert (gate.begun, echo_server.accepted) == (1, 1)


async def _go_away(mgr: ConnectionManager, request: Request, how: str) -> None:
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
        assert scope.cancelled_caught


@timed
async def test_51_the_request_that_began_the_dial_times_out(echo_server: Server) -> None:
    """heritage pools 3.51: hyper#3199: the same when its time runs out in the middle of the attempt."""
    gate = Gate()
    async with ConnectionManager(max_per_host=1, connectors={"tcp": gate}) as mgr:
        owner, other = ask(mgr, echo_server, unit()), ask(mgr, echo_server, 500 * unit())
        await passing(1.2)
        with pytest.raises(AllocateTimeout):
            await owner
        gate.open()
        async with other as conn:
            await exchange(conn)
        assert (gate.begun, echo_server.accepted) == (1, 1)


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
        self.notes = Notes()
        self.mgr = ConnectionManager(
            max_per_host=2,
            connectors={"https": TLSConnector(context)},
            observer=self.notes,
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
            self.pending.append(mgr.allocate("tcp", "nowhere.test", 80))
            self.pending.append(mgr.allocate("tcp", self.hole.host, self.hole.port))
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
            dials = busy.notes.events.count("opening")
            async with anyio.create_task_group() as group:
                group.start_soon(busy.all_pending_told)
                group.start_soon(mgr.aclose, grace)
                await until(lambda: mgr.stats().waiting == 0)
                if grace is None or grace > 1:  # lent ones go on for so long; otherwise they are cut
                    for conn in busy.lent:
                        await exchange(conn)
                        conn.release()
            assert (mgr.stats().open, busy.names.asked) == (0, 0)
            assert busy.notes.events.count("opening") == dials
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
            assert busy.notes.reasons == ["shutdown"] * 4


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

    class Late(Notes):
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
