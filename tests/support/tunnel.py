"""A relay in a thread of its own, perhaps with TLS on its own side, perhaps asking where to go first."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl

    from tests.support import Server


class Tunnel:
    """Relay every connection to a server.

    :param asks: the client must first send a line ``CONNECT <port>`` and gets ``OK`` or ``NO``
    """

    def __init__(
        self, target: Server | Tunnel, *, tls: ssl.SSLContext | None = None, asks: bool = False
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0
        self._target = target
        self._tls = tls
        self._asks = asks
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        up: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(up)), name="tunnel")
        self._thread.start()
        up.result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self, up: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._arrived, self.host, 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        up.set_result(None)
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the turn after

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = self._loop.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not await self._agree(reader, writer):
                return
            back_reader, back_writer = await asyncio.open_connection(self._target.host, self._target.port)
            try:
                async with asyncio.TaskGroup() as group:
                    there = group.create_task(pump(reader, back_writer))
                    await pump(back_reader, writer)
                    there.cancel()
            finally:
                back_writer.transport.abort()
        except (OSError, EOFError, ExceptionGroup):
            pass
        finally:
            writer.close()

    async def _agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Say whether this client may go on."""
        if self._asks:
            word, _, number = (await reader.readline()).decode().strip().partition(" ")
            if (word, int(number or 0)) != ("CONNECT", self._target.port):
                writer.write(b"NO\n")
                return False
            writer.write(b"OK\n")
        return True


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Relay one direction to its end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
