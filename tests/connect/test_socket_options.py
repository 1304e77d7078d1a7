"""What sockets are set to, as the kernel says."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from anyio.abc import SocketAttribute

from keepalive import ConnectError, ConnectionManager, SocketOptions, TCPConnector, TLSConnector
from tests.support.requests import ask

if TYPE_CHECKING:
    import ssl

    from keepalive import Connection
    from tests.support import Server

TCP = socket.IPPROTO_TCP
linux = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
pytestmark = linux


def values(conn: Connection) -> dict[str, int]:
    sock = conn.extra(SocketAttribute.raw_socket)
    names = ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    found = {name: sock.getsockopt(TCP, getattr(socket, name)) for name in names}
    return found | {"SO_KEEPALIVE": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}


DEFAULTS = {
    "TCP_NODELAY": 1,
    "SO_KEEPALIVE": 1,
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 0,
}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_by_default(name: str, echo_server: Server) -> None:
    async with ConnectionManager() as mgr, mgr.allocate("http", name, echo_server.port, timeout=5) as conn:
        assert values(conn) == DEFAULTS


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_ones_own(name: str, echo_server: Server) -> None:
    more = [(TCP, socket.TCP_USER_TIMEOUT, 1234), (socket.SOL_SOCKET, socket.SO_PRIORITY, 3)]
    options = SocketOptions(keepalive=20, interval=5, count=2, no_delay=False, more=more)
    async with (
        ConnectionManager(connectors={"http": TCPConnector(options)}) as mgr,
        mgr.allocate("http", name, echo_server.port, timeout=5) as conn,
    ):
        wanted = {"TCP_NODELAY": 0, "TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2}
        assert values(conn) == {**DEFAULTS, **wanted, "TCP_USER_TIMEOUT": 1234}
        sock = conn.extra(SocketAttribute.raw_socket)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 3


async def test_below_tls(tls_server: Server, client_context: ssl.SSLContext) -> None:
    tcp = TCPConnector(SocketOptions(keepalive=None, user_timeout=30))
    tls = TLSConnector(client_context, server_hostname="localhost", over=tcp)
    async with ConnectionManager(connectors={"s": tls}) as mgr, ask(mgr, tls_server, scheme="s") as conn:
        found = values(conn)
        assert (found["SO_KEEPALIVE"], found["TCP_USER_TIMEOUT"]) == (0, 30_000)


async def test_set_before_connecting(echo_server: Server) -> None:
    """A receive buffer counts for the window scale of the SYN: later is too late."""
    options = SocketOptions(more=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096), (TCP, socket.TCP_MAXSEG, 700)])
    async with (
        ConnectionManager(connectors={"http": TCPConnector(options)}) as mgr,
        ask(mgr, echo_server) as conn,
    ):
        assert conn.extra(SocketAttribute.raw_socket).getsockopt(TCP, socket.TCP_MAXSEG) <= 700


async def test_one_that_the_kernel_refuses(echo_server: Server) -> None:
    options = SocketOptions(more=[(TCP, 9999, 1)])
    async with ConnectionManager(connectors={"http": TCPConnector(options)}) as mgr:
        with pytest.raises(OSError, match="Protocol not available"):
            await ask(mgr, echo_server)
        assert mgr.stats().open == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_one_that_python_refuses(host: str, echo_server: Server) -> None:
    """An error that is no OSError: it fails the request, not the call, and costs no slot."""
    options = SocketOptions()
    object.__setattr__(options, "more", ((TCP, socket.TCP_NODELAY, "x"),))  # past its checks
    async with ConnectionManager(connectors={"http": TCPConnector(options)}) as mgr:
        request = mgr.allocate("http", host, echo_server.port)
        with pytest.raises(ConnectError, match="bytes-like"):
            await request
        assert mgr.stats().open == 0


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"keepalive": 0}, ValueError),
        ({"keepalive": float("nan")}, ValueError),
        ({"keepalive": 40_000}, ValueError),
        ({"interval": None}, TypeError),
        ({"count": 0}, ValueError),
        ({"count": 200}, ValueError),
        ({"count": 1.5}, TypeError),
        ({"no_delay": 1}, TypeError),
        ({"user_timeout": 0}, ValueError),
        ({"user_timeout": 0.0001}, ValueError),
        ({"user_timeout": "x"}, TypeError),
        ({"more": [(1, 2)]}, TypeError),
        ({"more": [(1, 2, "x")]}, TypeError),
        ({"more": [(1, 2, 2**31)]}, ValueError),
        ({"more": [(1, -(2**40), 1)]}, ValueError),
        ({"more": b"xyz"}, TypeError),
        ({"more": 5}, TypeError),
    ],
)
def test_wrong_values(wrong: dict[str, Any], kind: type[Exception]) -> None:
    (name,) = wrong
    with pytest.raises(kind, match=name):
        SocketOptions(**wrong)


def test_the_wrong_kind_of_options() -> None:
    with pytest.raises(TypeError, match="options"):
        TCPConnector({"keepalive": 5})  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("value", [("127.0.0.1", "127.0.0.2"), ("::1", "::2"), (("::1", 5), ("::2", 6))])
def test_two_bind_addresses_of_one_family(value: Any) -> None:
    with pytest.raises(ValueError, match="one is of IPv4 and one of IPv6"):
        ConnectionManager(bind_address=value)
