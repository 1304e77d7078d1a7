"""The origin server of ``keepalive demo``: some hosts on loopback that count their connections."""

from __future__ import annotations

import select
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
# POLLRDHUP is Linux's; elsewhere a client's end is seen a little later, when it is read.
_HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Origin:
    """Hosts that answer every request, each on a port of its own.

    :ivar peaks: the most connections that were open at once, by port
    :ivar peak: the same over all ports
    :ivar accepted: the connections accepted in all
    """

    def __init__(self, *, setup_delay: float, service_time: tuple[float, float], rng: random.Random) -> None:
        self.peaks: dict[int, int] = {}
        self.peak = 0
        self.accepted = 0
        self._setup_delay = setup_delay
        self._service_time = service_time
        self._rng = rng
        self._open: dict[int, int] = {}  # descriptor -> port

    @property
    def ports(self) -> tuple[int, ...]:
        """One port for each host."""
        return tuple(self.peaks)

    def reset(self) -> None:
        """Count anew."""
        self.peaks = dict.fromkeys(self.peaks, 0)
        self.peak = self.accepted = 0

    @asynccontextmanager
    async def serving(self, hosts: int) -> AsyncIterator[None]:
        """Listen while the block lasts."""
        async with AsyncExitStack() as stack:
            listeners = []
            for _ in range(hosts):
                listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
                listeners.append(await stack.enter_async_context(listener))
                self.peaks[listener.extra(SocketAttribute.local_port)] = 0
            # After the listeners, so that it ends before they are closed.
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            for listener in listeners:
                group.start_soon(listener.serve, self._serve)
            yield

    async def _serve(self, stream: SocketStream) -> None:
        number = stream.extra(SocketAttribute.raw_socket).fileno()
        try:
            self._count(number, stream.extra(SocketAttribute.local_port))
            await self._answer(stream)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            pass  # the client has ended it
        finally:
            self._open.pop(number, None)
            await anyio.aclose_forcefully(stream)

    async def _answer(self, stream: SocketStream) -> None:
        requests = BufferedByteReceiveStream(stream)
        delay = self._setup_delay
        while True:
            await requests.receive_until(b"\r\n\r\n", 65536)
            await anyio.sleep(delay + self._rng.uniform(*self._service_time))
            await stream.send(_ANSWER)
            delay = 0.0

    def _count(self, number: int, port: int) -> None:
        # A client closes one connection before it opens the next, but both may be reported in one turn of
        # the loop, in any order. So ask the kernel who has gone already.
        poll = select.poll()
        for known in self._open:
            poll.register(known, _HANG_UP)
        for gone, _ in poll.poll(0):
            del self._open[gone]
        self._open[number] = port
        self.accepted += 1
        here = sum(other == port for other in self._open.values())
        self.peaks[port] = max(self.peaks[port], here)
        self.peak = max(self.peak, len(self._open))
