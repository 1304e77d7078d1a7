"""Fewer descriptors than peers: nobody is lost for want of one."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import TCPConnector, TLSConnector
from keepalive.multi import EndReason, MultiClient, PeerState
from tests.support import Lines, Server, Silent
from tests.support.nameserver import NameServer, Zone

from .kit import Log

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from keepalive import Dial, Link
    from keepalive.multi import Peer

CRAWL = """
import json, resource, sys
import anyio
from keepalive import DNSResolver
from keepalive.multi import MultiClient

backend, options, soft, port, count, host, nameserver, options_of_client = json.loads(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
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

    if nameserver:
        options_of_client["resolver"] = DNSResolver([nameserver], hosts=None)
    async with MultiClient(
        on_success=success, on_failure=failure, on_timeout=timeout, on_disconnected=disconnected,
        **options_of_client,
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
    nameserver: str = "",
    **options: Any,
) -> tuple[dict[str, int], dict[str, int]]:
    """Connect to so many targets in a process with so few descriptors; return what was told, and errors."""
    given = json.dumps([*anyio_backend, soft, port, count, host, nameserver, options])
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
async def test_names_that_share_their_descriptors_with_connections(
    anyio_backend: tuple[str, dict[str, Any]], options: dict[str, Any]
) -> None:
    zone = Zone({f"h{number}.test": ["60 A 127.0.0.1"] for number in range(400)})
    with Server(Silent()) as server, NameServer(zone) as names:
        counts, errors = await crawl(
            anyio_backend, 128, server.port, 400, "h{}.test", names.address, **options
        )
    assert errors == {}
    assert counts["success"] == 400
