"""Limits of time, where one limit follows another on the same connection or request."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import AllocateTimeout, ConnectionManager, SocketOptions, TCPConnector, http
from keepalive.http import ReadTimeout, Timeout, WriteTimeout
from tests.http.kit import Script, silent, url
from tests.support import Server, full_backlog

if TYPE_CHECKING:
    from tests.support import Peer


async def test_no_limit_for_the_pool_is_none_for_connecting() -> None:
    """Who has waited for a place for longer than connecting may take does not connect for ever."""
    with full_backlog() as there, Server(Script()) as server:
        async with ConnectionManager(max_open=1) as mgr:
            held = await mgr.allocate("http", server.host, server.port)
            async with anyio.create_task_group() as group:

                async def ask() -> None:
                    limit = Timeout(connect=0.05)
                    with pytest.raises(AllocateTimeout) as caught, anyio.fail_after(10):
                        await http.request(mgr, "GET", f"http://{there.host}:{there.port}/", timeout=limit)
                    assert caught.value.function == "connect"

                group.start_soon(ask)
                await anyio.sleep(0.2)  # longer than `connect`
                held.release()


async def test_equal_limits_are_told_apart() -> None:
    """They share a scope; what was not sent in time is still a matter of writing, and the rest of reading."""

    class Deaf(Script):
        def opened(self, peer: Peer) -> None:
            peer.pause()

    small = SocketOptions(more=((socket.SOL_SOCKET, socket.SO_SNDBUF, 4096),))
    limit = Timeout(read=0.05, write=0.05)
    with Server(Deaf(), receive_buffer=4096) as deaf, Server(Script({"/": silent})) as mute:
        async with ConnectionManager(connectors={"http": TCPConnector(small)}) as mgr:
            with pytest.raises(WriteTimeout):
                await http.request(mgr, "PUT", url(deaf), content=bytes(65_000), timeout=limit)
            with pytest.raises(ReadTimeout):
                await http.request(mgr, "PUT", url(mute), content=b"x", timeout=limit)
            assert mgr.stats().open == 0


async def test_a_continue_that_never_comes_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepalive.http.wire.CONTINUE_PATIENCE", 0.05)
    script = Script()
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            wish = {"Expect": "100-continue"}
            with anyio.fail_after(10):
                async with http.request(mgr, "POST", url(server), content=b"x", headers=wish) as response:
                    assert await response.read() == b"hello"
            assert mgr.stats().idle == 1
    assert [asked.body for asked in script.asked] == [b"x"]
