"""heritage poe 1.63 to 1.73, 1.84 to 1.88: giving back, staying idle, being dropped."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import ClosedResourceError
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, ConnectionManager, Observer, Reuse
from tests.support.requests import ask, exchange, warm
from tests.support.resolvers import HOST, GatedResolver
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from keepalive import Connection, Key
    from tests.support import Server

DROPPED = r"a connection to http://127\.0\.0\.1:\d+ was dropped without being given back"


@pytest.mark.parametrize("by", ["free", "release", "block", "request's block"])
async def test_ways_to_give_back(echo_server: Server, by: str) -> None:
    """heritage poe 1.63, 1.65: all are plain, and the connection is idle when they return."""
    async with ConnectionManager() as mgr:
        request = ask(mgr, echo_server)
        if by == "request's block":
            async with request as conn:
                await exchange(conn)
        else:
            conn = await request
            await exchange(conn)
            if by == "free":
                assert mgr.free(conn) is None  # type: ignore[func-returns-value]  # that is the point
            elif by == "release":
                assert conn.release() is None  # type: ignore[func-returns-value]  # that is the test
            else:
                async with conn:
                    pass
        assert (mgr.stats().idle, echo_server.connections) == (1, 1)


@pytest.mark.parametrize("how", ["exception", "cancellation"])
@pytest.mark.parametrize("block", ["connection's", "request's"])
async def test_a_block_that_is_left_early_closes(echo_server: Server, how: str, block: str) -> None:
    """heritage poe 1.63, contract: the protocol's state is unknown, so that nobody else may have it."""
    async with ConnectionManager(max_open=1) as mgr:
        request = ask(mgr, echo_server)
        with anyio.CancelScope() as scope, suppress(ZeroDivisionError):
            async with await request if block == "connection's" else request as conn:
                await exchange(conn)
                if how == "cancellation":
                    scope.cancel()
                    await conn.receive()
                raise ZeroDivisionError
        assert (mgr.stats().open, mgr.stats().closed) == (0, {"discarded": 1})
        assert echo_server.connections == 0


async def test_dropping_gives_back(echo_server: Server) -> None:
    """heritage poe 1.63, contract: unused it is reused, used it is closed; a warning is given."""
    async with ConnectionManager(max_open=1) as mgr:
        for kind, use in ((None, False), (Reuse.IMMEDIATE, True), (None, False)):
            handles = [await ask(mgr, echo_server)]
            assert handles[0].from_cache is kind
            if use:
                await exchange(handles[0])
            with pytest.warns(ResourceWarning, match=DROPPED):
                handles.clear()
            await until(lambda: mgr.stats().lent == 0)
        assert mgr.stats().closed == {"dropped": 1}
        assert (echo_server.accepted, echo_server.peak) == (2, 1)


async def test_dropping_as_the_ancestor_did(echo_server: Server) -> None:
    """heritage poe 1.63, 1.67: with `reuse_dropped` one that is quiet is reused, used or not."""
    async with ConnectionManager(reuse_dropped=True, max_open=1) as mgr:
        for quiet in (True, False):
            handles = [await ask(mgr, echo_server)]
            await exchange(handles[0])
            if not quiet:
                echo_server.push(b"unread")
            with pytest.warns(ResourceWarning, match=DROPPED):
                handles.clear()
            await until(lambda: mgr.stats().lent == 0)
            assert mgr.stats().idle == quiet
        assert (echo_server.accepted, mgr.stats().closed) == (1, {"unread": 1})


def forget_in_a_cycle(handles: list[object]) -> None:
    """Leave it to the garbage collector."""
    cycle = handles.copy()
    cycle.append(cycle)
    handles.clear()
    del cycle
    gc.collect()


async def test_dropping_in_another_thread_and_in_a_cycle(echo_server: Server) -> None:
    """heritage poe 1.63, contract: wherever and whenever the last reference goes."""
    async with ConnectionManager(max_open=1) as mgr:
        handles: list[object] = [await ask(mgr, echo_server)]
        with pytest.warns(ResourceWarning, match=DROPPED):
            await anyio.to_thread.run_sync(handles.clear, limiter=anyio.CapacityLimiter(1))
        await until(lambda: mgr.stats().idle == 1)
        handles.append(await ask(mgr, echo_server))
        with pytest.warns(ResourceWarning, match=DROPPED):
            forget_in_a_cycle(handles)
        await until(lambda: mgr.stats().idle == 1)
        assert echo_server.accepted == 1


class Dropper(Observer):
    """Drops a handle inside the manager's own code."""

    def __init__(self) -> None:
        self.handles: list[Connection] = []

    def idle(self, key: Key, connection_id: int) -> None:
        self.handles.clear()


async def test_dropping_inside_the_manager_s_own_code(echo_server: Server) -> None:
    """heritage poe 1.63, contract: also in the middle of somebody else's release."""
    observer = Dropper()
    async with ConnectionManager(observer=observer) as mgr:
        conn = await ask(mgr, echo_server)
        observer.handles.append(await ask(mgr, echo_server))
        with pytest.warns(ResourceWarning, match=DROPPED):
            conn.release()
        await until(lambda: mgr.stats().idle == 2)


async def test_free_is_strict(echo_server: Server) -> None:
    """heritage poe 1.64: undefined, foreign, given back before: an error; `release` is lenient."""
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        mgr.free(conn)
        with pytest.raises(ValueError, match="is not lent"):
            mgr.free(conn)
        conn.release()
        conn.discard()
        await conn.aclose()
        assert (mgr.stats().idle, echo_server.connections) == (1, 1)
        again = await ask(mgr, echo_server)
        with pytest.raises(ValueError, match="is not lent"):
            mgr.free(conn)  # the same connection, lent again, but not by this handle
        await exchange(again)
        await again.aclose()
        with pytest.raises(ValueError, match="is not lent"):
            mgr.free(again)


async def test_a_handle_given_back_is_closed(echo_server: Server) -> None:
    """heritage poe 1.63, contract: every other use of it is an error; what it says of itself stays."""
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        conn.release()
        with pytest.raises(ClosedResourceError):
            await conn.send(b"x")
        with pytest.raises(ClosedResourceError):
            await conn.receive()
        with pytest.raises(ClosedResourceError):
            await conn.send_eof()
        with pytest.raises(ClosedResourceError):
            conn.extra(SocketAttribute.raw_socket)
        assert (conn.addr, conn.port, conn.uses, conn.from_cache) == (HOST, echo_server.port, 1, None)


async def test_unread_bytes_are_never_pooled(echo_server: Server) -> None:
    """heritage poe 1.67: nor are those that were read in part only."""
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        await conn.send(b"0123456789")
        assert await conn.receive(4) == b"0123"
        conn.release()
        assert (mgr.stats().idle, mgr.stats().closed) == (0, {"unread": 1})
        assert echo_server.connections == 0


async def test_idle_time_begins_at_each_release(echo_server: Server) -> None:
    """heritage poe 1.68, 1.69, 1.71, 1.73: a hand-out stops the timer, a release starts it anew."""
    async with (
        ConnectionManager(keep_alive=0.05) as mgr,
        ConnectionManager(resolver=GatedResolver()) as clock,
    ):
        await warm(mgr, echo_server)
        async with ask(mgr, echo_server) as conn:
            with pytest.raises(AllocateTimeout):
                await clock.allocate("http", "never", 80, 0.08)
            await exchange(conn)
        async with ask(mgr, echo_server) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
            assert conn.uses == 3
        assert mgr.stats().closed == {}
        await echo_server.until(lambda server: server.connections == 0)
        assert mgr.stats().closed == {"expired": 1}


async def test_keep_for_shortens_the_idle_time(echo_server: Server) -> None:
    """heritage poe 1.68, contract: a server's own keep-alive time; it never lengthens."""
    async with ConnectionManager(keep_alive=60) as mgr:
        conns = [await ask(mgr, echo_server) for _ in range(3)]
        for conn, keep_for in zip(conns, (0.02, 1000, 0), strict=True):
            conn.release(keep_for)
        assert mgr.stats().idle == 2
        await echo_server.until(lambda server: server.connections == 1)
        assert mgr.stats().closed == {"expired": 2}
    async with ConnectionManager(keep_alive=0.02) as mgr:
        (await ask(mgr, echo_server)).release(keep_for=60)
        await echo_server.until(lambda server: server.connections == 0)


@pytest.mark.parametrize("news", ["data", "end", "reset", "half-close"])
async def test_news_on_an_idle_connection(echo_server: Server, news: str) -> None:
    """heritage poe 1.70: closed without traffic and without anybody's call."""
    async with ConnectionManager() as mgr:
        await warm(mgr, echo_server, 2)
        {
            "data": lambda: echo_server.push(b"unasked"),
            "end": echo_server.disconnect_all,
            "reset": echo_server.reset_all,
            "half-close": echo_server.half_close_all,
        }[news]()
        with anyio.fail_after(PATIENCE):
            await echo_server.until(lambda server: server.connections == 0)
            await until(lambda: mgr.stats().open == 0)
        assert mgr.stats().closed == {"unread" if news == "data" else "peer": 2}


async def test_most_recently_used_first(echo_server: Server) -> None:
    """heritage poe 1.72: not an arbitrary one."""
    async with ConnectionManager() as mgr:
        ports = await warm(mgr, echo_server, 3)
        conns = [await ask(mgr, echo_server) for _ in range(3)]
        assert [conn.extra(SocketAttribute.local_port) for conn in conns] == ports[::-1]
        for conn in conns:
            conn.release()


async def test_no_life_long_count_by_default(echo_server: Server) -> None:
    """heritage poe 1.73: reused as often as one likes; `max_uses` sets an end."""
    async with ConnectionManager() as mgr:
        for uses in range(1, 101):
            async with ask(mgr, echo_server) as conn:
                assert conn.uses == uses
        assert echo_server.accepted == 1
    async with ConnectionManager(max_uses=3) as mgr:
        seen = []
        for _ in range(7):
            async with ask(mgr, echo_server) as conn:
                seen.append(conn.uses)
        assert seen == [1, 2, 3, 1, 2, 3, 1]
        assert mgr.stats().closed == {"uses": 2}


async def test_closing_gives_the_place_back_at_once(echo_server: Server) -> None:
    """heritage poe 1.86: not only when the object goes away."""
    async with ConnectionManager(max_open=1) as mgr:
        conn = await ask(mgr, echo_server)
        conn.discard()
        assert (mgr.stats().open, echo_server.connections) == (0, 0)
        other = await ask(mgr, echo_server)
        await conn.aclose()
        await exchange(other)
        await other.aclose()
        assert mgr.stats().closed == {"discarded": 2}
