"""Each time limit has a clock of its own, which begins with its phase."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import httpx2
import pytest

from keepalive import AllocateTimeout, ConnectionManager, Resolution
from keepalive.http import Timeout, request
from keepalive.httpx import Transport
from tests.http.kit import Script, url
from tests.support import Server, full_backlog
from tests.support.clocks import brisk


class Slow:
    """Answers after some time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def resolve(self, host: str) -> Resolution:
        await anyio.sleep(self.seconds)
        return Resolution(("127.0.0.1",), 60.0)


@brisk
async def test_connecting_has_all_its_time_after_a_wait_for_a_place() -> None:
    # heritage pools 2.6.
    with Server(Script()) as server:
        async with ConnectionManager(max_open=1, resolver=Slow(0.3)) as mgr:
            held = await mgr.allocate("http", server.host, server.port)
            async with anyio.create_task_group() as group:

                async def fetch() -> None:
                    limit = Timeout(pool=10, connect=0.6)
                    where = f"http://other.test:{server.port}/"
                    async with request(mgr, "GET", where, timeout=limit) as response:
                        assert response.status == 200

                group.start_soon(fetch)
                await anyio.sleep(0.5)
                await held.aclose()


async def test_connect_zero_means_at_once_and_stops_nobody() -> None:
    with Server(Script()) as server, full_backlog() as deaf:
        async with ConnectionManager(max_open=1) as mgr:
            for limit in (Timeout(connect=0), Timeout(5, connect=0), Timeout(pool=5, connect=0)):
                with anyio.fail_after(3), pytest.raises(AllocateTimeout) as caught:
                    async with request(mgr, "GET", f"http://{deaf.host}:{deaf.port}/", timeout=limit):
                        pass
                assert caught.value.function != "queue"
            async with request(mgr, "GET", url(server)) as response:
                await response.read()
            async with request(mgr, "GET", url(server), timeout=Timeout(connect=0)) as response:
                assert response.from_cache == "immediate"
                await response.read()


async def test_pool_zero_works_while_there_is_room() -> None:
    with Server(Script()) as server:
        async with ConnectionManager(max_open=1) as mgr:
            limit = Timeout(pool=0, connect=5)
            async with mgr.allocate("http", server.host, server.port):
                with pytest.raises(AllocateTimeout) as caught:
                    async with request(mgr, "GET", url(server), timeout=limit):
                        pass
                assert caught.value.function == "queue"
            mgr.evict()
            async with request(mgr, "GET", url(server), timeout=limit) as response:
                assert (response.status, response.from_cache) == (200, None)


@pytest.mark.parametrize("lib", [httpx2, httpx], ids=["httpx2", "httpx"])
async def test_the_same_by_the_transport(lib: Any) -> None:
    with Server(Script()) as server:
        for transport in (lib.AsyncHTTPTransport(), Transport()):
            async with lib.AsyncClient(transport=transport) as client:
                with anyio.fail_after(3), pytest.raises(lib.ConnectTimeout):
                    await client.get(url(server), timeout=lib.Timeout(5, connect=0))
                assert (await client.get(url(server), timeout=lib.Timeout(5, pool=0))).status_code == 200


@pytest.mark.parametrize("wrong", [-1, float("nan"), "1", True, 10**400])
def test_wrong_limits_are_told_when_given(wrong: Any) -> None:
    for name in ("total", "pool", "connect", "read", "write"):
        with pytest.raises((TypeError, ValueError), match=name):
            Timeout(**{name: wrong})
