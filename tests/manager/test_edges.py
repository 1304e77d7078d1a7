"""Corners that a review found: each was a defect once."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import ConnectionManager, ManagerClosed, RequestCancelled, Reuse, SystemResolver
from tests.support import Server, Silent

if TYPE_CHECKING:
    from keepalive import Connection, Request

pytestmark = pytest.mark.anyio


def ask(mgr: ConnectionManager, server: Server, timeout: float = 5, **more: Any) -> Request:
    return mgr.allocate("tcp", server.host, server.port, timeout, **more)


async def echo(conn: Connection) -> None:
    await conn.send(b"x")
    assert await conn.receive() == b"x"


async def use_once(mgr: ConnectionManager, server: Server) -> None:
    async with ask(mgr, server) as conn:
        await echo(conn)


@pytest.mark.parametrize("end", ["cancel", "shutdown", "leave"])
async def test_served_request_awaited_after_its_end(echo_server: Server, end: str) -> None:
    async with ConnectionManager() as mgr:
        await use_once(mgr, echo_server)
        request = ask(mgr, echo_server)
        if end == "cancel":
            assert request.cancel()
        elif end == "shutdown":
            mgr.shutdown()
    with pytest.raises(RequestCancelled if end == "cancel" else ManagerClosed):
        await request


async def test_dropped_after_use_by_way_of_the_raw_socket(echo_server: Server) -> None:
    async with ConnectionManager(max_per_host=1) as mgr:
        conn = await ask(mgr, echo_server)
        assert conn.extra(SocketAttribute.remote_port) == echo_server.port
        conn.extra(SocketAttribute.raw_socket).send(b"half a request")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del conn
            gc.collect()
        async with ask(mgr, echo_server) as other:
            assert other.from_cache is None
            await echo(other)
        assert mgr.stats().closed == {"dropped": 1}


async def test_fresh_is_not_served_by_a_dead_spare() -> None:
    with Server(Silent()) as server:
        async with ConnectionManager(max_per_host=1) as mgr:
            first = ask(mgr, server)
            assert first.cancel()  # its attempt lives on as a spare and waits idle
            with anyio.fail_after(5):
                while not mgr.stats().idle:
                    await anyio.lowlevel.checkpoint()
            await server.until(lambda s: s.connections == 1)
            request = ask(mgr, server, fresh=True)
            server.disconnect_all()
            conn = await request
            await server.until(lambda s: s.accepted == 2)
            assert conn.from_cache is None
            conn.release()


async def test_request_that_gets_another_connection_than_it_was_promised(echo_server: Server) -> None:
    async with ConnectionManager(max_per_host=2) as mgr:
        kept = await ask(mgr, echo_server)
        await use_once(mgr, echo_server)
        request = ask(mgr, echo_server)  # served at once by the idle one, which then dies
        await echo(kept)
        echo_server.disconnect_all()
        await echo_server.until(lambda s: s.accepted == 3)
        conn = await request
        assert conn.idle_for >= 0
        assert conn.from_cache is not Reuse.IMMEDIATE
        kept.discard()
        conn.release()


class Hanging(SystemResolver):
    """The system's resolver with name servers that do not answer until told to."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.go = threading.Event()
        self.asked: list[str] = []

    def _look_up(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        self.go.wait()
        return ("127.0.0.1",)


async def test_threads_of_the_systems_resolver_are_bounded() -> None:
    resolver = Hanging(threads=2)
    try:
        for host in ("a.test", "b.test", "c.test", "a.test", "a.test"):
            with anyio.move_on_after(0.01):
                await resolver.resolve(host)
        assert sorted(resolver.asked) == ["a.test", "b.test"]
    finally:
        resolver.go.set()
    assert (await resolver.resolve("c.test")).addresses == ("127.0.0.1",)


async def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who wanted it is told; its place among the threads, and the name, are free again."""
    resolver = Hanging(threads=1)
    resolver.go.set()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="can't start new thread"):
                await resolver.resolve("a.test")
    with anyio.fail_after(5):
        assert (await resolver.resolve("a.test")).addresses == ("127.0.0.1",)
    assert resolver.asked == ["a.test"]


async def test_flag_that_is_none(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        with pytest.raises(TypeError, match="fresh"):
            ask(mgr, echo_server, fresh="no")
        assert mgr.stats().keys == {}
