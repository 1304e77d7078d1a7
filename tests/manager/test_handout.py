"""Double hand-out and wrong data: heritage pools 3.20 to 3.24."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import Connection, ConnectionManager, Request, Reuse, TLSConnector
from tests.support.requests import all_usable, ask, at_rest, exchange, take
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    import ssl

    from tests.support import Server


class Place:
    """A server and the scheme to reach it by."""

    def __init__(self, scheme: str, server: Server, context: ssl.SSLContext) -> None:
        self.server = server
        self.scheme = scheme
        self.tls = {"https": TLSConnector(context, server_hostname="localhost")}

    def manager(self, limit: int = 1) -> ConnectionManager:
        return ConnectionManager(max_per_host=limit, connectors=self.tls)

    def ask(self, mgr: ConnectionManager) -> Request:
        return mgr.allocate(self.scheme, self.server.host, self.server.port, 5)


@pytest.fixture(params=["tcp", "tls13", "tls12", "unix"])
def place(request: pytest.FixtureRequest, client_context: ssl.SSLContext) -> Place:
    kind = request.param
    scheme = "https" if kind.startswith("tls") else kind
    fixture = {"tcp": "echo_server", "unix": "unix_server", "tls13": "tls_server", "tls12": "tls12_server"}
    return Place(scheme, request.getfixturevalue(fixture[kind]), client_context)


async def test_20_freed_twice(echo_server: Server) -> None:
    """heritage pools 3.20: POE croaks: the second free is an error and never touches the next owner."""
    async with ConnectionManager(max_per_host=1) as mgr:
        first = await ask(mgr, echo_server)
        mgr.free(first)
        with pytest.raises(ValueError, match="not lent"):
            mgr.free(first)
        second = await ask(mgr, echo_server)
        assert second.from_cache is Reuse.IMMEDIATE
        with pytest.raises(ValueError, match="not lent"):
            mgr.free(first)
        first.release()
        first.discard()
        await first.aclose()
        assert (mgr.stats().lent, mgr.stats().idle) == (1, 0)
        await exchange(second)
        mgr.free(second)
        assert at_rest(mgr)
        await all_usable(mgr, echo_server, 1)
        assert echo_server.accepted == 1


async def test_20_old_handle_stays_dead(place: Place) -> None:
    """heritage pools 3.20: httpx2 PR#974: nothing can be done to a connection by a handle given back."""
    async with place.manager() as mgr:
        old = await place.ask(mgr)
        old.release()
        async with place.ask(mgr) as conn:
            for step in (lambda: old.send(b"x"), old.receive, old.send_eof):
                with pytest.raises(anyio.ClosedResourceError):
                    await step()
            with pytest.raises(anyio.ClosedResourceError):
                _ = old.extra_attributes
            await exchange(conn)
        assert place.server.accepted == 1


async def test_20_idle_ones_go_to_one_request_each(echo_server: Server) -> None:
    """heritage pools 3.20: pravega#3632, httpx2 PR#1076: requests of one tick share idle ones, none twice."""
    async with ConnectionManager(max_per_host=10) as mgr:
        for conn in await take(mgr, echo_server, 5):
            conn.release()
        requests = [ask(mgr, echo_server) for _ in range(10)]
        conns = [await request for request in reversed(requests)]
        for number, conn in enumerate(conns):
            await conn.send(b"%d" % number)
        for number, conn in enumerate(conns):
            assert await conn.receive() == b"%d" % number
            conn.release()
        assert sum(conn.from_cache is Reuse.IMMEDIATE for conn in conns) == 5
        assert echo_server.accepted == 10


@pytest.mark.parametrize("when", ["before the release", "at once after it", "while idle", "while reserved"])
async def test_21_unsolicited_bytes(place: Place, when: str) -> None:
    """heritage pools 3.21: aiohttp#13656, ureq PR#372, nuclei PR#7671: never reused, whenever they come."""
    async with place.manager() as mgr:
        conn = await place.ask(mgr)
        await exchange(conn)
        waiting = place.ask(mgr) if when == "while reserved" else None
        if when == "before the release":
            place.server.push(b"INJECTED")
        conn.release()
        if when != "before the release":
            if when == "while idle":
                await turns()
            place.server.push(b"INJECTED")
        if when == "while idle":
            await until(lambda: mgr.stats().idle == 0)  # without traffic
        async with waiting or place.ask(mgr) as conn:
            assert conn.from_cache is None
            await exchange(conn)
        assert mgr.stats().closed == {"unread": 1}
        assert (place.server.peak, place.server.accepted) == (1, 2)


async def test_21_pushed_to_all_idle_ones(echo_server: Server) -> None:
    """heritage pools 3.21: aiohttp#13656: with all idle ones spoilt at once, none is handed out."""
    async with ConnectionManager(max_per_host=20) as mgr:
        for conn in await take(mgr, echo_server, 20):
            conn.release()
        echo_server.push(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        conns = await take(mgr, echo_server, 20)
        assert [conn.from_cache for conn in conns] == [None] * 20
        for conn in conns:
            await exchange(conn)
            conn.release()
        assert echo_server.peak == 20


@pytest.mark.parametrize("read", [0, 1, 9])
async def test_22_unread_bytes_in_the_buffer(place: Place, read: int) -> None:
    """heritage pools 3.22: redis-py#2624, okhttp#9240: given back with a part of the answer unread:
    closed."""
    # heritage pools 2.2.
    async with place.manager() as mgr:
        conn = await place.ask(mgr)
        await conn.send(b"0123456789")
        await place.server.until(lambda server: server.received == 10)
        got = b""
        while len(got) < read:
            got += await conn.receive(read - len(got))
        conn.release()
        async with place.ask(mgr) as conn:
            assert conn.from_cache is None
            await exchange(conn)
        assert mgr.stats().closed == {"unread": 1}


async def test_22_read_to_the_last_byte(place: Place) -> None:
    """heritage pools 3.22: redis-py#2624: the other side of it: with nothing left it is reused."""
    async with place.manager() as mgr:
        conn = await place.ask(mgr)
        await conn.send(b"0123456789")
        for number in range(10):
            assert await conn.receive(1) == b"%d" % number
        conn.release()
        async with place.ask(mgr) as conn:
            assert (conn.from_cache, conn.uses) == (Reuse.IMMEDIATE, 2)
            await exchange(conn)
        assert place.server.accepted == 1


async def test_23_dropped_in_the_middle_of_an_exchange(place: Place) -> None:
    """heritage pools 3.23: okhttp#9240: a handle lost in the middle of an exchange: closed, not reused."""
    async with place.manager() as mgr:
        conn = await place.ask(mgr)
        await conn.send(b"question")
        waiting = place.ask(mgr)
        with pytest.warns(ResourceWarning, match="was dropped"):
            del conn
        async with waiting as conn:
            assert conn.from_cache is None
            await exchange(conn, b"another")
        assert mgr.stats().closed == {"dropped": 1}
        assert (place.server.peak, place.server.accepted) == (1, 2)


async def test_23_dropped_after_a_whole_exchange(place: Place) -> None:
    """heritage pools 3.23: okhttp#9240: nobody knows that the exchange was over, so it is closed all the
    same."""
    async with place.manager() as mgr:
        conn = await place.ask(mgr)
        await exchange(conn)
        with pytest.warns(ResourceWarning, match="was dropped"):
            del conn
        await until(lambda: mgr.stats().open == 0)
        assert mgr.stats().closed == {"dropped": 1}
        assert place.server.connections == 0


async def test_23_dropped_unused(place: Place) -> None:
    """heritage pools 3.23: okhttp#9240: nothing was sent or received since the hand-out: it is reused."""
    async with place.manager() as mgr:
        for _ in range(3):
            conn = await place.ask(mgr)
            with pytest.warns(ResourceWarning, match="was dropped"):
                del conn
            await until(lambda: mgr.stats().idle == 1)
        async with place.ask(mgr) as conn:
            await exchange(conn)
        assert (conn.uses, place.server.accepted) == (4, 1)


async def test_24_foreign_connections(echo_server: Server) -> None:
    """heritage pools 3.24: netty, sqlspec#346: freeing a foreign connection is an error and counts
    nowhere."""
    async with ConnectionManager() as mine, ConnectionManager() as other:
        foreign = await ask(other, echo_server)
        before = mine.stats()
        nonsense: list[object] = [foreign, None, object(), "conn", 7, ask(mine, echo_server, -1)]
        for thing in nonsense:
            with pytest.raises(ValueError, match="not a connection of this manager"):
                mine.free(thing)  # type: ignore[arg-type]  # that is the point
        assert mine.stats().lent == before.lent == 0
        assert other.stats().lent == 1
        await exchange(foreign)
        other.free(foreign)
        assert (other.stats().idle, mine.stats().open, echo_server.accepted) == (1, 0, 1)


async def test_24_not_even_by_its_number(echo_server: Server) -> None:
    """heritage pools 3.24: netty: a number of another manager's request is never taken for one's own."""
    async with ConnectionManager(max_per_host=1) as mine, ConnectionManager(max_per_host=1) as other:
        held: list[Connection] = [await ask(mine, echo_server), await ask(other, echo_server)]
        theirs = [ask(other, echo_server) for _ in range(5)]
        with pytest.raises(ValueError, match="never issued"):
            mine.deallocate(theirs[-1].id)
        assert other.stats().waiting == 5
        for conn in held:
            conn.release()
