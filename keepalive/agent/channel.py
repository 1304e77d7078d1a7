"""A Unix stream socket that carries messages, and descriptors beside them."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from keepalive.transport.link import Link

from .core.frames import Frames
from .wire import Descriptors, packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.poller import Poller

    Done = Callable[[OSError | None], None]
    Entry = tuple[bytes, int | None, Done | None]

_CHUNK = 65536
# As plain numbers: to reckon with the flags of the standard library takes a microsecond each time.
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_CUT_SHORT = int(socket.MSG_CTRUNC)
_SOCKET, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_MOST = 64
"""Descriptors in one call."""
_TOGETHER = 8192
"""Bytes after which no further message is put into the same call."""
_SPACE = socket.CMSG_SPACE(_MOST * 4)


class Channel(Link):
    """One end of the line between a borrower and its agent. Nothing waits in here.

    :ivar corked: what is posted waits for `flush`
    :ivar descriptors: those that have come, in order; None stands for one that found no place in this process
    """

    minds_room = False

    __slots__ = ("_flushing", "_frames", "_poller", "corked", "descriptors", "outbox")

    def __init__(self, sock: socket.socket, poller: Poller, most: int, rest: bytes = b"") -> None:
        super().__init__(sock, poller)
        self._poller = poller
        self._frames = Frames(most)
        self._frames.rest = rest
        self.descriptors: deque[int | None] = deque()
        self.outbox: deque[Entry] = deque()
        self.corked = False
        self._flushing = _Flush(self)

    # -- receiving ------------------------------------------------------------------------------------

    def take(self, *, descriptors: bool = False) -> list[bytes] | None:
        """Return the messages that have come, None at the end of the stream. Without the flag nobody's
        descriptors are taken: the kernel closes what a stranger sends.

        :raises OSError: the other side has gone
        :raises TooLong: it breaks the rules
        """  # noqa: D205  # two sentences that belong together
        try:
            data = self._receive_both() if descriptors else self.sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            self.readable = self.hung = False
            return []
        if not data:
            return None
        if len(data) < _CHUNK and not self.hung and not descriptors:
            self.readable = False
        return self._frames.feed(data)

    def _receive_both(self) -> bytes:
        data, ancillary, result, _ = self.sock.recvmsg(_CHUNK, _SPACE, _CLOEXEC)
        for level, kind, content in ancillary:
            if level == _SOCKET and kind == _RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self.descriptors.extend(numbers)
        if result & _CUT_SHORT:
            self.descriptors.append(None)
        return data

    @property
    def unparsed(self) -> bytes:
        """The beginning of a message that has not come to its end."""
        return self._frames.rest

    def expect(self, count: int) -> None:
        """Take note that so many descriptors have come just now; those that found no place stand as None."""
        found = [number for number in self.descriptors if number is not None]
        self.descriptors = deque(found + [None] * (count - len(found)))

    # -- sending --------------------------------------------------------------------------------------

    def post(self, data: bytes, descriptor: int | None = None, done: Done | None = None) -> None:
        """Send a message, now or as soon as there is room. A plain call; a dead peer shows when it is read.

        :param descriptor: goes with it, and must stay open until then
        :param done: called when the descriptor has gone out, with None; or with what prevents it: the message
            is then not sent either
        """
        self.outbox.append((data, descriptor, done))
        if self.writer is None and not self.corked:
            self.flush()

    def flush(self) -> None:
        """Send what has waited: as much as goes into one call together, for each call wakes the peer."""
        self.corked = False
        while self.outbox and self._send_some():
            pass
        if self.closed or bool(self.outbox) == (self.writer is not None):
            return
        self.writer = self._flushing if self.outbox else None
        self._poller.mind_room(self, bool(self.outbox))

    def _send_some(self) -> bool:
        """Send what stands first; False if there is no room for all of it."""
        taken: list[Entry] = []
        descriptors: list[int] = []
        size = 0
        for entry in self.outbox:
            if size > _TOGETHER or len(descriptors) == _MOST:
                break
            taken.append(entry)
            size += len(entry[0])
            if entry[1] is not None:
                descriptors.append(entry[1])
        data = taken[0][0] if len(taken) == 1 else b"".join([entry[0] for entry in taken])
        if len(descriptors) > 1:
            data = packed(Descriptors(len(descriptors))) + data
        try:
            sent = self._send(data, descriptors)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self._refused(taken, exc)
            return True
        for _ in taken:
            self.outbox.popleft()
        if sent < len(data):
            self.outbox.appendleft((data[sent:], None, None))
        for _, _, done in taken:
            if done is not None:
                done(None)
        return sent == len(data)

    def _send(self, data: bytes, descriptors: list[int]) -> int:
        if not descriptors:
            return self.sock.send(data)
        return self.sock.sendmsg((data,), ((_SOCKET, _RIGHTS, array.array("i", descriptors)),))

    def _refused(self, taken: list[Entry], exc: OSError) -> None:
        """Give up what the kernel does not send. If the peer has gone, its end will be read, too."""
        carrying = [entry for entry in taken if entry[1] is not None] or taken
        for entry in carrying:
            self.outbox.remove(entry)
        for _, _, done in carrying:
            if done is not None:
                done(exc)

    def withdraw(self, descriptor: int) -> bool:
        """Take a message that has not begun to go out back, by its descriptor."""
        for entry in self.outbox:
            if entry[1] == descriptor:
                self.outbox.remove(entry)
                return True
        return False

    def close(self) -> None:
        """Close it, and the descriptors that have come and nobody has taken."""
        self.outbox.clear()
        self.writer = None
        while self.descriptors:
            number = self.descriptors.popleft()
            if number is not None:
                os.close(number)
        super().close()


class _Flush:
    """Told by the poller, again and again, that there is room to send."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def done(self) -> bool:
        return False

    def set_result(self, result: None, /) -> None:
        self._channel.flush()
