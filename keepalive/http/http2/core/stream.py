"""One request and its answer on a shared connection. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.http.errors import BadAnswer
from keepalive.http.head import AnyHead, Headers
from keepalive.http.reader import DONE, RAW, REMEMBERED, TO_END, Following

from .fields import checked, of_answer, size_of
from .frames import END_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.http.errors import HTTPError
    from keepalive.http.head import HeadLimits

    from .fields import Pair
    from .frames import Frame

    Telling = Callable[[bool], HTTPError]
    """Makes the error of a stream; it is given whether anything of the answer had come."""


class Answer(Following):
    """Follows an answer from fields and content, not from bytes.

    Its state is HEAD until the final head was there; TO_END, or RAW in a tunnel; DONE when all was taken.

    :ivar ended: whether all of it has come, though maybe not been taken yet
    :ivar news: whether there is something to take, be it only a head or the end
    :ivar error: makes the error that ended it, or None
    :ivar left: bytes of announced content that have not come yet; -1 if no length was announced
    """

    __slots__ = ("_content", "_told", "_trailers", "ended", "error", "left", "news")

    def __init__(self, method: bytes, limits: HeadLimits) -> None:
        super().__init__(method, limits=limits)
        self.keep = True
        self.ended = self.news = False
        self.left = -1
        self._told = True  # whether whoever takes this knows the head, if it is there
        self.error: Telling | None = None
        self._trailers = Headers()
        self._content = bytearray()

    @property
    def trailers(self) -> Headers:
        """The fields after the content, complete when DONE."""
        return self._trailers

    def take_head(self, pairs: list[Pair]) -> None:
        """Take note of a head, interim or final.

        :raises BadAnswer: it is malformed, or breaks a limit
        """
        self.began = True
        status, headers, size = of_answer(pairs)
        self.limits.check(size, len(headers))
        if status < 200:
            if status == 101:
                raise BadAnswer("the answer is 101, which HTTP/2 does not have")
            self._interim += 1
            if self._interim > self.limits.interim:
                raise BadAnswer(f"the answer has more than {self.limits.interim} interim answers before it")
            self.interim = (*self.interim[1 - REMEMBERED :], (status, headers))
        else:
            self._told = False
            self.head = AnyHead(status, b"", "2", headers)
            tunnel = self.method == b"CONNECT" and status < 300
            self.state = RAW if tunnel else TO_END
            length = headers.get("content-length") or ""
            if length.isdigit() and not tunnel and self.method != b"HEAD" and status not in (204, 304):
                self.left = int(length)
        self.news = True

    def misfits(self, frame: Frame) -> bool:
        """Say whether content does not fit the length that was announced, which ends the answer."""
        if self.left < 0:
            return False
        size = frame.content
        wrong = size > self.left or (frame.flags & END_STREAM != 0 and 0 <= size < self.left)
        if wrong:
            self.fail(_not_as_long)
        return wrong

    def take_content(self, data: bytes) -> None:
        """Take note of some content."""
        self._content += data
        if self.left > 0:
            self.left -= len(data)
        self.news = True

    def take_trailers(self, pairs: list[Pair]) -> None:
        """Take note of the trailers.

        :raises BadAnswer: they are malformed, or break a limit
        """
        self.limits.check(size_of(pairs), len(pairs))
        self._trailers = checked(pairs)

    def take_end(self) -> None:
        """Take note of the end."""
        if self.left > 0:
            self.fail(_not_as_long)
        self.ended = self.error is None
        self.news = True

    def fail(self, error: Telling) -> None:
        """Take note that no more comes; what has come can still be taken. Harmless after the end."""
        if not self.ended and self.error is None:
            self.error = error
            self.news = True

    def take(self, most: int = 0) -> bytes:
        """Return the content that has come, at most so much of it (0: all).

        :raises HTTPError: there is none, and what ended the answer
        """
        content = self._content
        if most and len(content) > most:
            data = bytes(content[:most])
            del content[:most]
            return data
        if not content and self.error is not None and self._told:
            raise self.error(self.began)
        self._told = True
        self.news = self.error is not None
        if self.ended and self.state is TO_END:
            self.state = DONE
        data = bytes(content)
        content.clear()
        return data


def _not_as_long(began: bool) -> BadAnswer:
    return BadAnswer("the answer's content is not as long as it was announced")


class Stream:
    """A request on its way, and its answer.

    :ivar id: its number on the connection; 0 before it has one
    :ivar pending: content that waits for room in the peer's windows
    :ivar closing: whether that is all of it
    :ivar sent: whether the request is out, whole
    :ivar left: whether nobody cares for it any more
    :ivar window: bytes of content that the peer may send now
    :ivar unread: bytes of content that were read, but not told to the peer yet
    :ivar heard: what the connection had received when it was opened
    :ivar wake_reader, wake_writer: call whoever waits for the answer, or for room to send
    """

    __slots__ = (
        "answer", "closing", "heard", "id", "left", "pending", "queued", "sent", "since", "unread",
        "wake_reader", "wake_writer", "window",
    )  # fmt: skip

    def __init__(self, method: bytes, limits: HeadLimits) -> None:
        self.id = 0
        self.answer = Answer(method, limits)
        self.pending: memoryview = EMPTY
        self.closing = self.sent = self.left = self.queued = False
        self.window = self.unread = self.heard = 0
        self.since = 0.0
        self.wake_reader: Callable[[], object] = nothing
        self.wake_writer: Callable[[], object] = nothing

    def next_piece(self, most: int) -> memoryview:
        """Take so much of what waits to be sent."""
        piece, self.pending = self.pending[:most], self.pending[most:]
        return piece

    @property
    def over(self) -> bool:
        """Whether both sides have said all they had to say."""
        return self.sent and self.answer.ended


def nothing() -> None:
    """Do nothing."""


EMPTY = memoryview(b"")
