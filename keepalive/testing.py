r"""Helps to test programs that use a manager: fakes, a check of its books, and time that stands still.

    async def test_my_client():
        with FakeConnector() as server:
            async with ConnectionManager(connectors={"redis": server}) as mgr:
                async with mgr.allocate("redis", "db1", 6379) as conn:
                    await conn.send(b"PING\r\n")
                    assert server.peers[0].received() == b"PING\r\n"
                    server.peers[0].send(b"+PONG\r\n")
                    assert await conn.receive() == b"+PONG\r\n"
                check_invariants(mgr)

Nothing here needs a network: connections are socket pairs, names a table.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel

from .pool.invariants import check_pool
from .resolve.resolver import Resolution

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType
    from typing import Self

    from .connect.dial import Dial
    from .manager.manager import ConnectionManager
    from .transport.link import Link

__all__ = ("FakeConnector", "FakePeer", "FakeResolver", "check_invariants", "jump", "run_in_virtual_time")

T = TypeVar("T")
_TURNS = 10


def check_invariants(manager: ConnectionManager) -> None:
    """Count the books of a manager again; for the end of a test, or any moment in it. Not a checkpoint.

    :raises AssertionError: they are not what they should be: a fault of this package
    :raises RuntimeError: not entered yet, or another event loop or thread
    """
    manager.stats()  # takes in what the kernel has, and refuses other threads
    driver = vars(manager)["_driver"]
    check_pool(driver.pool, lowered=driver.pool.capacity.shrunk)


class FakePeer:
    """The other end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._ended = False

    def received(self) -> bytes:
        """Return all that has come since the last call. Never waits."""
        data = b""
        while not self._ended:
            try:
                more = self._sock.recv(65536)
            except BlockingIOError:
                break
            except ConnectionResetError:
                more = b""
            self._ended = not more
            data += more
        return data

    @property
    def ended(self) -> bool:
        """Whether the client has closed the connection, or at least its sending direction."""
        if not self._ended:
            try:
                self._ended = not self._sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                self._ended = True
        return self._ended

    def send(self, data: bytes) -> None:
        """Send something to the client.

        :raises BlockingIOError: the client does not read, and the kernel has no room
        """
        if self._sock.send(data) < len(data):
            raise BlockingIOError

    def close(self) -> None:
        """Close the connection, as a server does when it has had enough."""
        self._sock.close()


class FakeConnector:
    """Opens connections to nowhere; the test plays the server. A context manager, which closes all ends.

    :ivar peers: the other ends, in the order in which they were opened
    :ivar failure: raised by attempts instead of connecting, as long as it is not None
    :ivar gate: attempts wait for this event; replace it by one that is not set to hold them up
    """

    def __init__(self) -> None:
        self.peers: list[FakePeer] = []
        self.failure: Exception | None = None
        self.gate: anyio.Event | None = None

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        ours, theirs = socket.socketpair()
        self.peers.append(FakePeer(theirs))
        return dial.adopt(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for peer in self.peers:
            peer.close()


class FakeResolver:
    """A table of names that can be changed at any time.

    :ivar table: addresses by name in lower case; an exception is raised instead
    :ivar asked: the names that were asked for, in order
    """

    def __init__(self, table: Mapping[str, str | tuple[str, ...] | Exception]) -> None:
        self.table = dict(table)
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Resolution:
        """Answer from the table; nothing is remembered by the manager."""
        self.asked.append(host)
        await anyio.lowlevel.checkpoint()
        found = self.table.get(host, ())
        if isinstance(found, Exception):
            raise found
        return Resolution((found,) if isinstance(found, str) else found)


class _StillLoop(asyncio.SelectorEventLoop):
    """An asyncio loop with a time of its own."""

    now = 1000.0

    def time(self) -> float:
        return self.now


def run_in_virtual_time(main: Callable[..., Awaitable[T]], *args: Any, backend: str = "asyncio") -> T:
    """Run an async function on a loop whose time stands still until `jump` moves it.

    Deadlines, idle times and pauses of managers follow it. Sockets work as ever.

    :param backend: "asyncio" or "trio"
    """
    options: dict[str, Any]
    if backend == "trio":
        import trio.testing

        options = {"clock": trio.testing.MockClock()}
    else:
        options = {"loop_factory": _StillLoop}
    return anyio.run(main, *args, backend=backend, backend_options=options)


async def jump(seconds: float) -> None:
    """Move virtual time on, and let what is due happen. A checkpoint, several times over.

    :raises RuntimeError: time does not stand still here; see `run_in_virtual_time`
    """
    clock = _clock()
    if isinstance(clock, _StillLoop):
        clock.now += seconds
    else:
        clock.jump(seconds)
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()


def _clock() -> Any:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        clock = trio.lowlevel.current_clock()
        if hasattr(clock, "jump"):
            return clock
    else:
        if isinstance(loop, _StillLoop):
            return loop
    msg = "time does not stand still here: use run_in_virtual_time"
    raise RuntimeError(msg)
