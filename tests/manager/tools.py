"""What the shell's tests share: an observer that remembers and can be waited for, and small exchanges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from keepalive import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteReceiveStream, ByteStream

    from keepalive import CloseReason, ConnectionManager, Dial, Key, Link, Request, Reuse
    from tests.support import Server

PATIENCE = 5.0


class Recorder(Observer):
    """Remember all events, as (name, details...); let tests wait for a state without looking at a clock."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._bells: list[anyio.Event] = []

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        bells, self._bells = self._bells, []
        for bell in bells:
            bell.set()

    def queued(self, key: Key, request_id: int) -> None:
        self._note("queued", key, request_id)

    def opening(self, key: Key, connection_id: int) -> None:
        self._note("opening", key, connection_id)

    def opened(self, key: Key, connection_id: int) -> None:
        self._note("opened", key, connection_id)

    def attempt_failed(self, key: Key, connection_id: int, error: Exception) -> None:
        self._note("attempt_failed", key, connection_id, error)

    def attempt_aborted(self, key: Key, connection_id: int) -> None:
        self._note("attempt_aborted", key, connection_id)

    def lent(self, key: Key, connection_id: int, request_id: int, reuse: Reuse | None, waited: float) -> None:
        self._note("lent", key, connection_id, request_id, reuse, waited)

    def idle(self, key: Key, connection_id: int) -> None:
        self._note("idle", key, connection_id)

    def closed(self, key: Key, connection_id: int, reason: CloseReason) -> None:
        self._note("closed", key, connection_id, reason)

    def failed(self, key: Key, request_id: int, failure: str, phase: str) -> None:
        self._note("failed", key, request_id, failure, phase)

    def cancelled(self, key: Key, request_id: int) -> None:
        self._note("cancelled", key, request_id)

    def names(self) -> list[str]:
        """List the names of all events so far."""
        return [event[0] for event in self.events]

    def reasons(self) -> list[str]:
        """List why connections were closed."""
        return [str(event[3]) for event in self.events if event[0] == "closed"]

    async def until(self, predicate: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until the predicate holds; it is asked again at every event."""
        with anyio.fail_after(patience):
            while not predicate():
                bell = anyio.Event()
                self._bells.append(bell)
                await bell.wait()


class Opener:
    """A connector made of a function."""

    def __init__(self, function: Any) -> None:
        self._function = function

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        link: Link = await self._function(dial)
        return link


def ask(manager: ConnectionManager, server: Server, scheme: str = "t", **more: Any) -> Request:
    """Request a connection to a test server."""
    return manager.allocate(scheme, server.host, server.port, **more)


async def take(stream: ByteReceiveStream, size: int) -> bytes:
    """Receive exactly so many bytes."""
    got = bytearray()
    while len(got) < size:
        got += await stream.receive(size - len(got))
    return bytes(got)


async def echo(stream: ByteStream, data: bytes = b"ping") -> None:
    """Send and get back."""
    await stream.send(data)
    got = await take(stream, len(data))
    assert got == data, f"{got[:40]!r} instead of {data[:40]!r}"


async def turns(count: int = 10) -> None:
    """Let everybody else run for a few turns of the loop."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()
