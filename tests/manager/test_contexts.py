"""Context variables: a manager outlives the requests that start its work and keeps none of their contexts."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectionManager, TLSConnector
from tests.support import Server
from tests.support.requests import exchange

if TYPE_CHECKING:
    from ssl import SSLContext

    from tests.support import Authority

_mark: ContextVar[Mark] = ContextVar("mark")


class Mark:
    """What a request's task keeps in its context: a web framework's request object, say."""


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("over", [True, False], ids=["idle", "lent to another"])
async def test_a_request_s_context_is_collected_while_its_connection_lives(
    scheme: str, over: bool, ca: Authority, client_context: SSLContext
) -> None:
    """Timers, watches and tasks that its request begins live on: for keep-alive, for dead sockets."""
    with Server(tls=ca.server() if scheme == "https" else None) as server:
        connectors = {"https": TLSConnector(client_context)}
        async with ConnectionManager(connectors=connectors, max_lifetime=60) as mgr:
            seen: list[weakref.ref[Mark]] = []

            async def ask() -> None:
                mark = Mark()
                seen.append(weakref.ref(mark))
                _mark.set(mark)
                async with mgr.allocate(scheme, "localhost", server.port) as conn:
                    await exchange(conn)
                    # Whoever waits at the limit arms more timers still.
                    with anyio.move_on_after(0.01):
                        await conn.receive()

            async with anyio.create_task_group() as group:
                group.start_soon(ask)
            lent = None if over else await mgr.allocate(scheme, "localhost", server.port)
            gc.collect()
            assert seen[0]() is None
            assert mgr.stats().open == 1
            if lent is not None:
                await exchange(lent)
                lent.release()


async def test_a_request_s_context_is_collected_though_it_opened_the_manager(echo_server: Server) -> None:
    """A client's transport opens its manager at the first request; what watches sockets lives as long."""
    mgr = ConnectionManager()
    seen: list[weakref.ref[Mark]] = []

    async def ask() -> None:
        mark = Mark()
        seen.append(weakref.ref(mark))
        _mark.set(mark)
        await mgr.__aenter__()
        async with mgr.allocate("http", "localhost", echo_server.port) as conn:
            await exchange(conn)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
    gc.collect()
    assert seen[0]() is None
    assert mgr.stats().idle == 1
    await mgr.aclose()
