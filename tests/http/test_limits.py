"""Limits of time, where one limit follows another on the same connection or request."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, ConnectionManager, SocketOptions, TCPConnector, http
from keepalive.http import ReadError, ReadTimeout, Timeout, WriteTimeout
from tests.http.kit import Script, silent, url
from tests.support import Server, full_backlog
from tests.support.clocks import brisk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keepalive import Dial, Link
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


async def test_a_continue_that_never_comes_is_not_waited_for_long() -> None:
    script = Script()
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            wish = {"Expect": "100-continue"}
            with anyio.fail_after(10):
                async with http.request(mgr, "POST", url(server), content=b"x", headers=wish) as response:
                    assert await response.read() == b"hello"
            assert mgr.stats().idle == 1
    assert [asked.body for asked in script.asked] == [b"x"]


class OneWay:
    """Opens connections whose sending side can be broken, as a failed renegotiation of TLS leaves them."""

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self._socket: Any = None

    async def connect(self, dial: Dial) -> Link:
        link = await TCPConnector().connect(dial)
        self._socket = link.attributes()[SocketAttribute.raw_socket]()
        if self._at_once:
            self.break_sending()
        return link

    def break_sending(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def content(self) -> AsyncIterator[bytes]:
        yield b"x"
        self.break_sending()
        yield b"y"
        yield b"z"


class AtTheEnd(Script):
    """Answers nothing before the other side ends, and then maybe something; does not close."""

    def __init__(self, answer: bytes) -> None:
        super().__init__({"/": silent})
        self.answer = answer

    def ended(self, peer: Peer) -> None:
        peer.send(self.answer)


@brisk
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"])
async def test_after_sending_breaks_an_answer_is_not_waited_for_long(answer: bytes) -> None:
    """What the peer said before is on its way. If nothing is, the break is the error, whatever the limits."""

    async def ask(content: Any, limit: Timeout | None, way: OneWay) -> None:
        async with ConnectionManager(connectors={"http": way}) as mgr:
            asked = http.request(mgr, "POST", url(server), content=content, timeout=limit)
            if answer:
                async with asked as response:
                    assert (response.status, await response.read()) == (413, b"no!")
            else:
                with pytest.raises(ReadError, match="broke"):
                    await asked
            assert mgr.stats().open == 0

    with Server(AtTheEnd(answer)) as server, anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for limit in (None, Timeout(read=30), Timeout(read=30, write=30), Timeout(total=30)):
                for content in (b"x", bytes(1_000_000)):
                    group.start_soon(ask, content, limit, OneWay(at_once=True))
                way = OneWay(at_once=False)
                group.start_soon(ask, way.content(), limit, way)
