"""Fewer descriptors than peers: nobody is lost for want of one."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import TCPConnector, TLSConnector
from keepalive.multi import EndReason, MultiClient, PeerState
from tests.support import Lines, Server, Silent
from tests.support.clocks import brisk

from .kit import Log

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from keepalive import Dial, Link

CRAWL = """
import json, resource, socket, sys
import anyio
from anyio.lowlevel import checkpoint
from keepalive import Resolution
from keepalive.multi import MultiClient

backend, options, soft, port, count, host, own = json.loads(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

class Hungry:
    async def resolve(self, host):
        with socket.socket(), socket.socket():
            for _ in range(5):
                await checkpoint()
        return Resolution(("127.0.0.1",), 60)

counts, errors = {"success": 0, "failure": 0, "timeout": 0, "disconnected": 0}, {}

async def main():
    over = anyio.Event()

    def success(peer):
        counts["success"] += 1
        peer.close()

    def failure(peer, *why):
        counts["failure"] += 1
        errors[repr(why)] = errors.get(repr(why), 0) + 1

    def timeout(peer):
        counts["timeout"] += 1

    def disconnected(peer):
        counts["disconnected"] += 1
        if counts["disconnected"] == count:
            over.set()

    async with MultiClient(
        on_success=success, on_failure=failure, on_timeout=timeout, on_disconnected=disconnected,
        resolver=Hungry(), **own,
    ) as client:
        for number in range(count):
            client.connect(host.format(number), port)
        with anyio.move_on_after(60):
            await over.wait()

anyio.run(main, backend=backend, backend_options=options)
print(json.dumps([counts, errors]))
"""


async def crawl(
    anyio_backend: tuple[str, dict[str, Any]],
    soft: int,
    port: int,
    count: int,
    host: str = "127.0.0.1",
    **options: Any,
) -> tuple[dict[str, int], dict[str, int]]:
    """Connect to so many targets in a process with so few descriptors; return what was told, and errors."""
    given = json.dumps([*anyio_backend, soft, port, count, host, options])
    done = await anyio.run_process(
        [sys.executable, "-c", CRAWL, given], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE
    )
    counts, errors = json.loads(done.stdout)
    return counts, errors


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("options", [{}, {"max_open": None}, {"max_open": 10_000, "max_connecting": 600}])
async def test_three_thousand_targets_with_256_descriptors(
    anyio_backend: tuple[str, dict[str, Any]], options: dict[str, Any]
) -> None:
    with Server(Silent()) as server:
        counts, errors = await crawl(anyio_backend, 256, server.port, 3000, **options)
    assert errors == {}
    assert counts == {"success": 3000, "failure": 0, "timeout": 0, "disconnected": 3000}


@pytest.mark.parametrize("options", [{}, {"max_open": 10_000}])
async def test_look_ups_that_need_descriptors_too(
    anyio_backend: tuple[str, dict[str, Any]], options: dict[str, Any]
) -> None:
    with Server(Silent()) as server:
        counts, errors = await crawl(anyio_backend, 128, server.port, 400, "h{}.test", **options)
    assert errors == {}
    assert counts == {"success": 400, "failure": 0, "timeout": 0, "disconnected": 400}


@pytest.mark.parametrize("addr", ["127.0.0.1", "localhost"])
async def test_attempt_waits_until_another_connection_ends(
    addr: str, caplog: pytest.LogCaptureFixture
) -> None:
    # heritage tcpmulti 1.14. The server is the kernel: one that accepts has descriptors of its own.
    log = Log()
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        host, port = listener.getsockname()
        async with log.client() as client:
            first = client.connect(host, port)
            await log.connected(first)
            with no_descriptors_left(), caplog.at_level(logging.WARNING, "keepalive"):
                peers = [client.connect(addr, port, connect_timeout=1) for _ in range(3)]
                await anyio.sleep(1.2)  # longer than the time of an attempt: the wait does not count
                assert {log.words(peer) for peer in peers} == {"initialize"}
                first.close()
                await log.connected(peers[0])
                assert peers[0].state is PeerState.CONNECTED
                assert log.words(peers[1]) == "initialize"
                peers[0].close()
                await log.connected(peers[1])
            await log.connected(*peers)  # others have closed something, and nobody tells of that
            *_, last = (stack.enter_context(listener.accept()[0]) for _ in range(4))
            last.sendall(b"alive\n")
            await log.until(lambda: log.inputs(peers[2]) == [b"alive"])
    assert log.count["failure"] == 0
    assert caplog.text.count("no free descriptor") == 1


@brisk
async def test_descriptors_that_never_come_are_told_in_time() -> None:
    log = Log()
    with Server() as server:
        async with log.client() as client:
            with no_descriptors_left():
                peers = [client.connect(server.host, server.port) for _ in range(3)]
                await log.ended(*peers)
            later = client.connect(server.host, server.port)
            await log.connected(later)
    for peer in peers:
        assert log.of(peer)[1][:3] == ("failure", "socket", errno.EMFILE)
        assert "no connection of this client" in log.of(peer)[1][3]
        assert peer.reason is EndReason.FAILURE


@pytest.mark.parametrize("scheme", ["https", "unix", "own"])
async def test_connectors_wait_for_descriptors(
    scheme: str, ca: Any, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    class Own:
        async def connect(self, dial: Dial) -> Link:
            with open(os.devnull, "rb"):  # it needs one of its own
                return await TCPConnector().connect(dial)

    log = Log()
    place: dict[str, Any] = {"path": tmp_path / "s"} if scheme == "unix" else {}
    if scheme == "https":
        place["tls"] = ca.server()
    with Server(Lines(), **place) as server:
        port = 0 if scheme == "unix" else server.port
        connectors = {"https": TLSConnector(client_context), "own": Own()}
        async with log.client(scheme=scheme, connectors=connectors) as client:
            first = client.connect(server.host, port)
            await log.connected(first)
            with no_descriptors_left():
                peer = client.connect(server.host, port)
                given_up = client.connect(server.host, port)
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                assert log.words(peer) == log.words(given_up) == "initialize"
                given_up.close()
                peer.send(b"early")
                first.close()
                await log.ended(first, given_up)
            await log.until(lambda: log.inputs(peer) == [b"EARLY"])
    assert log.words(given_up) == "initialize disconnected"
    assert log.count["failure"] == 0


@pytest.mark.parametrize("end", ["shutdown", "close", "die", "leave"])
async def test_end_of_peers_that_wait_for_a_descriptor(end: str) -> None:
    log = Log()
    with Server(Lines()) as server:
        async with log.client(shutdown_timeout=0.2) as client:
            first = client.connect(server.host, server.port)
            await log.connected(first)
            with no_descriptors_left():
                empty, full = (client.connect(server.host, server.port) for _ in range(2))
                full.send(b"said")
                if end == "shutdown":
                    assert empty.shutdown()
                    assert full.shutdown()
                elif end == "close":
                    assert empty.close()
                    assert full.close()
                elif end == "die":
                    client.die()
                if end != "leave":
                    await log.ended(empty, full)
                assert end == "die" or first.state is PeerState.CONNECTED
    assert log.words(empty) == log.words(full) == "initialize disconnected"
    if end == "shutdown":
        assert (empty.reason, full.reason) == (EndReason.SHUTDOWN, EndReason.CUT)


@pytest.mark.parametrize("scheme", ["tcp", "https"])
async def test_max_open_is_never_exceeded(scheme: str, ca: Any, client_context: ssl.SSLContext) -> None:
    log = Log(on_success=lambda peer: peer.close())
    with Server(Silent(), tls=ca.server() if scheme == "https" else None) as server:
        connectors = {"https": TLSConnector(client_context)}
        async with log.client(max_open=3, scheme=scheme, connectors=connectors) as client:
            assert client.max_open == 3
            peers = [client.connect(server.host, server.port) for _ in range(40)]
            assert client.connecting == 3
            peers[1].close()  # in the middle of an attempt
            peers[-1].close()
            await log.ended(*peers)
        assert server.peak <= 3
    assert log.count["success"] == 38
    assert log.count["failure"] == 0


async def test_connections_hold_their_places() -> None:
    log = Log()
    with Server(Lines()) as server:
        async with log.client(max_open=2, connect_timeout=0.05) as client:
            first, second, third = (client.connect(server.host, server.port) for _ in range(3))
            await log.connected(first, second)
            third.send(b"at last")
            await anyio.sleep(0.1)  # longer than an attempt may take
            assert third.state is PeerState.INITIALISING
            first.shutdown()
            await log.until(lambda: log.inputs(third) == [b"AT LAST"])
            assert first.state is PeerState.CLOSED
            assert second.state is PeerState.CONNECTED


async def test_places_by_default_follow_the_soft_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found: list[float | None] = []
    for limit in (64, 1024):
        client = MultiClient()
        assert client.max_open is None
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            async with client:
                found.append(client.max_open)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [32, 896]
    async with MultiClient(max_open=math.inf) as client:
        assert client.max_open is None


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "7"])
def test_wrong_max_open(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_open"):
        MultiClient(max_open=value)
