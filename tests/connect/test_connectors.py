"""Connectors of one's own: own sockets, an exchange before the first use, layers, all kinds of misconduct."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import ClosedResourceError, EndOfStream

from keepalive import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    ResolveError,
    Reuse,
    TCPConnector,
    TLSConnector,
    TLSError,
    UnixConnector,
)
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.tunnel import Tunnel
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from keepalive import Connector, Dial, Link
    from tests.support import Server
    from tests.support.wires import Wire


async def plain(dial: Dial) -> Link:
    """Open as the default connector does."""
    return await dial.connect_tcp(dial.key.addr, dial.key.port)


# -- what they are for -------------------------------------------------------------------------------


async def test_a_socket_of_ones_own(echo_server: Server) -> None:
    recorder = Recorder()

    async def connect(dial: Dial) -> Link:
        return dial.adopt(socket.create_connection((dial.key.addr, dial.key.port)))

    async with ConnectionManager(
        connectors={"own": FunctionConnector(connect)}, observer=recorder
    ) as manager:
        for reuse in (None, Reuse.IMMEDIATE):
            async with ask(manager, echo_server, scheme="own") as conn:
                assert conn.from_cache is reuse
                await exchange(conn)
        echo_server.disconnect_all()
        await recorder.until(lambda: recorder.reasons() == ["peer"], 1)
    assert echo_server.accepted == 1


class Via:
    """Ask a relay for the way to ``for_port`` first."""

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        link = await dial.connect_tcp(dial.key.addr, dial.key.port)
        stream = dial.stream(link)
        await stream.send(b"CONNECT %d\n" % dial.key.for_port)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += await stream.receive(1)
        if answer != b"OK\n":
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"the relay says {answer.decode().strip()}")
        return link


async def test_an_exchange_first(echo_server: Server) -> None:
    with Tunnel(echo_server, asks=True) as relay:
        async with ConnectionManager(connectors={"via": Via()}) as manager:
            for _ in range(3):
                async with manager.allocate("via", relay.host, relay.port, for_port=echo_server.port) as conn:
                    await exchange(conn)
            assert relay.accepted == 1
            with pytest.raises(ConnectError) as caught:
                await manager.allocate("via", relay.host, relay.port, for_port=9)
            assert caught.value.error_str == "the relay says NO"
            assert caught.value.error_num == errno.ECONNREFUSED
            assert manager.stats().open == 1


async def test_an_exchange_first_then_tls(tls_server: Server, client_context: ssl.SSLContext) -> None:
    connectors = {"via": TLSConnector(client_context, over=Via())}
    with Tunnel(tls_server, asks=True) as relay:
        async with ConnectionManager(connectors=connectors) as manager:

            def request(name: str) -> Any:
                return manager.allocate(
                    "via", relay.host, relay.port, for_addr=name, for_port=tls_server.port, timeout=5
                )

            for _ in range(3):
                async with request("localhost") as conn:
                    await exchange(conn)
            assert relay.accepted == 1
            with pytest.raises(TLSError):
                await request("other.test")


async def test_schemes_have_connectors(
    echo_server: Server, tls_server: Server, unix_server: Server, client_context: ssl.SSLContext
) -> None:
    connectors: dict[str, Connector] = {
        "https": TCPConnector(),
        "unix": TLSConnector(client_context, "localhost"),
        "local": UnixConnector(),
    }
    async with ConnectionManager(connectors=connectors) as manager:
        async with ask(manager, echo_server, scheme="https") as conn:
            await exchange(conn)
        async with manager.allocate("unix", tls_server.host, tls_server.port) as conn:
            await exchange(conn)
        async with manager.allocate("local", unix_server.host, 1) as conn:
            await exchange(conn)
        async with ask(manager, echo_server, scheme="anything") as conn:
            await exchange(conn)
        assert len(manager.stats().keys) == 4


async def test_tls_over_a_unix_socket(
    make_wire: Callable[[str], Wire],
    server_contexts: dict[str, ssl.SSLContext],
    client_context: ssl.SSLContext,
) -> None:
    connectors = {"sealed": TLSConnector(client_context, over=UnixConnector())}
    with make_wire("unix").serve(tls=server_contexts["tls"]) as server:
        async with (
            ConnectionManager(connectors=connectors) as manager,
            manager.allocate("sealed", server.host, 1, for_addr="localhost") as conn,
        ):
            await exchange(conn, b"x" * 100_000)


async def test_what_else_was_opened_is_closed(echo_server: Server) -> None:
    async def connect(dial: Dial) -> Link:
        links = [await plain(dial) for _ in range(4)]
        return links[2]

    async with (
        ConnectionManager(connectors={"http": FunctionConnector(connect)}) as manager,
        ask(manager, echo_server) as conn,
    ):
        await exchange(conn)
        assert echo_server.connections == 1
    assert echo_server.accepted == 4


async def test_the_attempts_stream_ends_with_it(echo_server: Server) -> None:
    """Nobody but the user has the connection afterwards."""
    kept: list[ByteStream] = []

    async def connect(dial: Dial) -> Link:
        link = await plain(dial)
        kept.append(dial.stream(link))
        await kept[-1].send(b"?")
        assert await kept[-1].receive() == b"?"
        return link

    async with ConnectionManager(connectors={"http": FunctionConnector(connect)}) as manager:
        async with ask(manager, echo_server) as conn:
            with pytest.raises(ClosedResourceError):
                await kept[0].receive()
            await kept[0].aclose()
            await exchange(conn)
        assert manager.stats().idle == 1


# -- time --------------------------------------------------------------------------------------------


async def hang(dial: Dial) -> Link:
    """Never come to an end, without a name to look up."""
    await anyio.sleep_forever()
    raise AssertionError


async def test_connect_timeout_without_a_name(echo_server: Server) -> None:
    connector = FunctionConnector(hang)
    async with ConnectionManager(connectors={"http": connector}, connect_timeout=0.05) as manager:
        with pytest.raises(AllocateTimeout, match="connect_timeout") as caught:
            await ask(manager, echo_server, timeout=5)
        assert caught.value.function == "connect"
        await turns()
        assert manager.stats().open == 0


async def test_a_phase_of_ones_own(echo_server: Server) -> None:
    async def connect(dial: Dial) -> Link:
        dial.phase = "login"
        return await hang(dial)

    async with ConnectionManager(connectors={"http": FunctionConnector(connect)}) as manager:
        with pytest.raises(AllocateTimeout) as caught:
            await ask(manager, echo_server, timeout=0.05)
        assert caught.value.function == "login"


async def stubborn(event: anyio.Event) -> None:
    """Wait for an event, whoever wants to cancel that."""
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except asyncio.CancelledError:  # asyncio's own cancellation knows no shields
                pass


@pytest.mark.parametrize("returns", [True, False])
async def test_one_that_does_not_listen_to_cancellation(returns: bool, echo_server: Server) -> None:
    """It is told to stop, goes on, and its place is taken until it has ended: the limits hold."""
    recorder = Recorder()
    goes_on = anyio.Event()
    running = 0

    async def connect(dial: Dial) -> Link:
        nonlocal running
        running += 1
        assert running == 1, "two attempts where one is allowed"
        try:
            link = await plain(dial)
            await stubborn(goes_on)
            if not returns:
                raise RuntimeError("after all that")
            return link
        finally:
            running -= 1

    options: dict[str, Any] = {"connect_timeout": 0.02, "max_per_host": 1, "observer": recorder}
    async with ConnectionManager(connectors={"http": FunctionConnector(connect)}, **options) as manager:
        with pytest.raises(AllocateTimeout):
            await ask(manager, echo_server, timeout=5)
        assert manager.stats().closing == 1
        request = ask(manager, echo_server, timeout=5)
        await turns()
        assert recorder.names().count("opening") == 1
        assert manager.stats().queued == 1
        goes_on.set()
        if returns:
            async with request as conn:
                await exchange(conn)
        else:
            with pytest.raises(ConnectError, match="after all that"):
                await request
        assert echo_server.connections == int(returns)
    assert echo_server.peak == 1


async def test_the_end_waits_for_one_that_does_not_listen(echo_server: Server) -> None:
    ended = anyio.Event()

    async def connect(dial: Dial) -> Link:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            ended.set()
        raise AssertionError

    async with ConnectionManager(connectors={"http": FunctionConnector(connect)}) as manager:
        request = ask(manager, echo_server)
        await turns()
    assert ended.is_set()
    assert not request.cancel()


# -- misconduct --------------------------------------------------------------------------------------


class Wordless(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


ODD: dict[str, Callable[[], BaseException]] = {
    "runtime": lambda: RuntimeError("boom"),
    "key": lambda: KeyError("k"),
    "assertion": AssertionError,
    "group": lambda: ExceptionGroup("many", [ValueError("one"), OSError("two")]),
    "wordless": Wordless,
    "stop": lambda: StopIteration(3),
    "foreign": lambda: ClosedResourceError(),
}
EXPECTED: dict[str, Callable[[], BaseException]] = {
    "refused": lambda: ConnectionRefusedError(errno.ECONNREFUSED, "no"),
    "numberless": lambda: OSError("just words"),
    "timeout": TimeoutError,
    "name": lambda: socket.gaierror(socket.EAI_NONAME, "unknown"),
    "tls": lambda: ssl.SSLError(1, "[SSL] bad"),
    "end": EndOfStream,
}


@pytest.mark.parametrize("name", [*ODD, *EXPECTED])
async def test_whatever_it_raises_is_the_failure(
    name: str, echo_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    error = (ODD | EXPECTED)[name]()

    async def connect(dial: Dial) -> Link:
        await plain(dial)  # something to be closed
        raise error

    async with ConnectionManager(connectors={"http": FunctionConnector(connect)}, max_per_host=1) as manager:
        for _ in range(2):
            with pytest.raises(AllocateError) as caught:
                await ask(manager, echo_server, timeout=5)
            cause = caught.value.__cause__
            assert error in (cause, cause and cause.__cause__)
            assert caught.value.function == "connect"
            assert caught.value.error_num == (errno.ECONNREFUSED if name == "refused" else None)
            assert caught.value.error_str
        assert manager.stats().open == 0
        assert echo_server.connections == 0
    logged = [record for record in caplog.records if record.name == "keepalive"]
    assert len(logged) == (2 if name in ODD else 0)
    assert all(record.levelno == logging.ERROR for record in logged)


async def nothing(dial: Dial) -> Any:
    return None


async def no_link(dial: Dial) -> Any:
    return socket


async def a_closed_link(dial: Dial) -> Any:
    link = await plain(dial)
    link.close()
    return link


async def a_link_given_up(dial: Dial) -> Any:
    link = await plain(dial)
    dial.give_up(link)
    return link


async def a_stream(dial: Dial) -> Any:
    return dial.stream(await plain(dial))


@pytest.mark.parametrize("connect", [nothing, no_link, a_closed_link, a_link_given_up, a_stream])
async def test_whatever_it_returns_is_checked(
    connect: Callable[[Dial], Awaitable[Any]], echo_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with ConnectionManager(connectors={"http": FunctionConnector(connect)}, max_per_host=1) as manager:
        for _ in range(2):
            with pytest.raises(ConnectError, match="the connector returned"):
                await ask(manager, echo_server, timeout=5)
        assert manager.stats().open == 0
        assert echo_server.connections == 0
    assert len(caplog.records) == 2


async def test_a_link_of_another_attempt(echo_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    links: list[Link] = []

    async def connect(dial: Dial) -> Link:
        links.append(await plain(dial))
        return links[0]

    async with (
        ConnectionManager(connectors={"http": FunctionConnector(connect)}) as manager,
        ask(manager, echo_server) as conn,
    ):
        with pytest.raises(ConnectError, match="not an open link of this attempt"):
            await ask(manager, echo_server, timeout=5)
        await exchange(conn)
        assert echo_server.connections == manager.stats().open == 1
    assert len(caplog.records) == 1


async def test_one_that_is_not_async(echo_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    class Plain:
        def connect(self, dial: Dial) -> int:
            return 5

    connectors: Any = {"http": Plain()}
    async with ConnectionManager(connectors=connectors) as manager:
        with pytest.raises(AllocateError):
            await ask(manager, echo_server, timeout=5)
        assert manager.stats().open == 0
    assert len(caplog.records) == 1


async def test_one_that_cancels_itself(echo_server: Server, anyio_backend_name: str) -> None:
    """On asyncio anybody can raise a cancellation that nobody asked for."""
    if anyio_backend_name == "trio":
        pytest.skip("trio does not let one raise Cancelled")

    async def connect(dial: Dial) -> Link:
        await plain(dial)
        raise asyncio.CancelledError

    async with ConnectionManager(connectors={"http": FunctionConnector(connect)}, max_per_host=1) as manager:
        for _ in range(2):
            with pytest.raises(AllocateError) as caught:
                await ask(manager, echo_server, timeout=5)
            assert not isinstance(caught.value, ResolveError)
        assert manager.stats().open == 0
        assert echo_server.connections == 0
