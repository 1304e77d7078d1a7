"""Requests for connections to test servers, and what is then done with the connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, KeepaliveError
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, ByteStream, TaskGroup

    from keepalive import Connection, ConnectionManager, Request
    from tests.support.server import Server


def ask(
    mgr: ConnectionManager,
    server: Server,
    timeout: float | None = PATIENCE,
    *,
    scheme: str = "http",
    n: int | None = None,
    **more: Any,
) -> Request:
    """Request a connection to a server; another `n` is another key."""
    return mgr.allocate(scheme, server.host, server.port, timeout, **{"for_port": n, **more})


async def take(mgr: ConnectionManager, server: Server, count: int, **more: Any) -> list[Connection]:
    """Get so many connections at once."""
    return [await request for request in [ask(mgr, server, **more) for _ in range(count)]]


async def warm(mgr: ConnectionManager, server: Server, count: int = 1, **more: Any) -> list[int]:
    """Leave so many new idle connections to a server, the last one the warmest; gives their local ports."""
    conns = [await ask(mgr, server, fresh=True, **more) for _ in range(count)]
    ports: list[int] = [conn.extra(SocketAttribute.local_port) for conn in conns]
    for conn in conns:
        conn.release()
    return ports


async def run_out(mgr: ConnectionManager, server: Server, timeout: float = 0.02) -> AllocateTimeout:
    """Let a request time out; gives its error."""
    try:
        conn = await ask(mgr, server, timeout, fresh=True)
    except AllocateTimeout as exc:
        return exc
    raise AssertionError(f"got {conn!r}")


async def receive_exactly(stream: ByteReceiveStream, size: int) -> bytes:
    """Receive exactly so many bytes."""
    got = bytearray()
    while len(got) < size:
        got += await stream.receive(size - len(got))
    return bytes(got)


async def exchange(stream: ByteStream, data: bytes = b"ping") -> None:
    """Send something to an echo server and expect it back, no more and no less."""
    await stream.send(data)
    got = bytearray()
    while len(got) < len(data):
        got += await stream.receive()
    assert got == data, f"{got[:40]!r} instead of {data[:40]!r}"


async def all_gone(*servers: Server) -> None:
    """Wait until servers have closed their own sockets too, which are this process's as well."""
    for server in servers:
        # The first question makes it accept what still waits in the kernel's queue.
        await server.until(lambda server: not server.connections and not server._peers)


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
