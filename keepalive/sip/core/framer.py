"""Messages out of a stream of bytes: incremental, byte-exact, and the same however the stream was cut. Pure.

The rules:

* CR LF before a message is skipped, any number of them, and so are LF and NUL (some phones' sign of life).
  Two CR LFs in a row are a peer's ping, one is the answer to ours (RFC 5626 4.4.1): see `pings` and `pongs`.
* A header ends at the first CR LF CR LF, which must begin at `max_header` bytes or before.
* Content-Length must be there: on streams nothing else says where a message ends (RFC 3261 18.3). Its name is
  "Content-Length" or "l" in any case; repeated ones must be the same text; the number must not be above
  `max_body`, which is found out before the body has come.
* What else is wrong with a message is its own affair (`Head.flaw`): the next one begins where it ends.
* Where that cannot be known nothing more is read (`Framer.flaw`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .head import Flaw, Head, parse_head, read_head

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEEPALIVES: Final = re.compile(rb"(?:\r\n)+|[\n\0]+")
_END: Final = b"\r\n\r\n"


@dataclass(slots=True, eq=False, repr=False)
class Framer:
    """Cuts one stream into messages."""

    max_header: int
    max_body: int
    flaw: Flaw | None = None  # why the stream cannot be read on
    pings: int = 0  # double CR LFs seen and not answered yet; whoever answers sets it to 0
    pongs_due: int = 0  # pings of ours that the peer has not answered yet; whoever sends one adds it
    pongs: int = 0  # answers to them; whoever counts these sets it to 0
    _buffer: bytearray | None = None  # a message begun
    _searched: int = 0  # so far the buffer has no end of header
    _head: Head | None = None  # of a message whose body is not all there
    _size: int = 0  # its size
    _odd_crlf: bool = False  # one CR LF was seen last that answers no ping

    @property
    def started(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._buffer is not None

    def feed(self, data: bytes) -> Sequence[Head]:
        """Take the next bytes of the stream; return the messages that are complete now, in order."""
        if self.flaw is not None:
            return ()
        buffer: bytes | bytearray = data
        if self._buffer is not None:
            self._buffer += data
            buffer = self._buffer
            if len(buffer) < self._size:
                return ()
        found: list[Head] = []
        try:
            rest = self._split(buffer, found)
        except Flaw as flaw:
            self.flaw = flaw
            self._buffer = self._head = None
            return found
        if rest == len(buffer):
            self._buffer = None
        elif self._buffer is None:
            self._buffer = bytearray(buffer[rest:] if rest else buffer)
        elif rest:
            del self._buffer[:rest]
        return found

    def _split(self, buffer: bytes | bytearray, found: list[Head]) -> int:
        """Append complete messages to `found`; return where what is left begins."""
        pos, size = 0, len(buffer)
        while pos < size:
            head = self._head
            if head is None:
                pos = self._skip_keepalives(buffer, pos)
                end = buffer.find(_END, max(pos, pos + self._searched))
                if end < 0:
                    self._check_unfinished(buffer, pos)
                    return pos
                self._searched = 0
                head = self._parse_header(buffer, pos, end)
                self._size = end + 4 - pos + head.length
            stop = pos + self._size
            if stop > size:
                self._head = head
                return pos
            whole = pos == 0 and stop == size and type(buffer) is bytes
            head.raw = bytes(buffer) if whole else bytes(buffer[pos:stop])
            found.append(head)
            self._head, self._size = None, 0
            pos = stop
        return pos

    def _skip_keepalives(self, buffer: bytes | bytearray, pos: int) -> int:
        """Skip signs of life before a message."""
        while pos < len(buffer) and buffer[pos] <= 13 and (found := _KEEPALIVES.match(buffer, pos)):
            if buffer[pos] == 13:
                self._count_crlfs((found.end() - pos) // 2)
            else:
                self._odd_crlf = False
            pos = found.end()
        if buffer[pos : pos + 2] not in (b"", b"\r"):  # the rest of a line's end may be to come
            self._odd_crlf = False
        return pos

    def _count_crlfs(self, count: int) -> None:
        """Take so many CR LFs: each is half a ping, or an answer to one of ours."""
        if self._odd_crlf:
            self.pings += 1
            self._odd_crlf = False
            count -= 1
        answers = min(count, self.pongs_due)
        self.pongs_due -= answers
        self.pongs += answers
        count -= answers
        self.pings += count // 2
        self._odd_crlf = bool(count % 2)

    def _check_unfinished(self, buffer: bytes | bytearray, pos: int) -> None:
        size = len(buffer) - pos
        if size > self.max_header:
            # What may be the beginning of the header's end is not the header's.
            tail = next(n for n in (3, 2, 1, 0) if buffer.endswith(_END[:n]))
            if size - tail > self.max_header:
                raise Flaw("header too big", bytes(buffer[pos : pos + self.max_header]))
        self._searched = max(0, size - 3)

    def _parse_header(self, buffer: bytes | bytearray, pos: int, end: int) -> Head:
        header = bytes(buffer[pos : end + 2])
        if end - pos > self.max_header:
            raise Flaw("header too big", header[: self.max_header])
        try:
            head = read_head(header)
        except Flaw as flaw:
            raise Flaw(flaw.reason, header) from flaw
        if head.length > self.max_body:
            raise Flaw("body too big", header)
        return head


def parse_datagram(data: bytes) -> Head | None:
    """Read a datagram, which is one message whatever its length says; None if it is only a sign of life."""
    skip = len(data) - len(data.lstrip(b"\r\n\0"))
    if len(data) - skip < 13:  # a keep-alive (RFC 5626 4.4 and older ways)
        return None
    end = data.find(_END, skip)
    header = data[skip : end + 2] if end >= 0 else data[skip:]
    try:
        if end < 0:
            raise Flaw("no end of header")
        head = parse_head(header)
        if head.length > len(data) - end - 4:
            raise Flaw("body cut off")
    except Flaw as flaw:
        head = Head(header, flaw=flaw.reason)
    head.raw = data[skip:] if skip else data
    return head
