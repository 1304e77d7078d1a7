"""A connection fails as anyio's streams fail, and in no other way."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream, SocketAttribute

from keepalive import ConnectionManager
from tests.support import Deaf, Silent
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keepalive import Connection
    from tests.support import Server
    from tests.support.wires import Wire

GIVE_BACK: dict[str, Callable[[Connection], Any]] = {
    "release": lambda conn: conn.release(),
    "discard": lambda conn: conn.discard(),
    "aclose": lambda conn: conn.aclose(),
}
USE: dict[str, Callable[[Connection], Awaitable[Any]]] = {
    "receive": lambda conn: conn.receive(),
    "send": lambda conn: conn.send(b"x"),
    "send_nothing": lambda conn: conn.send(b""),
    "send_eof": lambda conn: conn.send_eof(),
}


async def outcome(action: Awaitable[Any], into: list[BaseException]) -> None:
    """Remember how an action fails."""
    try:
        await action
    except Exception as exc:
        into.append(exc)


@pytest.mark.parametrize("back", GIVE_BACK)
async def test_a_handle_given_back_is_closed(net: Wire, back: str) -> None:
    with net.serve() as server:
        async with net.manager() as manager:
            conn = await net.ask(manager, server)
            await exchange(conn)
            done = GIVE_BACK[back](conn)
            if done is not None:
                await done
            for use in USE.values():
                with pytest.raises(ClosedResourceError):
                    await use(conn)
            with pytest.raises(ClosedResourceError):
                conn.extra_attributes  # noqa: B018  # the property itself raises
            # Harmless, all of these, and without effect on whoever has it now.
            async with net.ask(manager, server) as other:
                conn.release()
                conn.discard()
                await conn.aclose()
                await exchange(other)


async def test_the_end_of_the_peer_is_an_end(wire: Wire) -> None:
    with wire.serve() as server:
        async with wire.manager() as manager, wire.ask(manager, server) as conn:
            assert isinstance(conn, ByteStream)
            await exchange(conn)
            server.push(b"last")
            server.disconnect_all()
            assert await conn.receive() == b"last"
            for _ in range(3):
                with pytest.raises(EndOfStream):
                    await conn.receive()


async def test_the_end_wakes_a_reader(wire: Wire) -> None:
    failures: list[BaseException] = []
    with wire.serve() as server:
        async with wire.manager() as manager, wire.ask(manager, server) as conn:
            await exchange(conn)
            async with anyio.create_task_group() as group:
                group.start_soon(outcome, conn.receive(), failures)
                await turns()
                server.disconnect_all()
    assert [type(exc) for exc in failures] == [EndOfStream]


async def test_a_reset_breaks(net: Wire) -> None:
    recorder = Recorder()
    with net.serve() as server:
        async with net.manager(observer=recorder) as manager:
            conn = await net.ask(manager, server)
            await exchange(conn)
            server.reset_all()
            with pytest.raises(BrokenResourceError) as caught:
                await conn.receive()
            assert isinstance(caught.value.__cause__, ConnectionResetError)
            with pytest.raises(BrokenResourceError):
                await conn.send(b"x")
            conn.release()
            assert recorder.reasons() == ["busy"]
            assert manager.stats().open == 0


async def test_a_reset_wakes_a_reader_and_a_writer(net: Wire) -> None:
    failures: list[BaseException] = []
    with net.serve(Deaf(), receive_buffer=4096) as server:
        async with net.manager() as manager:
            conn = await net.ask(manager, server)
            async with anyio.create_task_group() as group:
                group.start_soon(outcome, conn.receive(), failures)
                group.start_soon(outcome, conn.send(bytes(30_000_000)), failures)
                await turns()
                await server.until(lambda server: server.connections == 1)
                server.reset_all()
            conn.discard()
    assert [type(exc) for exc in failures] == [BrokenResourceError] * 2


@pytest.mark.parametrize("back", GIVE_BACK)
async def test_closed_under_a_reader_and_a_writer(net: Wire, back: str) -> None:
    """Another task gives the handle back while two are inside: both end, and it is not reused."""
    failures: list[BaseException] = []
    recorder = Recorder()
    with net.serve(Deaf(), receive_buffer=4096) as server:
        async with net.manager(observer=recorder) as manager:
            conn = await net.ask(manager, server)
            async with anyio.create_task_group() as group:
                group.start_soon(outcome, conn.receive(), failures)
                group.start_soon(outcome, conn.send(bytes(30_000_000)), failures)
                await turns()
                done = GIVE_BACK[back](conn)
                if done is not None:
                    await done
                assert manager.stats().open == 0
    assert [type(exc) for exc in failures] == [ClosedResourceError] * 2
    assert recorder.reasons() == ["busy" if back == "release" else "discarded"]


async def test_the_managers_end_closes_under_a_reader(net: Wire) -> None:
    failures: list[BaseException] = []
    with net.serve(Silent()) as server:
        async with anyio.create_task_group() as group:
            async with net.manager() as manager:
                conn = await net.ask(manager, server)
                group.start_soon(outcome, conn.receive(), failures)
                await turns()
            with pytest.raises(ClosedResourceError):
                await conn.send(b"x")
    assert [type(exc) for exc in failures] == [ClosedResourceError]


async def test_one_reader_and_one_writer(net: Wire) -> None:
    with net.serve(Deaf(), receive_buffer=4096) as server:
        async with net.manager() as manager:
            conn = await net.ask(manager, server)
            async with anyio.create_task_group() as group:
                group.start_soon(conn.receive)
                group.start_soon(conn.send, bytes(30_000_000))
                await turns()
                with pytest.raises(BusyResourceError, match="receiving from"):
                    await conn.receive()
                with pytest.raises(BusyResourceError, match="sending to"):
                    await conn.send(b"x")
                with pytest.raises(BusyResourceError, match="sending to"):
                    await conn.send_eof()
                group.cancel_scope.cancel()
            conn.discard()


async def test_who_lets_others_run_is_still_inside(echo_server: Server) -> None:
    """After many operations in a row a task steps aside; nobody else may slip in and be forgotten."""
    begun: list[int] = []
    async with ConnectionManager() as manager, ask(manager, echo_server) as conn:

        async def read_one_too_many(count: int) -> None:
            begun.append(count)
            for _ in range(count + 1):
                await conn.receive(1)

        for count in range(1, 150):
            await conn.send(b"x" * count)
            select.select([conn.extra(SocketAttribute.raw_socket)], [], [], 5)
            async with anyio.create_task_group() as group:
                group.start_soon(read_one_too_many, count)
                while count not in begun:
                    await turns(1)
                with pytest.raises(BusyResourceError):
                    await conn.receive()
                await conn.send(b"x")


@pytest.mark.parametrize("wrong", [0, -1])
async def test_max_bytes_must_be_positive(net: Wire, wrong: int) -> None:
    with net.serve() as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            with pytest.raises(ValueError, match="max_bytes"):
                await conn.receive(wrong)
            await exchange(conn)


@pytest.mark.parametrize("wrong", ["text", 5, None, [1]])
async def test_only_bytes_are_sent(net: Wire, wrong: Any) -> None:
    with net.serve() as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            with pytest.raises(TypeError):
                await conn.send(wrong)
            rights: list[Any] = [b"bytes", bytearray(b"array"), memoryview(b"views")]
            for right in rights:
                await conn.send(right)
            await echo_rest(conn, 15)


async def echo_rest(conn: Connection, size: int) -> None:
    """Receive what was echoed."""
    got = b""
    while len(got) < size:
        got += await conn.receive()
    assert got == b"bytesarrayviews"


async def test_the_raw_socket_closed_by_its_user(echo_server: Server) -> None:
    async with ConnectionManager() as manager:
        conn = await ask(manager, echo_server)
        conn.extra(SocketAttribute.raw_socket).close()
        with pytest.raises((BrokenResourceError, ClosedResourceError)):
            await conn.send(b"x")
        conn.release()
        assert manager.stats().open == 0
        async with ask(manager, echo_server) as conn:
            await exchange(conn)
