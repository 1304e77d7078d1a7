"""The test servers and checks themselves: what they count and do must be true."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.streams.tls import TLSStream

from tests.support import (
    Deaf,
    Greeting,
    HttpOrigin,
    Nginx,
    Server,
    Silent,
    full_backlog,
    nginx,
    refused_path,
    refused_port,
)
from tests.support.leaks import LoopWatch, descriptors

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from tests.support import Authority


def dial(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port))


async def test_counts_are_exact_at_once(echo_server: Server) -> None:
    async with await anyio.connect_tcp("127.0.0.1", echo_server.port) as first:
        assert echo_server.connections == 1
        await first.send(b"ping")
        assert await first.receive() == b"ping"
        assert echo_server.received == 4
    for _ in range(20):
        async with await anyio.connect_tcp("127.0.0.1", echo_server.port):
            pass
    assert (echo_server.connections, echo_server.peak, echo_server.accepted) == (0, 1, 21)


async def test_until_waits_for_a_state(silent_server: Server) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(silent_server.until, lambda server: server.received == 4)
        async with await anyio.connect_tcp("127.0.0.1", silent_server.port) as stream:
            await stream.send(b"ping")
    await silent_server.until(lambda server: server.accepted == 1 and not server.connections)
    with pytest.raises(AssertionError, match="not reached"):
        await silent_server.until(lambda server: server.connections == 1, 0.05)


def test_fin_and_reset_have_arrived_on_return(echo_server: Server) -> None:
    with dial(echo_server) as sock:
        echo_server.push(b"news")
        echo_server.disconnect_all()
        sock.setblocking(False)
        assert (sock.recv(9), sock.recv(9)) == (b"news", b"")
        assert echo_server.connections == 0
    with dial(echo_server) as sock:
        echo_server.reset_all()
        sock.setblocking(False)
        with pytest.raises(ConnectionResetError):
            sock.recv(9)


def test_half_close_keeps_reading(silent_server: Server) -> None:
    with dial(silent_server) as sock:
        silent_server.half_close_all()
        assert sock.recv(9) == b""
        sock.sendall(b"still here")
        silent_server.wait_for(lambda server: server.received == 10)
        assert silent_server.connections == 1


def test_deaf_server_pushes_back() -> None:
    with Server(Deaf(), receive_buffer=4096) as server, dial(server) as sock:
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(50_000_000))
        assert server.received == 0
        server.resume_reading()
        server.wait_for(lambda server: server.received > 0)


def test_greeting_comes_when_accepted() -> None:
    with Server(Greeting(b"hi"), accepting=False) as server, dial(server) as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(9)
        assert server.accepted == 0
        server.resume_accepting()
        sock.settimeout(5)
        assert sock.recv(9) == b"hi"


def test_unix_socket(unix_server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(unix_server.host)
        sock.sendall(b"ping")
        assert sock.recv(9) == b"ping"


@pytest.mark.parametrize("name", ["tls_server", "tls12_server"])
def test_tls_echoes_and_says_goodbye(
    name: str, request: pytest.FixtureRequest, client_context: ssl.SSLContext
) -> None:
    server: Server = request.getfixturevalue(name)
    plain = dial(server)
    with client_context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
        sock.sendall(b"ping")
        assert sock.recv(9) == b"ping"
        assert sock.version() == ("TLSv1.3" if name == "tls_server" else "TLSv1.2")
        assert server.handshakes == 1
        server.disconnect_all()
        assert sock.recv(9) == b""


async def test_tls_with_an_async_client(tls_server: Server, client_context: ssl.SSLContext) -> None:
    stream = await anyio.connect_tcp("127.0.0.1", tls_server.port)
    tls = await TLSStream.wrap(stream, hostname="localhost", ssl_context=client_context)
    await tls.send(b"ping" * 50_000)
    got = 0
    while got < 200_000:
        got += len(await tls.receive())
    tls_server.cut_all()
    with pytest.raises(anyio.BrokenResourceError):  # an end without TLS's farewell
        await tls.receive()
    await anyio.aclose_forcefully(tls)


def test_silent_server_never_answers_a_hello(silent_server: Server, client_context: ssl.SSLContext) -> None:
    with dial(silent_server) as sock:
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client_context.wrap_socket(sock, server_hostname="localhost")


def test_refusing_and_hanging_addresses(tmp_path: Path) -> None:
    with refused_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with refused_path(tmp_path) as path, socket.socket(socket.AF_UNIX) as sock:
        assert sock.connect_ex(path) == errno.ECONNREFUSED
    with full_backlog() as there, pytest.raises(TimeoutError):
        socket.create_connection((there.host, there.port), timeout=0.2)


def test_http_origin_keeps_alive_until_stale() -> None:
    with Server(HttpOrigin(stale=True)) as server, dial(server) as sock:
        request = b"GET /chunked HTTP/1.1\r\nHost: x\r\n\r\n"
        sock.sendall(request)
        assert sock.recv(999).startswith(b"HTTP/1.1 200 OK")
        sock.sendall(request)
        assert sock.recv(999) == b""


def test_nginx_is_up_from_the_first_moment(tmp_path: Path, ca: Authority) -> None:
    pair, _ = ca.write(tmp_path)
    with nginx(tmp_path, pair) as peer:
        assert isinstance(peer, Nginx)
        with contextlib.closing(socket.create_connection(("127.0.0.1", peer.port))) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert sock.recv(15) == b"HTTP/1.1 200 OK"


async def test_leaks_are_seen() -> None:
    before = descriptors()
    with socket.socket():
        assert len(descriptors() - before) == 1
    watch = LoopWatch()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        assert await watch.verdict()
        group.cancel_scope.cancel()
    assert not await watch.verdict()


def test_silence_is_not_a_banner(silent_server: Server) -> None:
    assert isinstance(silent_server.behaviour, Silent)
    with dial(silent_server) as sock:
        silent_server.wait_for(lambda server: server.connections == 1)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
