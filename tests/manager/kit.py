"""What the tests of the ancestor's behaviours share: waiting for states, awaiting in tasks, resolvers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, KeepaliveError, Resolution

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from keepalive import Connection, ConnectionManager, Request
    from tests.support import Server

HOST = "127.0.0.1"
PATIENCE = 5.0


async def until(holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for a state that nothing announces."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, "not reached in time"
        await anyio.sleep(0.002)


def get(mgr: ConnectionManager, server: Server, timeout: float | None = PATIENCE, **more: Any) -> Request:
    """Request a plain connection to a server."""
    return mgr.allocate("http", server.host, server.port, timeout, **more)


async def exchange(conn: Connection, text: bytes = b"ping") -> None:
    """Send to an echoing peer and take back exactly what was sent: nothing else may be in the pipe."""
    await conn.send(text)
    answer = b""
    while len(answer) < len(text):
        answer += await conn.receive()
    assert answer == text


async def warm(mgr: ConnectionManager, server: Server, count: int = 1, **more: Any) -> list[int]:
    """Leave so many new idle connections to a server, the last one the warmest; gives their local ports."""
    conns = [await get(mgr, server, fresh=True, **more) for _ in range(count)]
    ports: list[int] = [conn.extra(SocketAttribute.local_port) for conn in conns]
    for conn in conns:
        conn.release()
    return ports


async def run_out(mgr: ConnectionManager, server: Server, timeout: float = 0.02) -> AllocateTimeout:
    """Let a request time out; gives its error."""
    try:
        conn = await get(mgr, server, timeout, fresh=True)
    except AllocateTimeout as exc:
        return exc
    raise AssertionError(f"got {conn!r}")


class Awaited:
    """A request that a task of its own awaits."""

    def __init__(self, group: TaskGroup, request: Request) -> None:
        self.request = request
        self.done = anyio.Event()
        self.answers = 0
        self._conn: Connection | None = None
        self._error: KeepaliveError | None = None
        group.start_soon(self._run)

    async def _run(self) -> None:
        try:
            self._conn = await self.request
        except KeepaliveError as exc:
            self._error = exc
        self.answers += 1
        self.done.set()

    async def connection(self) -> Connection:
        """Return what the request was served with."""
        with anyio.fail_after(PATIENCE):
            await self.done.wait()
        assert self._conn is not None, f"failed: {self._error!r}"
        return self._conn

    async def error(self) -> KeepaliveError:
        """Return what the request failed with."""
        with anyio.fail_after(PATIENCE):
            await self.done.wait()
        assert self._error is not None, f"got {self._conn!r}"
        return self._error


class Table:
    """A resolver with a fixed table; a name that is not in it does not exist."""

    def __init__(self, **table: str) -> None:
        self.table = table
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Resolution:
        self.asked.append(host)
        if host not in self.table:
            raise OSError(f"no such name: {host}")
        return Resolution(tuple(self.table[host].split()))


class Gated:
    """A resolver that answers when it is told to, always the loopback address unless told to fail.

    :param stubborn: when cancelled, answer all the same
    """

    def __init__(self, *, stubborn: bool = False) -> None:
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.cancelled: list[str] = []
        self.failure: Exception | None = None
        self.gate = anyio.Event()
        self._stubborn = stubborn

    async def resolve(self, host: str) -> Resolution:
        self.asked.append(host)
        try:
            await self.gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(host)
            if not self._stubborn:
                raise
        self.answered.append(host)
        if self.failure is not None:
            raise self.failure
        return Resolution((HOST,))

    def open(self, failure: Exception | None = None) -> None:
        """Let all who have asked go on, and who will."""
        self.failure = failure
        self.gate.set()


class Context:
    """Something that a request carries along and that can be weakly referenced."""
