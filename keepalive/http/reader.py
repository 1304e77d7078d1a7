"""One answer, from bytes to head and content. No I/O.

Where the message ends is decided here, by RFC 9112 6.3, so that not a byte of what follows it can be taken
for a part of it. `head` reads heads, `chunks` takes the chunked coding apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from .chunks import Chunks
from .errors import BadAnswer, NoAnswer
from .head import BEGINNING, GENEROUS, AnyHead, Head, Headers, HeadLimits, check_lines, parse_head

REMEMBERED = 64
"""So many interim answers are kept, the last ones."""


class State(Enum):
    """Where a reader is."""

    HEAD = "before the end of the head"
    LENGTH = "in content of known length"
    CHUNKED = "in content in chunks"
    TO_END = "in content that ends with the connection"
    DONE = "complete"
    RAW = "another protocol's"


HEAD, LENGTH, CHUNKED, TO_END, DONE, RAW = State


@dataclass(eq=False, repr=False, slots=True)
class Following(ABC):
    """What follows one answer, interim ones before it included."""

    method: bytes
    upgrades: bool = False  # another protocol was asked for
    limits: HeadLimits = GENEROUS
    state: State = HEAD  # until the final head is there; DONE when the content is complete
    head: AnyHead | None = None  # the final one
    began: bool = False  # anything has come
    interim: tuple[tuple[int, Headers], ...] = ()  # status and fields of the last interim answers (1xx)
    failure: BadAnswer | None = None  # what was wrong with content that came with the head
    keep: bool = False  # the peer leaves the connection open; final when DONE
    surplus: bytes = b""  # came after the end of the answer, or first after an upgrade
    _interim: int = 0

    @property
    @abstractmethod
    def trailers(self) -> Headers:
        """The fields after the content, complete when DONE."""


@dataclass(eq=False, repr=False, slots=True)
class Reader(Following):
    """Follows an answer of HTTP/1.1."""

    head: Head | None = None
    left: int = 0  # bytes of announced content that have not come yet
    _partial: bytes = b""
    _chunks: Chunks | None = None

    @property
    def trailers(self) -> Headers:
        """The fields after content in chunks; complete when DONE."""
        return Headers() if self._chunks is None else self._chunks.trailers

    def receive(self, data: bytes) -> bytes:
        """Take what has come; return the content in it.

        :raises BadAnswer: this is no answer, or breaks a limit
        """
        first = self.state is HEAD
        if first:
            self.began = True
            data = self._heads(data)
        state = self.state
        if state is LENGTH:
            left = self.left = self.left - len(data)
            if left > 0:
                return data
            self.state = DONE
            if left:
                self.surplus = data[left:]
                self.keep = False
                return data[:left]
            return data
        if not data or state is HEAD:
            return b""
        if state is CHUNKED:
            try:
                return self._receive_chunks(data)
            except BadAnswer as exc:
                if not first:
                    raise
                self.failure = exc  # the head is good, and whoever waits for it shall have it
                return b""
        if state is TO_END:
            return data
        self.surplus += data
        self.keep = False
        return b""

    def end(self) -> None:
        """Take the end of the stream, which also ends an answer that announced no length.

        :raises NoAnswer: not a byte had come
        :raises BadAnswer: it came in the middle of the answer
        """
        if not self.began:
            raise NoAnswer("the connection ended without an answer")
        if self.state is LENGTH:
            raise BadAnswer(
                f"the connection ended in the middle of the answer, {self.left} bytes before its end"
            )
        if self.state is HEAD or self.state is CHUNKED:
            raise BadAnswer("the connection ended in the middle of the answer")
        self.keep = False
        if self.state is TO_END:
            self.state = DONE

    def _receive_chunks(self, data: bytes) -> bytes:
        chunks = self._chunks
        assert chunks is not None, "made with the state"
        content = chunks.receive(data)
        if chunks.done:
            self.state = DONE
            self.keep = self.keep and chunks.clean
        return content

    def _heads(self, data: bytes) -> bytes:
        """Take heads off the front, up to the final one; return what follows it."""
        seen = len(self._partial)
        if seen:
            data = self._partial + data
            self._partial = b""
        while True:
            end = data.find(b"\r\n\r\n", max(0, seen - 3)) + 4
            if end < 4:
                self._check_partial(data, seen)
                self._partial = data
                return b""
            self.limits.check(end)
            head = parse_head(data[:end])
            self.limits.check(end, len(head.headers))
            data = data[end:]
            if head.status >= 200 or head.status == 101:
                self._frame(head)
                return data
            self._interim += 1
            if self._interim > self.limits.interim:
                raise BadAnswer(f"the answer has more than {self.limits.interim} interim answers before it")
            self.interim = (*self.interim[1 - REMEMBERED :], (head.status, head.headers))
            seen = 0

    def _check_partial(self, data: bytes, seen: int) -> None:
        """Refuse early what cannot become a head, for its sender may wait, or never end."""
        if data[:7] != BEGINNING[: len(data)]:
            raise BadAnswer(f"the answer is not HTTP/1.1: it begins with {data[:20]!r}")
        self.limits.check(len(data))
        check_lines(data, seen)

    def _frame(self, head: Head) -> None:
        """Decide how the content ends (RFC 9112 6.3)."""
        self.head = head
        self.keep = head.keep
        status = head.status
        if status == 101:
            if not self.upgrades:
                raise BadAnswer("the answer is 101, but no other protocol was asked for")
            self.state = RAW
        elif self.method == b"CONNECT" and status < 300:
            self.state = RAW
        elif status == 204 or status == 304 or self.method == b"HEAD":
            self.state = DONE
            if status == 204 and (head.chunked or head.length > 0):
                self.keep = False  # not allowed there; who knows what the peer sends after it
        elif head.chunked:
            self.state = CHUNKED
            self.keep = head.keep and head.version == "1.1"  # RFC 9112 6.1
            self._chunks = Chunks(self.limits)
        elif head.length >= 0:
            self.state = LENGTH
            self.left = head.length
        else:
            self.state = TO_END
            self.keep = False
