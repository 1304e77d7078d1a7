"""Three corners that no list names: each needs two rare things at once."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectError, ConnectionManager, ManagerClosed, Observer
from tests.support.inside import driver_of
from tests.support.requests import ask, exchange
from tests.support.waiting import turns, until

from .test_fork import forking, in_child

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive import CloseReason, Key
    from tests.support import Server


@forking
async def test_a_fork_while_an_attempt_knocks_at_a_full_unix_socket(tmp_path: Path) -> None:
    """The child closes its copy of a socket that is no link yet; the parent's attempt goes on."""
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        async with ConnectionManager() as mgr:
            request = mgr.allocate("unix", path, 0, 10)
            reactor = driver_of(mgr).reactor
            await until(lambda: bool(reactor.poller.loose))
            numbers = [sock.fileno() for sock in reactor.poller.loose]

            def childhood() -> None:
                assert reactor.forked
                assert not reactor.poller.loose
                for number in numbers:
                    with pytest.raises(OSError, match="Bad file"):
                        os.fstat(number)

            in_child(childhood)
            taken = listener.accept()[0], listener.accept
            async with request as conn:
                with taken[1]()[0] as peer:
                    peer.send(b"x")
                    assert await conn.receive() == b"x"
                conn.discard()
            taken[0].close()


@forking
async def test_a_handle_collected_in_a_forked_child(echo_server: Server) -> None:
    """The child's collector finds the copy of a lent handle: it says nothing to anybody."""
    async with ConnectionManager() as mgr:
        box: list[Any] = [await ask(mgr, echo_server)]
        box.append(box)  # a cycle: only the collector finds it

        def childhood() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                box.clear()
                gc.collect()

        in_child(childhood)
        conn = box[0]
        box.clear()
        await exchange(conn)
        conn.release()
        assert mgr.stats().idle == 1


class Ending(Observer):
    """Shuts the manager down at the first sign of trouble."""

    mgr: ConnectionManager

    def attempt_failed(self, key: Key, connection_id: int, error: Exception) -> None:
        self.mgr.shutdown()

    def closed(self, key: Key, connection_id: int, reason: CloseReason) -> None:
        self.mgr.shutdown()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_task_that_cannot_be_started_while_an_observer_shuts_down(anyio_backend: object) -> None:
    """asyncio alone lets a task factory fail; then nothing is left of the attempt, and the end is clean."""
    watching = Ending()
    loop = asyncio.get_running_loop()

    def refuse(*_: Any, **__: Any) -> Any:
        raise MemoryError("no task for you")

    async with ConnectionManager(observer=watching) as mgr:
        watching.mgr = mgr
        loop.set_task_factory(refuse)
        try:
            request = mgr.allocate("t", "name.test", 1, 5)
            with pytest.raises(ManagerClosed):
                mgr.allocate("t", "name.test", 1, 5)
        finally:
            loop.set_task_factory(None)
        with pytest.raises((ConnectError, ManagerClosed)):
            await request
        await turns()
        assert mgr.stats().open == 0
        assert mgr.stats().waiting == 0
        with anyio.fail_after(5):
            await mgr.aclose()
