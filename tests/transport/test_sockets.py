"""Kinds of sockets and addresses: bound ones, Unix ones, IPv6."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from keepalive import AllocateTimeout, ConnectError, ConnectionManager, Reuse, StaticResolver
from tests.support import Server, full_backlog, has_ipv6, refused_path, refused_port
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on the loopback interface")
needs_linux = pytest.mark.skipif(not os.path.isdir("/proc"), reason="Linux: all of 127.0.0.0/8 is local")


@pytest.fixture
def six() -> Iterator[Server]:
    with Server(host="::1") as server:
        yield server


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


# -- bind_address ------------------------------------------------------------------------------------


@needs_linux
async def test_bound_to_an_address(echo_server: Server) -> None:
    async with (
        ConnectionManager(bind_address="127.0.0.2") as manager,
        ask(manager, echo_server) as conn,
        ask(manager, echo_server) as other,
    ):
        await exchange(conn)
        await exchange(other)
    assert {address[0] for address in echo_server.peer_addresses} == {"127.0.0.2"}


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_bound_to_an_address_and_a_port(host: str) -> None:
    port = free_port(host)
    with Server(host=host) as server:
        async with ConnectionManager(bind_address=(host, port)) as manager, ask(manager, server) as conn:
            await exchange(conn)
            # One port makes one connection to one address; the second attempt fails and costs nothing.
            with pytest.raises(ConnectError) as caught:
                await ask(manager, server, timeout=5)
            assert caught.value.function in ("bind", "connect")
            assert caught.value.error_num in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            assert manager.stats().open == 1
        assert [address[:2] for address in server.peer_addresses] == [(host, port)]


async def test_bound_to_an_address_of_somebody_else(echo_server: Server) -> None:
    async with ConnectionManager(bind_address="192.0.2.1") as manager:  # RFC 5737: nobody's
        with pytest.raises(ConnectError) as caught:
            await ask(manager, echo_server)
        assert (caught.value.function, caught.value.error_num) == ("bind", errno.EADDRNOTAVAIL)
        assert "192.0.2.1" in caught.value.error_str
        assert manager.stats().open == 0
    assert echo_server.accepted == 0


@pytest.mark.parametrize(("bound", "host"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
async def test_bound_to_the_other_family(bound: str, host: str) -> None:
    async with ConnectionManager(bind_address=bound) as manager:
        with refused_port() as port, pytest.raises(ConnectError) as caught:
            await manager.allocate("http", host, port)
        assert (caught.value.function, caught.value.error_num) == ("bind", errno.EAFNOSUPPORT)
        assert manager.stats().open == 0


async def test_bound_to_a_zone_that_is_not_there() -> None:
    async with ConnectionManager(bind_address="fe80::1%nosuch0") as manager:
        with pytest.raises(ConnectError) as caught:
            await manager.allocate("http", "fe80::2", 80, timeout=5)
        assert (caught.value.function, caught.value.error_num) == ("bind", None)
        assert "nosuch0" in caught.value.error_str


@needs_ipv6
async def test_the_address_bound_to_chooses_among_addresses(six: Server) -> None:
    async with (
        ConnectionManager(bind_address="::1") as manager,
        manager.allocate("http", "localhost", six.port, timeout=5) as conn,
    ):
        await exchange(conn)


async def test_unix_sockets_are_not_bound(unix_server: Server) -> None:
    async with (
        ConnectionManager(bind_address="127.0.0.1") as manager,
        manager.allocate("unix", unix_server.host, 0) as conn,
    ):
        await exchange(conn)


# -- IPv6 and several addresses ----------------------------------------------------------------------


@needs_ipv6
@pytest.mark.parametrize("addr", ["::1", "0:0:0:0:0:0:0:1"])
async def test_ipv6_literals(addr: str, six: Server) -> None:
    async with ConnectionManager() as manager:
        for reuse in (None, Reuse.IMMEDIATE):
            async with manager.allocate("http", addr, six.port, timeout=5) as conn:
                assert conn.from_cache is reuse
                await exchange(conn)


@needs_ipv6
async def test_localhost_is_both_families(six: Server, echo_server: Server) -> None:
    async with ConnectionManager() as manager:
        for server in (six, echo_server):
            async with manager.allocate("http", "localhost", server.port, timeout=5) as conn:
                await exchange(conn)


async def test_all_addresses_are_tried(echo_server: Server) -> None:
    resolver = StaticResolver({"many.test": ["127.0.0.2", "127.0.0.3", "127.0.0.1"]})
    async with (
        ConnectionManager(resolver=resolver) as manager,
        manager.allocate("http", "many.test", echo_server.port, timeout=5) as conn,
    ):
        await exchange(conn)
        assert manager.stats().opened == 1


async def test_all_addresses_fail() -> None:
    resolver = StaticResolver({"many.test": ["127.0.0.2", "127.0.0.1"]})
    with refused_port() as port:
        async with ConnectionManager(resolver=resolver) as manager:
            with pytest.raises(ConnectError) as caught:
                await manager.allocate("http", "many.test", port, timeout=5)
            assert (caught.value.function, caught.value.error_num) == ("connect", errno.ECONNREFUSED)
            assert manager.stats().open == 0


async def test_a_hanging_connect_ends_with_its_manager() -> None:
    with full_backlog() as there:
        async with ConnectionManager() as manager:
            with pytest.raises(AllocateTimeout) as caught:
                await manager.allocate("http", there.host, there.port, timeout=0.05)
            assert caught.value.function == "connect"
            assert caught.value.error_num == errno.ETIMEDOUT


# -- Unix sockets ------------------------------------------------------------------------------------


async def test_unix_socket(unix_server: Server) -> None:
    recorder = Recorder()
    async with ConnectionManager(observer=recorder) as manager:
        for reuse in (None, Reuse.IMMEDIATE):
            async with manager.allocate("unix", unix_server.host, 0) as conn:
                assert conn.from_cache is reuse
                assert conn.addr == unix_server.host
                await exchange(conn)
        unix_server.disconnect_all()
        await recorder.until(lambda: recorder.reasons() == ["peer"], 1)
        assert manager.stats().open == 0


async def test_unix_paths_that_lead_nowhere(tmp_path: Path) -> None:
    async with ConnectionManager() as manager:
        with refused_path(tmp_path) as refused:
            wrong = {
                str(tmp_path / "missing.sock"): errno.ENOENT,
                refused: errno.ECONNREFUSED,
                str(tmp_path): errno.ECONNREFUSED,
                str(tmp_path / ("x" * 200)): None,  # too long for the kernel's structure
            }
            for path, number in wrong.items():
                with pytest.raises(ConnectError) as caught:
                    await manager.allocate("unix", path, 0, timeout=5)
                assert (caught.value.function, caught.value.error_num) == ("connect", number)
                assert caught.value.error_str
        assert manager.stats().open == 0


@needs_linux
async def test_an_abstract_unix_socket() -> None:
    name = f"\0keepalive test {os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        async with ConnectionManager() as manager, manager.allocate("unix", name, 0, timeout=5) as conn:
            await conn.send(b"ping")
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(9) == b"ping"
                peer.send(b"pong")
                assert await conn.receive() == b"pong"


@needs_linux
async def test_a_unix_listener_with_a_full_backlog(tmp_path: Path) -> None:
    """The kernel says neither yes nor no, and tells nobody when there is room."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        async with ConnectionManager() as manager:
            with pytest.raises(AllocateTimeout) as caught:
                await manager.allocate("unix", path, 0, timeout=0.05)
            assert caught.value.function == "connect"
            request = manager.allocate("unix", path, 0, timeout=5)
            await turns()
            listener.accept()[0].close()
            async with request as conn:
                await conn.send(b"x")
            peer, _ = listener.accept()
            peer.close()
