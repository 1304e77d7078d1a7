"""Order, back-pressure, cancellation, and bad input on connections."""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any

import anyio
import pytest

from keepalive.sip import SendError
from tests.sip.kit import Outcomes, dial, leg, port_of, request, response_of, told, until
from tests.support import Server, Silent
from tests.support.waiting import turns


async def test_order_is_kept_through_a_slow_reader() -> None:
    # heritage sip 1.37.
    packets = [request(body=bytes([n]) * 65_000) for n in range(200)]
    async with leg(max_queue=100_000_000) as pool, leg(max_inbox=5) as other:
        outcomes: Outcomes = []
        for n, packet in enumerate(packets):
            pool.send_soon(packet, ("127.0.0.1", port_of(other)), told(outcomes, n))
        await turns(100)
        assert other.stats().inbox < 20  # nothing more is read while nobody takes them
        assert len(outcomes) < 200
        for packet in packets:
            assert (await other.__anext__())[0] == packet
        await until(lambda: len(outcomes) == 200)
        assert outcomes == [(n, None) for n in range(200)]


async def test_attach_gets_what_waited_first() -> None:
    # heritage sip 1.7, 1.11.
    async with leg() as pool, await dial(pool) as peer:
        packets = [request() for _ in range(6)]
        await peer.send(b"".join(packets[:3]))
        await until(lambda: pool.stats().inbox == 3)
        got: list[Any] = []
        pool.attach(lambda packet, _: got.append(packet))
        await peer.send(b"".join(packets[3:5]))
        await until(lambda: len(got) == 5)
        pool.detach()
        await peer.send(packets[5])
        got.append((await pool.__anext__())[0])
        assert got == packets


async def test_queue_has_a_limit() -> None:
    with Server(Silent(), accepting=False) as server:
        async with leg(max_queue=1_000_000) as pool:
            outcomes: Outcomes = []
            for n in range(20):
                pool.send_soon(response_of(500_000), (server.host, server.port), told(outcomes, n))
                await turns(3)
            assert (19, "queue") in outcomes
            assert pool.stats().queued <= 1_000_000
            with pytest.raises(SendError) as caught:
                await pool.send_to(response_of(900_000), (server.host, server.port))
            assert caught.value.error_num == errno.ENOBUFS


async def test_cancelled_send_is_withdrawn_if_nothing_of_it_went_out() -> None:
    with Server(Silent(), accepting=False) as server:
        async with leg() as pool:
            dst = server.host, server.port
            outcomes: Outcomes = []
            for n in range(12):
                pool.send_soon(response_of(1_000_000), dst, told(outcomes, n))
            await turns(20)
            queued = pool.stats().queued
            assert queued
            with anyio.move_on_after(0.02) as scope:
                await pool.send_to(request(), dst)
            assert scope.cancelled_caught
            assert pool.stats().queued == queued


async def test_descriptors_run_short(caplog: pytest.LogCaptureFixture) -> None:
    async with leg() as pool:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        peers = [socket.socket() for _ in range(3)]
        highest = max(peer.fileno() for peer in peers)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        try:
            for peer in peers:
                peer.connect(("127.0.0.1", port_of(pool)))
            await until(lambda: "cannot accept" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        await until(lambda: pool.stats().accepted == 3)
        for peer in peers:
            peer.close()
    assert caplog.text.count("cannot accept") == 1


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "no content-length"),
        (b"OPTIONS sip:x SIP/2.0\nl: 0\n\n" + request(), "line end"),
        (b"x" * 20_000, "header too big"),
        (request().replace(b"Content-Length: 0", b"Content-Length: -5"), "content-length"),
        (request().replace(b"Content-Length: 0", b"Content-Length: 5\r\nl: 6"), "conflicting content-length"),
        (request().replace(b"Content-Length: 0", b"Content-Length: 65537"), "body too big"),
        (os.urandom(5000) + b"\r\n\r\n", None),
    ],
)
async def test_bad_input_ends_the_connection_only(data: bytes, flaw: str | None) -> None:
    async with leg() as pool, await dial(pool) as good, await dial(pool) as bad:
        await bad.send(data)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            while True:
                said = await bad.receive()
                assert said.startswith(b"SIP/2.0 400 ")
        assert pool.stats().closed == {"framing": 1}
        assert flaw is None or pool.stats().flaws == {flaw: 1}
        packet = request()
        await good.send(packet)
        assert (await pool.__anext__())[0] == packet
