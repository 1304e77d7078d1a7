"""A Unix stream socket that carries messages, and descriptors beside them."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from keepalive.transport.link import Link

from .core.frames import Frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.poller import Poller

    Done = Callable[[OSError | None], None]

_CHUNK = 65536
# As plain numbers: to reckon with the flags of the standard library takes a microsecond each time.
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_CUT_SHORT = int(socket.MSG_CTRUNC)
_SOCKET, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_SPACE = socket.CMSG_SPACE(64 * 4)


class Channel(Link):
    """One end of the line between a borrower and its agent. Nothing waits in here.

    :ivar descriptors: those that have come, in order; None stands for one that found no place in this process
    """

    minds_room = False

    __slots__ = ("_flushing", "_frames", "_poller", "descriptors", "outbox")

    def __init__(self, sock: socket.socket, poller: Poller, most: int, rest: bytes = b"") -> None:
        super().__init__(sock, poller)
        self._poller = poller
        self._frames = Frames(most)
        self._frames.rest = rest
        self.descriptors: deque[int | None] = deque()
        self.outbox: deque[tuple[bytes, int | None, Done | None]] = deque()
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

    # -- sending --------------------------------------------------------------------------------------

    def post(self, data: bytes, descriptor: int | None = None, done: Done | None = None) -> None:
        """Send a message, now or as soon as there is room. A plain call; a dead peer shows when it is read.

        :param descriptor: goes with it, and must stay open until then
        :param done: called when the descriptor has gone out, with None; or with what prevents it: the message
            is then not sent either
        """
        if self.outbox:
            self.outbox.append((data, descriptor, done))
        else:
            self._deliver(data, descriptor, done)

    def _deliver(self, data: bytes, descriptor: int | None, done: Done | None) -> bool:
        try:
            if descriptor is None:
                sent = self.sock.send(data)
            else:
                rights = (_SOCKET, _RIGHTS, array.array("i", (descriptor,)))
                sent = self.sock.sendmsg((data,), (rights,))
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            if done is not None:
                done(exc)
            return True  # if the peer has gone, what it has is taken back when its end is read
        if sent and done is not None:
            done(None)
        if sent == len(data):
            return True
        self.outbox.appendleft((data[sent:], None if sent else descriptor, None if sent else done))
        if self.writer is None:
            self.writer = self._flushing
            self._poller.mind_room(self, True)
        return False

    def flush(self) -> None:
        """Send what has waited."""
        while self.outbox and self._deliver(*self.outbox.popleft()):
            pass
        if not self.outbox and not self.closed:
            self.writer = None
            self._poller.mind_room(self, False)

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
