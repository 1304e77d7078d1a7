"""What comes, cut into frames before h2 sees them, and a budget for frames that bring nothing. No I/O.

h2 ends a connection at the first GOAWAY, whatever is still under way (RFC 9113 6.8 goes on), answers each
frame that comes late for a stream that was reset, and counts nothing. So frames are looked at first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keepalive.http.errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA, HEADERS, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 4, 7, 9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
FRAME_HEAD = 9
MAX_FRAME = 16384
"""Bytes that a frame may carry, unless we say otherwise (RFC 9113 4.2); we do not."""

BURST = 2000.0
PER_SECOND = 200.0


class Frame(NamedTuple):
    """One whole frame."""

    kind: int
    flags: int
    stream_id: int
    raw: bytes

    @property
    def size(self) -> int:
        """Bytes that it carries."""
        return len(self.raw) - FRAME_HEAD

    @property
    def content(self) -> int:
        """Bytes of content in it, without padding; less than 0 if that is malformed."""
        return self.size - (1 + self.raw[FRAME_HEAD] if self.flags & PADDED and self.size else 0)


class Scanner:
    """Cuts bytes into frames.

    :param block: bytes that the compressed fields of one message may have
    """

    __slots__ = ("_began", "_block", "_limit", "_rest", "within")

    def __init__(self, block: int) -> None:
        self._limit = block
        self._block = 0
        self._rest = b""
        self._began = False
        self.within = False  # whether only CONTINUATION may come next

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole now.

        :raises BadAnswer: this is not HTTP/2, or a frame or a block of fields is too long
        """
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        try:
            while end - at >= FRAME_HEAD:
                size = int.from_bytes(data[at : at + 3], "big")
                kind, flags = data[at + 3], data[at + 4]
                if not self._began:
                    self._begin(data, kind, flags)
                if size > MAX_FRAME:
                    raise BadAnswer(f"the peer sent a frame of {size} bytes, and {MAX_FRAME} are allowed")
                stop = at + FRAME_HEAD + size
                if stop > end:
                    break
                stream_id = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
                if kind in (HEADERS, CONTINUATION):
                    self._count(kind, flags, size)
                raw = data[at:stop]
                at = stop
                yield Frame(kind, flags, stream_id, raw)
        finally:
            self._rest = data[at:]
        if self._rest and not self._began and (self._rest[0] or self._rest[3:4] not in (b"", b"\x04")):
            self._begin(data, -1, 0)  # it cannot become one: its sender may be waiting for us

    def _begin(self, data: bytes, kind: int, flags: int) -> None:
        """Check the server's preface, a SETTINGS frame (RFC 9113 3.4)."""
        if kind != SETTINGS or flags & ACK:
            raise BadAnswer(f"the peer does not speak HTTP/2: it begins with {data[:24]!r}")
        self._began = True

    def _count(self, kind: int, flags: int, size: int) -> None:
        self._block = size if kind == HEADERS else self._block + size
        self.within = not flags & END_HEADERS
        if self._block > self._limit:
            raise BadAnswer(f"the answer's head is longer than {self._limit} bytes, or its trailers are")


class Budget:
    """How many frames that bring nothing the peer may send: so many at once, more as time goes by.

    What brings something, or what we send ourselves and gets an answer, earns more.
    """

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = BURST
        self._at = 0.0

    def earn(self, count: float) -> None:
        """Allow so many more, up to the most at once."""
        left = self._left + count
        self._left = min(BURST, left)

    def spend(self, now: float) -> None:
        """Take note of one.

        :raises BadAnswer: it is one too many
        """
        if self._left < 1:
            self.earn((now - self._at) * PER_SECOND)
            self._at = now
            if self._left < 1:
                raise BadAnswer("the peer floods the connection with frames that bring nothing")
        self._left -= 1
