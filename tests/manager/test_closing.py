"""Cancellation in a TLS handshake and while closing: heritage pools 3.12 and 3.13."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, Connection, ConnectionManager, Request, TLSConnector
from tests.support import Deaf, Server, Silent, full_backlog
from tests.support.cancelling import cancel_everywhere, cancelled_at
from tests.support.clocks import passing, virtual
from tests.support.leaks import descriptors
from tests.support.requests import all_gone, all_usable, ask, at_rest, take
from tests.support.waiting import turns

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

    from tests.support import Authority


@pytest.fixture
def mute_server() -> Iterator[Server]:
    """It reads the client hello and never answers."""
    with Server(Silent()) as server:
        yield server


def manager(context: ssl.SSLContext, **more: Any) -> ConnectionManager:
    return ConnectionManager(connectors={"https": TLSConnector(context)}, **more)


def ask_tls(mgr: ConnectionManager, server: Server, timeout: float = 5, **more: Any) -> Request:
    return mgr.allocate("https", server.host, server.port, timeout, for_addr="localhost", **more)


@virtual
async def test_12_cancelled_in_a_handshake(mute_server: Server, client_context: ssl.SSLContext) -> None:
    """heritage pools 3.12: tornado#3614, #2785: hello unanswered, request cancelled; the server sees a
    close."""
    # heritage poe 1.77.
    async with manager(client_context, max_per_host=3) as mgr:
        before = descriptors()
        requests = [ask_tls(mgr, mute_server) for _ in range(3)]
        await mute_server.until(lambda server: server.connections == 3 and server.received > 600)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await requests[0]
        requests[1].cancel()
        await turns()
        assert (mgr.stats().connecting, mute_server.connections) == (2, 2)  # one of them a spare
        requests[2].cancel()
        await turns()
        assert (mgr.stats().connecting, mute_server.connections) == (1, 1)
        await passing(10.1)
        assert (at_rest(mgr), mgr.stats().open, mute_server.connections) == (True, 0, 0)
        await all_gone(mute_server)
        assert descriptors() == before


@virtual
async def test_12_timed_out_in_a_handshake(mute_server: Server, client_context: ssl.SSLContext) -> None:
    """heritage pools 3.12: cpython PR#480: the same by the request's timeout, which names the phase."""
    async with manager(client_context) as mgr:
        request = ask_tls(mgr, mute_server, 3)
        await mute_server.until(lambda server: server.received > 200)
        await passing(3.1)
        with pytest.raises(AllocateTimeout) as caught:
            await request
        assert caught.value.function == "tls"
        await passing(10.1)
        assert (mgr.stats().open, mute_server.connections) == (0, 0)


async def test_12_another_key_needs_the_place_of_a_handshake(
    mute_server: Server, echo_server: Server, client_context: ssl.SSLContext
) -> None:
    """heritage pools 3.12: tornado#3614: an unwanted handshake is given up at once for another key."""
    # heritage pools 2.1.
    async with manager(client_context, max_open=1) as mgr:
        stuck = ask_tls(mgr, mute_server)
        await mute_server.until(lambda server: server.received > 200)
        stuck.cancel()
        async with ask(mgr, echo_server):
            assert mute_server.connections == 0
        assert at_rest(mgr)


async def test_12_handshakes_given_up_at_every_moment(
    tls_server: Server, client_context: ssl.SSLContext
) -> None:
    """heritage pools 3.12: tornado#3614: shut down after 0, 1, 2, ... turns; no descriptor is left."""
    before = descriptors()
    for count in range(30):
        async with manager(client_context) as mgr:
            request = ask_tls(mgr, tls_server)
            await turns(count)
        assert mgr.stats().open == 0
        del request
    await all_gone(tls_server)
    assert descriptors() == before


async def test_13_cancelled_in_aclose(echo_server: Server) -> None:
    """heritage pools 3.13: asyncmy#156, httpcore#642: closing a connection loses nothing when cancelled."""
    async with ConnectionManager(max_per_host=1) as mgr:

        async def work() -> None:
            conn = await ask(mgr, echo_server)
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                await conn.aclose()

        async def check() -> None:
            assert mgr.stats().lent == 0
            await all_usable(mgr, echo_server, 1)

        await check()
        assert await cancel_everywhere(work, check) >= 2
        assert echo_server.peak == 1


@pytest.mark.parametrize("talkative", [True, False], ids=["talkative", "mute"])
async def test_13_close_with_a_dead_tls_peer(
    ca: Authority, client_context: ssl.SSLContext, talkative: bool
) -> None:
    """heritage pools 3.13: httpcore PR#726: closing never waits for a peer that reads nothing any more."""
    # The peer, which does not read, need not see the end at once: it stands behind unsent bytes.
    with Server(Deaf(), tls=ca.server(), receive_buffer=4096) as server:
        async with manager(client_context) as mgr:
            conn = await ask_tls(mgr, server)
            sock = conn.extra(SocketAttribute.raw_socket)
            if talkative:
                assert await cancelled_at(0, lambda: conn.send(b"x" * 20_000_000))
            else:
                fill(conn)
            with anyio.fail_after(5):
                await conn.aclose()
            assert (mgr.stats().open, sock.fileno()) == (0, -1)
            conn = await ask_tls(mgr, server)
            sock = fill(conn)
            with anyio.fail_after(5):
                await mgr.aclose()
            assert (mgr.stats().open, sock.fileno()) == (0, -1)


def fill(conn: Connection) -> socket.socket:
    """Fill the kernel's buffer behind TLS's back, so that not even its farewell goes out."""
    sock = conn.extra(SocketAttribute.raw_socket)
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)
    return sock


@pytest.mark.parametrize("grace", [None, 0.0, 60.0])
async def test_13_cancelled_while_the_manager_closes(echo_server: Server, grace: float | None) -> None:
    """heritage pools 3.13: httpcore#642: cancelled in its own aclose, a manager cuts everything at once."""
    managers: list[ConnectionManager] = []

    async def work() -> None:
        async with ConnectionManager() as mgr, anyio.create_task_group() as group:
            managers.append(mgr)
            one, two = await take(mgr, echo_server, 2)
            two.release()
            opening = ask(mgr, echo_server, fresh=True)
            group.start_soon(_release_later, one)
            await mgr.aclose(grace)
            del opening

    async def check() -> None:
        assert (managers[-1].stats().open, managers[-1].stats().waiting) == (0, 0)
        assert echo_server.connections == 0

    before = descriptors()
    assert await cancel_everywhere(work, check) >= 2
    await all_gone(echo_server)
    assert descriptors() == before


async def _release_later(conn: Connection) -> None:
    await turns(5)
    conn.release()


async def test_13_leaving_the_block_when_cancelled(
    mute_server: Server, echo_server: Server, client_context: ssl.SSLContext
) -> None:
    """heritage pools 3.13: httpcore#642: with a hanging dial, a hanging handshake, lent and idle ones."""
    before = descriptors()
    with full_backlog() as hole, anyio.move_on_after(10) as all_in_time:
        with anyio.CancelScope() as scope:
            async with manager(client_context) as mgr, anyio.create_task_group() as group:
                held = await take(mgr, echo_server, 2)
                held.pop().release()
                group.start_soon(_wait, ask_tls(mgr, mute_server))
                group.start_soon(_wait, mgr.allocate("http", hole.host, hole.port))
                await mute_server.until(lambda server: server.received > 200)
                scope.cancel()
                await anyio.sleep_forever()
        assert (mgr.stats().open, mgr.stats().waiting) == (0, 0)
        assert (echo_server.connections, mute_server.connections) == (0, 0)
    assert not all_in_time.cancelled_caught
    await all_gone(echo_server, mute_server)
    assert descriptors() == before


async def _wait(request: Request) -> None:
    await request
