"""What a peer does to a new connection, before anybody has it, is for its first user to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import EndOfStream

from keepalive import AllocateTimeout, ConnectionManager
from tests.support import Behaviour, Greeting, Peer
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    from keepalive import Dial, Link
    from tests.support import Server
    from tests.support.wires import Wire

BUSY = b"421 too many connections\r\n"


class Refuses(Behaviour):
    """Say so and close, as an overloaded mail server does; or close without a word."""

    def __init__(self, text: bytes = BUSY) -> None:
        self.text = text

    def opened(self, peer: Peer) -> None:
        if self.text:
            peer.send(self.text)
        peer.close()


@pytest.mark.parametrize("text", [BUSY, b""])
async def test_a_server_that_closes_at_once_is_asked_once(net: Wire, text: bytes) -> None:
    """The request is fetched late. No new attempts meanwhile: they would end alike, thousands of times."""
    with net.serve(Refuses(text)) as server:
        async with net.manager() as manager:
            request = net.ask(manager, server, timeout=PATIENCE)
            await server.until(lambda server: server.accepted > 0 and not server.connections)
            await turns(50)
            conn = await request
            assert conn.from_cache is None
            if text:
                assert await conn.receive() == text
            with pytest.raises(EndOfStream):
                await conn.receive()
            conn.release()
            assert manager.stats().closed == {"peer": 1}
        assert server.accepted == 1


@pytest.mark.parametrize("text", [BUSY, b""])
@pytest.mark.parametrize("how", ["cancel", "timeout", "drop"])
async def test_if_nobody_comes_for_it_it_is_closed(net: Wire, text: bytes, how: str) -> None:
    recorder = Recorder()
    with net.serve(Refuses(text)) as server:
        async with net.manager(observer=recorder) as manager:
            held = [net.ask(manager, server, timeout=0.1 if how == "timeout" else PATIENCE)]
            await server.until(lambda server: server.accepted > 0 and not server.connections)
            await turns(50)
            if how == "cancel":
                assert held[0].cancel()
            elif how == "drop":
                held.clear()
            await recorder.until(lambda: "closed" in recorder.names())
            assert recorder.reasons()[0] in ("peer", "unread")
            assert manager.stats().open == 0
            if how == "timeout":
                with pytest.raises(AllocateTimeout):
                    await held[0]
        assert server.accepted == 1


async def test_the_next_in_line_sees_it_too(net: Wire) -> None:
    with net.serve(Refuses()) as server:
        async with net.manager(max_per_host=1) as manager:
            first = net.ask(manager, server, timeout=PATIENCE)
            second = net.ask(manager, server, timeout=PATIENCE)
            await server.until(lambda server: server.accepted > 0 and not server.connections)
            await turns(50)
            first.cancel()
            async with second as conn:
                assert conn.from_cache is None
                assert await conn.receive() == BUSY


async def test_a_greeting_waits_for_its_reader(net: Wire) -> None:
    with net.serve(Greeting(BUSY)) as server:
        async with net.manager() as manager:
            first = net.ask(manager, server, timeout=PATIENCE)
            await server.until(lambda server: server.accepted > 0)
            await turns(50)
            first.cancel()  # a spare one now, idle, with a greeting in it
            async with net.ask(manager, server, fresh=True, timeout=PATIENCE) as conn:
                assert conn.from_cache is None
                assert await conn.receive() == BUSY
        assert server.accepted == 1


async def test_a_reset_before_the_first_use(net: Wire) -> None:
    recorder = Recorder()
    with net.serve() as server:
        async with net.manager(observer=recorder) as manager:
            request = net.ask(manager, server, timeout=PATIENCE)
            await recorder.until(lambda: "opened" in recorder.names())
            server.reset_all()
            await turns(20)
            async with request as conn:
                with pytest.raises((anyio.BrokenResourceError, EndOfStream)):
                    await conn.receive()
            assert manager.stats().open == 0
        assert server.accepted == 1


@pytest.mark.parametrize("wanted", [True, False])
async def test_dead_before_its_attempt_had_ended(wanted: bool, echo_server: Server) -> None:
    """What was told of the socket while a connector was at work is not told again."""
    recorder = Recorder()
    goes_on = anyio.Event()

    async def connect(dial: Dial) -> Link:
        link = await dial.connect_tcp(dial.key.addr, dial.key.port)
        await goes_on.wait()
        return link

    async with ConnectionManager(
        connectors={"http": FunctionConnector(connect)}, observer=recorder
    ) as manager:
        request = ask(manager, echo_server, timeout=PATIENCE)
        await echo_server.until(lambda server: server.accepted == 1)
        echo_server.disconnect_all()
        await turns(20)
        if not wanted:
            request.cancel()
        goes_on.set()
        if wanted:
            async with request as conn:
                with pytest.raises(EndOfStream):
                    await conn.receive()
        await recorder.until(lambda: recorder.reasons() == ["peer"])
        assert manager.stats().open == 0
    assert echo_server.accepted == 1
