"""The deadline of a connection: one time at which whatever waits there gives up."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import Connection, ConnectionManager, TLSConnector
from tests.support import Deaf, Echo, Server, Silent
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    import ssl

    from tests.support import Authority


async def take(mgr: ConnectionManager, server: Server, scheme: str = "tcp") -> Connection:
    return await mgr.allocate(scheme, server.host, server.port, 5, for_addr="localhost")


async def test_a_receive_that_waits_gives_up_and_has_taken_nothing() -> None:
    with Server(Echo()) as server:
        async with ConnectionManager() as mgr, await take(mgr, server) as conn:
            assert conn.deadline == inf
            conn.deadline = conn.time() + 0.03
            with pytest.raises(TimeoutError, match="deadline"):
                await conn.receive()
            assert conn.time() >= conn.deadline
            conn.deadline = inf
            await conn.send(b"hello")
            assert await conn.receive() == b"hello"


async def test_tls_too(ca: Authority, client_context: ssl.SSLContext) -> None:
    with Server(Echo(), tls=ca.server()) as server:
        tls = {"https": TLSConnector(client_context)}
        async with ConnectionManager(connectors=tls) as mgr, await take(mgr, server, "https") as conn:
            conn.deadline = conn.time() + 0.03
            with pytest.raises(TimeoutError):
                await conn.receive_exactly(3)
            conn.deadline = conn.time() + 5
            await conn.send(b"hello")
            assert await conn.receive_until(b"o", 9) == b"hell"


async def test_what_is_there_is_had_however_late() -> None:
    with Server(Echo()) as server:
        async with ConnectionManager() as mgr, await take(mgr, server) as conn:
            await conn.send(b"hello")
            await server.until(lambda server: server.received == 5)
            conn.deadline = conn.time() - 1
            while True:
                try:
                    assert await conn.receive() == b"hello"
                    break
                except TimeoutError:  # not there yet
                    await turns()


async def test_a_send_that_waits_gives_up_and_spoils_the_connection() -> None:
    with Server(Deaf(), receive_buffer=4096) as server:
        async with ConnectionManager() as mgr:
            conn = await take(mgr, server)
            conn.deadline = conn.time() + 0.05
            with pytest.raises(TimeoutError):
                await conn.send(bytes(20_000_000))
            conn.release()
            assert mgr.stats().closed == {"busy": 1}


async def test_later_sooner_and_again() -> None:
    with Server(Silent()) as server:
        async with ConnectionManager() as mgr, await take(mgr, server) as conn:
            for seconds in (0.02, 0.05, 0.01, 0.03, 0.0):
                begun = conn.time()
                conn.deadline = begun + seconds
                with pytest.raises(TimeoutError):
                    await conn.receive()
                assert seconds <= conn.time() - begun < seconds + PATIENCE
            conn.deadline = conn.time() + 60
            with anyio.move_on_after(0.01):
                await conn.receive()
            conn.deadline = conn.time() + 0.01
            with pytest.raises(TimeoutError):
                await conn.receive()


async def test_each_of_many_has_its_own() -> None:
    with Server(Silent()) as server:
        async with ConnectionManager(max_per_host=None) as mgr:
            late: list[int] = []

            async def user(n: int) -> None:
                async with await take(mgr, server) as conn:
                    conn.deadline = start + n * 0.02
                    with pytest.raises(TimeoutError):
                        await conn.receive()
                    late.append(n)

            start = mgr.time() + 0.1
            async with anyio.create_task_group() as group:
                for n in (5, 2, 4, 1, 3):
                    group.start_soon(user, n)
            assert late == [1, 2, 3, 4, 5]


async def test_the_next_user_has_none() -> None:
    with Server(Echo()) as server:
        async with ConnectionManager(max_per_host=1) as mgr:
            async with await take(mgr, server) as conn:
                conn.deadline = conn.time() + 0.02
            assert conn.deadline == inf
            async with await take(mgr, server) as conn:
                assert (conn.uses, conn.deadline) == (2, inf)
                with anyio.move_on_after(0.05) as scope:
                    await conn.receive()
                assert scope.cancelled_caught


async def test_closed_while_somebody_waits_with_a_deadline() -> None:
    with Server(Silent()) as server:
        async with ConnectionManager() as mgr:
            conn = await take(mgr, server)
            conn.deadline = conn.time() + 60

            async def wait() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await conn.receive()

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await turns()
                conn.discard()
