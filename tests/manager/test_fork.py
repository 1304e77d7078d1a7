"""Forks and second loops: heritage pools 3.44 and 3.45."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import Connection, ConnectionManager, ManagerClosed, Request, Reuse, TLSConnector
from tests.support import Server, Silent
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange, take
from tests.support.waiting import turns, until

from .test_edges import Hanging

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

# From Python 3.12 on a fork beside threads, here those of the servers, is warned of.
forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

LOOPS = [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]
each_loop = pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop", "trio"])


def in_child(work: Callable[[], object]) -> None:
    """Run something in a forked child, which ends without a word to anybody; fail with its traceback."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        complaint = ""
        try:
            work()
        except BaseException:
            complaint = traceback.format_exc()
        finally:
            os.write(writing, complaint.encode()[-60_000:])
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        complaint = pipe.read()
    assert os.waitpid(child, 0) == (child, 0)
    assert not complaint, complaint


def fresh_loop(work: Callable[[], Any], backend: str) -> None:
    """Run something in a loop of its own, in a thread of its own: this one has the parent's loop still."""
    failures: list[str] = []

    def run() -> None:
        try:
            anyio.run(work, backend=backend)
        except BaseException:
            failures.append(traceback.format_exc())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert not failures, failures[0]


class Family:
    """A manager in every state at once, and what a child and its parent do with it."""

    def __init__(self, mgr: ConnectionManager, echo: Server, tls: Server, mute: Server) -> None:
        self.mgr, self.echo, self.tls, self.mute = mgr, echo, tls, mute
        self.lent: list[Connection] = []
        self.socks: list[socket.socket] = []

    def ask_tls(self, server: Server) -> Request:
        return self.mgr.allocate("https", server.host, server.port, 5, for_addr="localhost")

    async def grow_up(self) -> None:
        self.lent = await take(self.mgr, self.echo, 3)
        self.lent += [await self.ask_tls(self.tls), await self.ask_tls(self.tls)]
        for conn in self.lent:
            await exchange(conn)
            self.socks.append(conn.extra(SocketAttribute.raw_socket))
        self.lent.pop(0).release()
        self.lent.pop().release()
        self.stuck = self.ask_tls(self.mute)
        self.queued = [ask(self.mgr, self.echo) for _ in range(4)]
        await self.mute.until(lambda server: server.received > 200)
        await until(lambda: self.mgr.stats().connecting == 1)

    def be_the_child(self) -> None:
        """Nothing of the parent's is here any more; all calls are clear about it, or harmless."""
        assert [sock.fileno() for sock in self.socks] == [-1] * 5
        now = self.mgr.stats()
        assert (now.open, now.waiting) == (0, 0)
        with pytest.raises(ManagerClosed):
            ask(self.mgr, self.echo)
        for request in (self.stuck, *self.queued):
            assert not request.cancel()
        self.mgr.shutdown()
        assert "closed" in repr(self.mgr)
        self.lent[0].release()
        self.lent[1].discard()
        self.lent.clear()
        del self.stuck, self.queued, request
        gc.collect()

    async def be_independent(self) -> None:
        """Use a manager of the child's own."""
        async with ConnectionManager() as mgr, ask(mgr, self.echo) as conn:
            assert conn.from_cache is None
            await exchange(conn, b"from the child")

    async def be_the_parent(self) -> None:
        """Nothing has happened."""
        for number, conn in enumerate(self.lent):
            await exchange(conn, b"still here %d" % number)
        for request in self.queued:
            async with request as conn:
                await exchange(conn)
        async with self.ask_tls(self.tls) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
            await exchange(conn)
        assert self.stuck.cancel()
        for conn in self.lent:
            conn.release()


@forking
async def test_44_child_and_parent(
    echo_server: Server, tls_server: Server, client_context: ssl.SSLContext, anyio_backend_name: str
) -> None:
    """heritage pools 3.44: urllib3#850, redis-py#234: a child has its own, its parent loses nothing."""
    recorder = Recorder()
    tls = {"https": TLSConnector(client_context)}
    with Server(Silent()) as mute:
        async with ConnectionManager(connectors=tls, observer=recorder) as mgr:
            family = Family(mgr, echo_server, tls_server, mute)
            await family.grow_up()
            open_before = (echo_server.connections, tls_server.connections, mute.connections)
            assert open_before == (4, 2, 1)

            def childhood() -> None:
                family.be_the_child()
                fresh_loop(family.be_independent, anyio_backend_name)

            for _ in range(2):
                received = tls_server.received
                in_child(childhood)
                assert tls_server.received == received  # not even a close_notify
                await turns()
                assert (echo_server.connections, tls_server.connections, mute.connections) == open_before
            await family.be_the_parent()
            assert echo_server.accepted == 4 + 2
            idle = mgr.stats().idle
            echo_server.disconnect_all()
            await until(lambda: recorder.reasons().count("peer") == idle - 2)  # the watch still works
        assert (mute.connections, tls_server.connections) == (0, 0)


@forking
async def test_44_copies_in_a_child_keep_nothing_alive(echo_server: Server) -> None:
    """heritage pools 3.44: psycopg#395: what the parent closes is closed, though a child was born in
    between."""
    reading, writing = os.pipe()
    async with ConnectionManager() as mgr:
        conns = await take(mgr, echo_server, 3)
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent lets go
            os._exit(0)
        os.close(reading)
        try:
            conns[0].release()
            conns[1].discard()
            await echo_server.until(lambda server: server.connections == 2)
            await exchange(conns[2])
            conns[2].release()
            await mgr.aclose()
            await echo_server.until(lambda server: server.connections == 0)
        finally:
            os.close(writing)
            os.waitpid(child, 0)


@forking
@each_loop
def test_44_a_manager_of_a_loop_that_is_over(loop: tuple[str, dict[str, Any]], echo_server: Server) -> None:
    """heritage pools 3.44: redis-py#412: forked outside of any loop, as a pre-forking server does."""
    backend, options = loop
    handles: list[Connection] = []
    managers: list[ConnectionManager] = []

    async def use() -> None:
        async with ConnectionManager() as mgr:
            managers.append(mgr)
            handles.extend(await take(mgr, echo_server, 2))
            handles[-2].release()

    def childhood() -> None:
        handles[1].release()
        anyio.run(use, backend=backend, backend_options=options)
        assert len(handles) == 4

    anyio.run(use, backend=backend, backend_options=options)
    in_child(childhood)
    anyio.run(use, backend=backend, backend_options=options)
    assert (len(managers), echo_server.accepted) == (2, 6)


@each_loop
@pytest.mark.parametrize("second", LOOPS, ids=["then asyncio", "then uvloop", "then trio"])
def test_45_second_run(
    loop: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]], echo_server: Server
) -> None:
    """heritage pools 3.45: httpx#2058: a manager of another loop says so; a new one just works."""
    left: list[Any] = []

    async def first() -> None:
        async with ConnectionManager() as mgr:
            left.append(mgr)
            left.append(await ask(mgr, echo_server))
            left.append(ask(mgr, echo_server))
            await turns()

    async def again() -> None:
        mgr, conn, request = left
        for step in (lambda: ask(mgr, echo_server), mgr.shutdown, lambda: mgr.deallocate(1), request.cancel):
            with pytest.raises(RuntimeError, match="event loop"):
                step()
        with pytest.raises(RuntimeError, match="event loop"):
            await mgr.aclose()
        with pytest.raises(RuntimeError, match="only once"):
            await mgr.__aenter__()
        with pytest.raises(anyio.ClosedResourceError):
            await conn.receive()
        conn.release()
        async with ConnectionManager() as mine, ask(mine, echo_server) as own:
            await exchange(own)

    anyio.run(first, backend=loop[0], backend_options=loop[1])
    anyio.run(again, backend=second[0], backend_options=second[1])
    assert (echo_server.connections, echo_server.accepted) == (0, 3)


@each_loop
def test_45_used_from_another_thread(loop: tuple[str, dict[str, Any]], echo_server: Server) -> None:
    """heritage pools 3.45: httpx#2058: the same from a thread without a loop, and from one with its own."""

    async def main() -> None:
        async with ConnectionManager() as mgr:
            conn = await ask(mgr, echo_server)

            async def elsewhere() -> None:
                steps = (lambda: ask(mgr, echo_server), conn.release, conn.discard, lambda: mgr.free(conn))
                for step in steps:
                    with pytest.raises(RuntimeError, match="event loop"):
                        step()

            fresh_loop(elsewhere, loop[0])
            failures: list[BaseException] = []

            def without_loop() -> None:
                try:
                    ask(mgr, echo_server)
                except RuntimeError as exc:
                    failures.append(exc)

            thread = threading.Thread(target=without_loop)
            thread.start()
            thread.join()
            assert "event loop" in str(failures[0])
            await exchange(conn)
            conn.release()
            assert (mgr.stats().requests, mgr.stats().idle) == (1, 1)

    anyio.run(main, backend=loop[0], backend_options=loop[1])


@forking
@each_loop
def test_44_threads_of_a_resolver(loop: tuple[str, dict[str, Any]]) -> None:
    """heritage pools 3.44: a child's copy of a resolver waits neither for their answers nor for their
    lock."""
    backend, options = loop
    resolver = Hanging(threads=1)

    async def look_up(host: str, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            assert (await resolver.resolve(host)).addresses == ("127.0.0.1",)
            return
        assert not resolver.go.is_set(), "no answer"

    def childhood() -> None:
        resolver.go.set()
        for host in ("a.test", "b.test"):
            anyio.run(look_up, host, 5, backend=backend, backend_options=options)

    try:
        anyio.run(look_up, "a.test", 0.01, backend=backend, backend_options=options)
        with resolver._lock:
            in_child(childhood)
    finally:
        resolver.go.set()
