"""A transport that made its own manager, in one event loop after the other, and in forked workers."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import httpx2
import pytest

from keepalive import ConnectionManager
from keepalive.httpx import Transport
from tests.http.kit import Script, url
from tests.manager.test_fork import forking, fresh_loop, in_child
from tests.support import Server

LIBRARIES: list[Any] = [httpx2, httpx]
LOOPS = [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]


@pytest.mark.parametrize("first", LOOPS, ids=["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("second", LOOPS, ids=["then asyncio", "then uvloop", "then trio"])
def test_it_starts_afresh_in_a_second_loop(first: tuple[str, Any], second: tuple[str, Any]) -> None:
    """What was left open in a loop that has ended is closed then."""
    with Server(Script()) as server:
        transport = Transport()
        client = httpx2.AsyncClient(transport=transport)

        async def use() -> None:
            for _ in range(2):
                assert (await client.get(url(server))).text == "hello"

        async def use_and_close() -> None:
            await use()
            assert server.connections == 1
            await client.aclose()

        anyio.run(use, backend=first[0], backend_options=first[1])
        anyio.run(use, backend=first[0], backend_options=first[1])
        anyio.run(use_and_close, backend=second[0], backend_options=second[1])
        assert (server.accepted, server.connections) == (3, 0)


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop", "trio"])
def test_it_is_closed_in_a_loop_that_never_used_it(loop: tuple[str, Any]) -> None:
    with Server(Script()) as server:
        transport = Transport()

        async def use() -> None:
            async with httpx2.AsyncClient(transport=transport) as client, client.stream("GET", url(server)):
                await anyio.lowlevel.checkpoint()
            await transport.handle_async_request(httpx2.Request("GET", url(server)))

        anyio.run(use, backend=loop[0], backend_options=loop[1])
        anyio.run(transport.aclose, backend=loop[0], backend_options=loop[1])
        assert server.connections == 0


async def test_loops_in_two_threads_have_their_own_connections() -> None:
    with Server(Script()) as server:
        transport = Transport()

        async def use() -> None:
            for _ in range(2):
                await transport.handle_async_request(httpx2.Request("GET", url(server)))

        await use()

        async def elsewhere() -> None:
            await use()
            await transport.aclose()

        await anyio.to_thread.run_sync(anyio.run, elsewhere)
        assert server.connections == 1
        await use()
        await transport.aclose()
        assert (server.accepted, server.connections) == (2, 0)


@forking
@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop", "trio"])
def test_it_starts_afresh_in_a_forked_worker(loop: tuple[str, Any]) -> None:
    """gunicorn and Celery fork after the application, with its clients, has been imported and tried."""
    with Server(Script()) as server:
        transport = Transport()

        async def use() -> None:
            response = await transport.handle_async_request(httpx2.Request("GET", url(server)))
            assert await response.aread() == b"hello"

        async def use_and_close() -> None:
            await use()
            await transport.aclose()

        async def parent() -> None:
            await use()
            in_child(lambda: fresh_loop(use_and_close, loop[0]))
            await use_and_close()

        anyio.run(parent, backend=loop[0], backend_options=loop[1])
        assert server.accepted == 2


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_a_closed_manager_is_told_in_the_librarys_words(lib: Any) -> None:
    with Server(Script()) as server:
        async with ConnectionManager() as mgr:
            pass
        async with lib.AsyncClient(transport=Transport(mgr)) as client:
            with pytest.raises(lib.TransportError, match="shut down"):
                await client.get(url(server))
