"""A connection whose socket is in another process's hands while it is lent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import ClosedResourceError
from anyio.abc import SocketAttribute

from keepalive import ConnectionManager, TLSConnector
from tests.support.requests import ask
from tests.support.waiting import turns, until_equal

if TYPE_CHECKING:
    import socket
    import ssl

    from keepalive import Connection
    from tests.support import Server


def elsewhere(conn: Connection) -> socket.socket:
    """Return a copy of the socket, as another process would have it."""
    raw: socket.socket = conn.extra(SocketAttribute.raw_socket)
    conn.look_away()
    return raw.dup()


async def test_connection_that_was_quiet_is_used_again(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        for use in (1, 2, 3):
            conn = await ask(mgr, echo_server)
            assert conn.uses == use
            with elsewhere(conn) as sock:
                sock.send(b"x")
                await anyio.wait_readable(sock)
                assert sock.recv(1) == b"x"
            conn.release()
        async with ask(mgr, echo_server) as conn:
            await conn.send(b"y")
            assert await conn.receive() == b"y"


async def test_bytes_that_were_left_there_close_it(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        with elsewhere(conn) as sock:
            sock.send(b"xy")
            await anyio.wait_readable(sock)
        conn.release()
        assert mgr.stats().closed == {"unread": 1}


async def test_peers_end_meanwhile_closes_it(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        elsewhere(conn).close()
        echo_server.disconnect_all()
        await turns()
        conn.release()
        assert mgr.stats().closed == {"peer": 1}


async def test_what_comes_later_is_noticed_as_ever(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        elsewhere(conn).close()
        conn.release()
        echo_server.disconnect_all()
        await until_equal(lambda: mgr.stats().idle, 0)


async def test_socket_that_was_made_to_block_holds_up_nobody(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        with elsewhere(conn) as sock:
            sock.setblocking(True)  # of both copies: the kernel has one flag for them
        conn.release()
        assert mgr.stats().idle == 1


async def test_tls_cannot_be_passed_on(tls_server: Server, client_context: ssl.SSLContext) -> None:
    connectors = {"https": TLSConnector(client_context, server_hostname="localhost")}
    async with ConnectionManager(connectors=connectors) as mgr:
        conn = await ask(mgr, tls_server, scheme="https")
        with pytest.raises(ValueError, match="TLS"):
            conn.look_away()
        conn.release()
        with pytest.raises(ClosedResourceError):
            conn.look_away()
