"""The chunked transfer coding (RFC 9112 7.1), taken apart. No I/O.

llhttp refuses blanks around chunk extensions, which a recipient has to take (RFC 9112 7.1.1), so chunks are
found here. It still reads the trailers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import BadAnswer
from .head import Headers, HeadLimits, check_lines, parse_trailers

__all__ = ("Chunks",)

MAX_LINE = 16384
"""Bytes that a chunk's size and its extensions may have."""

# Extensions are passed over. Control characters in them are refused: to some a bare CR or LF ends the line.
_EXTENSIONS = rb"[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?"
_FIRST = re.compile(rb"0*([0-9A-Fa-f]{1,16})" + _EXTENSIONS + rb"\r\n").match
_NEXT = re.compile(rb"\r\n0*([0-9A-Fa-f]{1,16})" + _EXTENSIONS + rb"\r\n").match
# What may still become one of these. What cannot is refused at once, for its sender may be waiting.
_FIRST_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]+" + _EXTENSIONS + rb"\r?)?").fullmatch
_NEXT_BEGUN = re.compile(rb"(?:\r(?:\n(?:[0-9A-Fa-f]+" + _EXTENSIONS + rb"\r?)?)?)?").fullmatch


@dataclass(eq=False, repr=False, slots=True)
class Chunks:
    """Content in chunks, and what follows it."""

    _limits: HeadLimits
    done: bool = False  # its end has come
    clean: bool = True  # nothing has come after its end
    trailers: Headers = field(default_factory=Headers)  # the fields after the last chunk, once it is done
    _first: bool = True  # no chunk has begun yet
    _left: int = 0  # bytes of the current chunk
    _trailing: bool = False
    _partial: bytes = b""  # of a chunk's head, or of the trailers

    def receive(self, data: bytes) -> bytes:
        """Take what has come; return the content in it.

        :raises BadAnswer: it is not in chunks, or a limit is broken
        """
        pieces: list[bytes] = []
        at, seen = 0, len(self._partial)
        if seen:
            data = self._partial + data
            self._partial = b""
        while not self._trailing:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
            found = (_FIRST if self._first else _NEXT)(data, at)
            if found is None:
                self._wait(data[at:])
                break
            at = found.end()
            self._left = int(found[1], 16)
            self._first = False
            if not self._left:
                self._trailing = True
                at -= 2  # so that an empty line follows, be there trailers or not
                seen = 0
        if self._trailing:
            self._trail(data[at:], seen)
        return b"".join(pieces)

    def _wait(self, begun: bytes) -> None:
        """Keep what is not yet the whole head of a chunk."""
        if not (_FIRST_BEGUN if self._first else _NEXT_BEGUN)(begun):
            raise BadAnswer(f"the answer's chunks are malformed: where a size should be is {begun[:20]!r}")
        if len(begun) > MAX_LINE:
            raise BadAnswer(f"a chunk's head in the answer is longer than {MAX_LINE} bytes")
        self._partial = begun

    def _trail(self, data: bytes, seen: int) -> None:
        """Take the trailers, once they are there whole."""
        end = data.find(b"\r\n\r\n", max(0, seen - 3)) + 4
        if end < 4:
            self._limits.check(len(data))
            check_lines(data, seen)
            self._partial = data
            return
        self.done = True
        self.clean = end == len(data)
        if end > 4:
            self.trailers = parse_trailers(data[2:end])
            self._limits.check(end, len(self.trailers))
