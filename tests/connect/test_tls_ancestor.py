"""heritage poe 3.5, 3.20: TLS belongs to the request, to the key and to the limits."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from keepalive import AllocateTimeout, ConnectionManager, Reuse, TLSConnector, TLSError
from tests.support import Server
from tests.support.requests import Awaited, ask, exchange
from tests.support.resolvers import HOST
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive import Request
    from tests.support import Authority


def secure(mgr: ConnectionManager, server: Server, timeout: float = 5, scheme: str = "https") -> Request:
    """Request a TLS connection to a server, for the name in its certificate."""
    return mgr.allocate(scheme, HOST, server.port, timeout, for_addr="localhost")


async def test_failed_handshakes_cost_no_place(tls_server: Server, ca: Authority, tmp_path: Path) -> None:
    """heritage poe 3.5 (B5): after many failures, more than the limits, the key serves at once."""
    context = ssl.create_default_context()
    connectors = {"https": TLSConnector(context)}
    async with ConnectionManager(max_per_host=2, max_open=2, connectors=connectors) as mgr:
        for _ in range(3):
            pair = secure(mgr, tls_server), secure(mgr, tls_server)
            for request in pair:
                with pytest.raises(TLSError) as caught:
                    await request
                assert (caught.value.function, caught.value.error_num) == ("tls", None)
                assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert (mgr.stats().open, mgr.stats().failed) == (0, {"tls": mgr.stats().requests})
        context.load_verify_locations(ca.write(tmp_path)[1])
        async with secure(mgr, tls_server, 1) as one, secure(mgr, tls_server, 1) as two:
            await exchange(one)
            await exchange(two)
        assert (tls_server.connections, tls_server.peak) == (2, 2)


async def test_a_failed_handshake_wakes_the_next(echo_server: Server, tls_server: Server) -> None:
    """heritage poe 3.5 (B5): its place goes to who waits, be it for the same key or for another."""
    async with ConnectionManager(max_open=1) as mgr, anyio.create_task_group() as group:
        first, second = (Awaited(group, secure(mgr, tls_server)) for _ in range(2))
        third = Awaited(group, ask(mgr, echo_server))
        for failed in (first, second):
            assert isinstance(await failed.error(), TLSError)
        async with await third.connection() as conn:
            await exchange(conn)


async def test_the_system_s_trust_is_the_default(tls_server: Server) -> None:
    """heritage poe 3.20: a certificate that nobody vouches for fails the request, in words."""
    async with ConnectionManager() as mgr:
        with pytest.raises(TLSError, match="certificate verify failed: unable to get local issuer"):
            await secure(mgr, tls_server)
    assert tls_server.handshakes == 0


async def test_the_name_is_verified_and_sent(ca: Authority, client_context: ssl.SSLContext) -> None:
    """heritage poe 3.20: for_addr is the name that the certificate must bear, and that the server is told."""
    told: list[str | None] = []
    context = ca.server("one.test")
    context.sni_callback = lambda _sock, name, _context: told.append(name)
    with Server(tls=context) as server:
        async with ConnectionManager(connectors={"https": TLSConnector(client_context)}) as mgr:
            async with mgr.allocate("https", HOST, server.port, 5, for_addr="one.test") as conn:
                await exchange(conn)
            with pytest.raises(TLSError, match="for 'two\\.test'"):
                await mgr.allocate("https", HOST, server.port, 5, for_addr="two.test")
            with pytest.raises(TLSError, match=r"'127\.0\.0\.1'"):
                await mgr.allocate("https", HOST, server.port, 5)
    assert told == ["one.test", "two.test", None]  # an address is no name (RFC 6066 3)


async def test_the_handshake_is_done_when_the_request_is_served(
    tls_server: Server, client_context: ssl.SSLContext
) -> None:
    """heritage poe 3.20, 1.59: not at the user's first byte."""
    async with ConnectionManager(connectors={"https": TLSConnector(client_context)}) as mgr:
        async with secure(mgr, tls_server) as conn:
            assert conn.extra(TLSAttribute.tls_version) == "TLSv1.3"
            await tls_server.until(lambda server: server.handshakes == 1)
        async with secure(mgr, tls_server) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE  # its session tickets are not unread bytes
            await exchange(conn)
        assert tls_server.handshakes == 1


@pytest.mark.parametrize("limit", ["timeout", "connect_timeout"])
async def test_the_handshake_is_in_the_request_s_time(silent_server: Server, limit: str) -> None:
    """heritage poe 3.20, 1.59: a listener that never speaks TLS yields a time-out, not a connection."""
    connect_timeout = 0.05 if limit == "connect_timeout" else None
    async with ConnectionManager(connect_timeout=connect_timeout) as mgr:
        with pytest.raises(AllocateTimeout) as caught:
            await secure(mgr, silent_server, 0.05 if limit == "timeout" else 5)
        assert caught.value.function == "tls"
        if limit == "connect_timeout":  # its time is over too, not only the request's
            await until(lambda: mgr.stats().open == 0)
            assert silent_server.connections == 0


async def test_a_peer_that_speaks_no_tls(silent_server: Server) -> None:
    """heritage poe 3.20: what it says instead is a failure of the handshake."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        request = Awaited(group, secure(mgr, silent_server))
        await silent_server.until(lambda server: server.received > 0)
        silent_server.push(b"220 mail.test ready\r\n")
        error = await request.error()
        assert isinstance(error, TLSError)
        assert isinstance(error.__cause__, ssl.SSLError)
        assert mgr.stats().open == 0


async def test_a_peer_that_ends_the_handshake(silent_server: Server) -> None:
    """heritage poe 3.20: so is a plain end of the connection."""
    async with ConnectionManager() as mgr, anyio.create_task_group() as group:
        request = Awaited(group, secure(mgr, silent_server))
        await silent_server.until(lambda server: server.received > 0)
        silent_server.disconnect_all()
        assert isinstance(await request.error(), TLSError)


async def test_any_scheme_can_ask_for_tls(tls_server: Server, client_context: ssl.SSLContext) -> None:
    """heritage poe 3.20, 1.58: connectors say which schemes are TLS."""
    async with ConnectionManager(connectors={"imaps": TLSConnector(client_context)}) as mgr:
        async with secure(mgr, tls_server, scheme="imaps") as conn:
            await exchange(conn)
            assert conn.extra(TLSAttribute.tls_version) == "TLSv1.3"
        assert tls_server.handshakes == 1


async def test_tls_parameters_belong_to_the_key(ca: Authority) -> None:
    """heritage poe 3.20: connections of two schemes are never mixed up, though the server is the same."""
    connectors = {
        name: TLSConnector(ca.client(), "localhost", [protocol])
        for name, protocol in (("web", "http/1.1"), ("push", "h2"))
    }
    with Server(tls=ca.server(alpn=["h2", "http/1.1"])) as server:
        async with ConnectionManager(connectors=connectors) as mgr:
            for kind in (None, Reuse.IMMEDIATE):
                for scheme, protocol in (("web", "http/1.1"), ("push", "h2")):
                    async with mgr.allocate(scheme, HOST, server.port, 5) as conn:
                        assert conn.from_cache is kind
                        assert conn.extra(TLSAttribute.alpn_protocol) == protocol
            await server.until(lambda server: server.handshakes == 2)
            assert server.accepted == 2
