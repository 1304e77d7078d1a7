"""Messages out of a stream of bytes: incremental, byte-exact, and the same however the stream was cut. Pure.

The rules, which are the ancestor's:

* CR LF before a message is skipped, any number of them. Two in a row are a peer's sign of life
  (RFC 5626 4.4.1); `Framer.pings` counts them for whoever answers.
* A header ends at the first CR LF CR LF, which must begin at `max_header` bytes or before.
* Content-Length must be there: on streams nothing else says where a message ends (RFC 3261 18.3). Its name is
  "Content-Length" or "l" in any case, with no blank before the colon; repeated ones must be the same text;
  the number must not be above `max_body`, which is found out before the body has come.
* After the first flaw nothing more is read: where the next message would begin nobody knows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .head import Flaw, Head, parse_head

if TYPE_CHECKING:
    from collections.abc import Sequence

_CRLFS: Final = re.compile(rb"(?:\r\n)+")
_END: Final = b"\r\n\r\n"


class Framer:
    """Cuts one stream into messages.

    :ivar flaw: why the stream cannot be read on, once that is so
    :ivar pings: double CR LFs seen and not answered yet; whoever answers sets it to 0
    """

    __slots__ = ("_buffer", "_half", "_head", "_max_body", "_max_header", "_need", "_seen", "flaw", "pings")

    def __init__(self, max_header: int, max_body: int) -> None:
        self._max_header = max_header
        self._max_body = max_body
        self._buffer: bytearray | None = None  # a message begun
        self._seen = 0  # so far the buffer has no end of header
        self._head: Head | None = None  # of a message whose body is not all there
        self._need = 0  # its size
        self._half = False  # one CR LF was seen last
        self.flaw: Flaw | None = None
        self.pings = 0

    @property
    def started(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._buffer is not None

    def feed(self, data: bytes) -> Sequence[Head]:
        """Take the next bytes of the stream; return the messages that are complete now, in order."""
        if self.flaw is not None:
            return ()
        buffer: bytes | bytearray
        if self._buffer is None:
            buffer = data
        else:
            self._buffer += data
            buffer = self._buffer
            if len(buffer) < self._need:
                return ()
        found: list[Head] = []
        try:
            rest = self._cut(buffer, found)
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

    def _cut(self, buffer: bytes | bytearray, found: list[Head]) -> int:
        """Append complete messages to `found`; return where what is left begins."""
        pos, size = 0, len(buffer)
        while pos < size:
            head = self._head
            if head is None:
                pos = self._skip(buffer, pos)
                end = buffer.find(_END, max(pos, pos + self._seen))
                if end < 0:
                    self._check_endless(buffer, pos)
                    return pos
                self._seen = 0
                head = self._take_header(buffer, pos, end)
                self._need = end + 4 - pos + head.length
            stop = pos + self._need
            if stop > size:
                self._head = head
                return pos
            whole = pos == 0 and stop == size and type(buffer) is bytes
            head.raw = bytes(buffer) if whole else bytes(buffer[pos:stop])
            found.append(head)
            self._head, self._need = None, 0
            pos = stop
        return pos

    def _skip(self, buffer: bytes | bytearray, pos: int) -> int:
        """Skip CR LFs before a message; refuse any other line end there."""
        if buffer[pos] > 13:
            self._half = False
            return pos
        blank = _CRLFS.match(buffer, pos)
        if blank is not None:
            self.pings, self._half = (
                self.pings + ((blank.end() - pos) // 2 + self._half) // 2,
                bool(((blank.end() - pos) // 2 + self._half) % 2),
            )
            pos = blank.end()
        rest = buffer[pos : pos + 2]
        if rest[:1] == b"\n" or (rest[:1] == b"\r" and len(rest) == 2):
            raise Flaw("line end")
        if rest and rest != b"\r":
            self._half = False
        return pos

    def _check_endless(self, buffer: bytes | bytearray, pos: int) -> None:
        size = len(buffer) - pos
        if size > self._max_header:
            # What may be the beginning of the header's end is not the header's.
            tail = next(n for n in (3, 2, 1, 0) if buffer.endswith(_END[:n]))
            if size - tail > self._max_header:
                raise Flaw("header too big", bytes(buffer[pos : pos + self._max_header]))
        self._seen = max(0, size - 3)

    def _take_header(self, buffer: bytes | bytearray, pos: int, end: int) -> Head:
        header = bytes(buffer[pos : end + 2])
        if end - pos > self._max_header:
            raise Flaw("header too big", header[: self._max_header])
        head = parse_head(header)
        if not head.bare:
            raise Flaw("no content-length", header)
        if head.length > self._max_body:
            raise Flaw("body too big", header)
        return head
