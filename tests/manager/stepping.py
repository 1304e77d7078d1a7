"""What these tests share: time that tests move, attempts that tests hold up, a cancel at every step."""

from __future__ import annotations

import asyncio
import time
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import pytest
import trio
from anyio import CancelScope
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from keepalive import Observer, TCPConnector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from keepalive import Connection, ConnectionManager, Connector, Dial, Link, Request
    from tests.support import Server

T = TypeVar("T")


# -- time -------------------------------------------------------------------------------------------

REAL_UNIT = 0.01
"""On uvloop, which knows no time but the real one, a test's second is this short."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still unless a test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


_ASYNCIO = pytest.param(("asyncio", {"loop_factory": VirtualLoop}), id="asyncio-virtual")
_TRIO = pytest.param(("trio", {"clock": MockClock()}), id="trio-virtual")
_UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")

timed = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _UVLOOP, _TRIO])
"""For tests about time: virtual on asyncio and trio, short on uvloop."""
virtual = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _TRIO])
"""For tests about long or exact times."""
native = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _UVLOOP])
"""For tests about what only asyncio has."""


def unit() -> float:
    """Return what a test's second is on the running loop."""
    if trio.lowlevel.in_trio_run() or isinstance(asyncio.get_running_loop(), VirtualLoop):
        return 1.0
    return REAL_UNIT


def skip(seconds: float) -> None:
    """Move virtual time in the middle of a step: no timer has rung yet, as after the machine's sleep."""
    if trio.lowlevel.in_trio_run():
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(seconds)
    else:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.now += seconds


async def passing(seconds: float) -> None:
    """Let so many of the test's seconds pass, and what is due by then happen."""
    if unit() == 1.0:
        skip(seconds)
        await turns()
    else:
        await anyio.sleep(seconds * unit())


async def turns(count: int = 20) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await checkpoint()


async def until(happened: Callable[[], bool]) -> None:
    """Turn the loop until something has happened in it."""
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        await checkpoint()


async def until_equal(read: Callable[[], T], wanted: T) -> None:
    """Turn the loop until something has reached a value."""
    await until(lambda: read() == wanted)


# -- a cancel at every step -------------------------------------------------------------------------


@coroutine
def _stepwise(work: Coroutine[Any, Any, T], before: Callable[[int], None]) -> Generator[Any, Any, T]:
    """Run a coroutine, with a call before each of its waits."""
    step, sent, waits = work.send, None, 0
    while True:
        try:
            wanted = step(sent)
        except StopIteration as end:
            result: T = end.value
            return result
        before(waits)
        waits += 1
        step, sent = work.send, None
        try:
            sent = yield wanted
        except BaseException as exc:
            step, sent = work.throw, exc


async def cancelled_at(number: int, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Run some work and cancel it at its wait of that number; False if it did not wait so often."""
    reached = False

    with CancelScope() as scope:

        def before(waits: int) -> None:
            nonlocal reached
            if waits == number:
                reached = True
                scope.cancel()

        await _stepwise(work(), before)
    return reached


async def cancel_everywhere(
    work: Callable[[], Coroutine[Any, Any, object]], check: Callable[[], Awaitable[object]]
) -> int:
    """Run some work again and again, cancelled at its first wait, its second, ...; return how many."""
    number = 0
    while await cancelled_at(number, work):
        await check()
        number += 1
    await check()
    return number


# -- plugs ------------------------------------------------------------------------------------------


class Gate:
    """A connector whose attempts wait until the test opens the gate."""

    def __init__(self, over: Connector | None = None) -> None:
        self.begun = 0
        self.ended = 0
        self._over: Connector = over or TCPConnector()
        self._open = anyio.Event()

    async def connect(self, dial: Dial) -> Link:
        self.begun += 1
        try:
            await self._open.wait()
            return await self._over.connect(dial)
        finally:
            self.ended += 1

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open = anyio.Event()

    @property
    def waiting(self) -> int:
        return self.begun - self.ended


class Notes(Observer):
    """Writes down the names of all transitions, and how many connections were open at most."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.closed_at: list[float] = []
        self.reasons: list[str] = []
        self.connecting = 0
        self.most_connecting = 0

    def opening(self, *_: object) -> None:
        self.events.append("opening")
        self.connecting += 1
        self.most_connecting = max(self.connecting, self.most_connecting)

    def opened(self, *_: object) -> None:
        self.events.append("opened")
        self.connecting -= 1

    def attempt_failed(self, *_: object) -> None:
        self.events.append("attempt_failed")
        self.connecting -= 1

    def attempt_aborted(self, *_: object) -> None:
        self.events.append("attempt_aborted")
        self.connecting -= 1

    def closed(self, *details: object) -> None:
        self.events.append("closed")
        self.closed_at.append(time.monotonic())
        self.reasons.append(str(details[-1]))


# -- use --------------------------------------------------------------------------------------------


def ask(
    mgr: ConnectionManager, server: Server, timeout: float | None = 5.0, *, n: int = 1, **more: Any
) -> Request:
    """Request a connection to a server; another `n` is another key."""
    return mgr.allocate("tcp", server.host, server.port, timeout, for_port=n, **more)


async def take(mgr: ConnectionManager, server: Server, count: int, **more: Any) -> list[Connection]:
    """Get so many connections at once."""
    return [await request for request in [ask(mgr, server, **more) for _ in range(count)]]


async def all_gone(*servers: Server) -> None:
    """Wait until servers have closed their own sockets too, which are this process's as well."""
    for server in servers:
        # The first question makes it accept what still waits in the kernel's queue.
        await server.until(lambda server: not server.connections and not server._peers)


async def exchange(conn: Connection, words: bytes = b"ping") -> None:
    """Send something to an echo server and expect it back, no more and no less."""
    await conn.send(words)
    got = b""
    while len(got) < len(words):
        got += await conn.receive()
    assert got == words


def at_rest(mgr: ConnectionManager) -> bool:
    """Say whether nothing is lent, waiting or under way, and all counts fit each other."""
    now = mgr.stats()
    assert now.open == now.idle + now.lent + now.connecting + now.closing
    assert min(now.open, now.idle, now.lent, now.connecting, now.closing, now.waiting, now.queued) >= 0
    ended = now.immediate + now.deferred + now.new + now.timeouts + now.cancelled
    ended += sum(now.failed.values())
    rest = not (now.lent or now.connecting or now.closing or now.waiting)
    assert not rest or now.requests == ended, now
    return rest


async def all_usable(mgr: ConnectionManager, server: Server, slots: int, **more: Any) -> None:
    """Show that no slot is lost: so many connections can be had at once, used, and given back."""
    conns = await take(mgr, server, slots, **more)
    for conn in conns:
        await exchange(conn)
    assert mgr.stats().lent == slots
    for conn in conns:
        conn.release()
    assert mgr.stats().lent == 0
