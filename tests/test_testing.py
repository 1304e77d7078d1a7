"""What `keepalive.testing` gives to users' tests."""

from __future__ import annotations

import socket

import anyio
import pytest

from keepalive import ConnectError, ConnectionManager, ResolveError
from keepalive.testing import FakeConnector, FakeResolver, check_invariants, jump, run_in_virtual_time


async def test_a_test_plays_the_server() -> None:
    with FakeConnector() as server:
        async with ConnectionManager(connectors={"t": server}) as mgr:
            async with mgr.allocate("t", "db1", 1) as conn:
                await conn.send(b"PING")
                assert server.peers[0].received() == b"PING"
                server.peers[0].send(b"PONG")
                assert await conn.receive() == b"PONG"
            check_invariants(mgr)
            async with mgr.allocate("t", "db1", 1) as conn:
                assert conn.from_cache == "immediate"
                ended = server.peers[0].ended
                conn.discard()
            assert (ended, server.peers[0].ended) == (False, True)
            assert server.peers[0].received() == b""
            check_invariants(mgr)


async def test_a_server_that_hangs_up_while_idle() -> None:
    with FakeConnector() as server:
        async with ConnectionManager(connectors={"t": server}) as mgr:
            async with mgr.allocate("t", "db1", 1):
                pass
            server.peers[0].close()
            async with mgr.allocate("t", "db1", 1) as conn:
                assert conn.from_cache is None
            assert len(server.peers) == 2


async def test_attempts_fail_and_are_held_up() -> None:
    with FakeConnector() as server:
        async with ConnectionManager(connectors={"t": server}) as mgr:
            server.failure = ConnectionRefusedError(111, "Connection refused")
            with pytest.raises(ConnectError, match="refused"):
                await mgr.allocate("t", "db1", 1)
            server.failure, server.gate = None, anyio.Event()
            request = mgr.allocate("t", "db1", 1)
            await anyio.lowlevel.checkpoint()
            assert mgr.stats().connecting == 1
            check_invariants(mgr)
            server.gate.set()
            async with request:
                assert mgr.stats().lent == 1


async def test_names_from_a_table() -> None:
    resolver = FakeResolver({"gone.test": socket.gaierror(socket.EAI_NONAME, "no such name")})
    async with ConnectionManager(resolver=resolver) as mgr:
        for name in ("gone.test", "unknown.test"):
            with pytest.raises(ResolveError):
                await mgr.allocate("t", name, 1)
    assert resolver.asked == ["gone.test", "unknown.test"]


async def test_invariants_of_a_manager_that_was_not_entered() -> None:
    with pytest.raises(RuntimeError, match="entered"):
        check_invariants(ConnectionManager())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_time_stands_still(backend: str) -> None:
    async def main() -> None:
        with FakeConnector() as server:
            async with ConnectionManager(connectors={"t": server}, keep_alive=60) as mgr:
                async with mgr.allocate("t", "db1", 1):
                    pass
                await jump(59)
                assert mgr.stats().idle == 1
                await jump(2)
                assert mgr.stats().idle == 0
                assert server.peers[0].ended

    run_in_virtual_time(main, backend=backend)


async def test_time_that_goes_on_cannot_be_moved() -> None:
    with pytest.raises(RuntimeError, match="stand still"):
        await jump(1)
