"""One HTTP/1.1 GET on a lent connection, and whether that connection may serve another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import httptools

if TYPE_CHECKING:
    from anyio.abc import ByteStream

# Far above what servers send; without a bound a hostile one could send a head without end.
_MAX_HEAD = 256 * 1024


class ProtocolError(Exception):
    """The server's answer is not HTTP/1.1, or is cut short."""


class NoAnswer(ProtocolError):
    """The connection ended before the first byte of an answer.

    On a reused connection that is how a server's own keep-alive limit shows when it strikes just now.
    """


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GET brought; ``keep_for`` is the idle time that the server announced, if any."""

    status: int
    size: int
    reusable: bool
    keep_for: float | None


class _Reader:
    """Follow one answer; the callbacks are httptools' protocol."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head = True
        self._head_size = 0
        self._framed = False
        self._size = 0
        self._keep_for: float | None = None
        self._surplus = False

    def feed(self, data: bytes) -> Answer | None:
        """Take a chunk; gives the answer once it is whole."""
        if self._head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            # Bytes after the end are no part of the answer, but the connection's state is unknown then.
            self._surplus = True
            if self.answer is None:
                raise ProtocolError(f"the answer is not HTTP/1.1: {exc}") from exc
        if self._head and self._head_size > _MAX_HEAD:
            raise ProtocolError(f"the answer's head is longer than {_MAX_HEAD} bytes")
        if self.answer is not None and self._surplus:
            return Answer(self.answer.status, self.answer.size, False, None)
        return self.answer

    def end(self) -> Answer:
        """Take the end of the stream, which also ends an answer that announced no length."""
        if self._head or self._framed:
            raise ProtocolError("the connection ended in the middle of the answer")
        return Answer(self._parser.get_status_code(), self._size, False, None)

    def on_message_begin(self) -> None:
        if self.answer is not None:
            self._surplus = True
        self._head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self._framed = True
        elif name == b"transfer-encoding":
            # Any other coding as the last one lasts until the connection ends (RFC 9112, 6.3).
            self._framed = value.lower().rstrip().endswith(b"chunked")
        elif name == b"keep-alive":
            self._keep_for = _announced_timeout(value)

    def on_headers_complete(self) -> None:
        self._head = False

    def on_body(self, body: bytes) -> None:
        self._size += len(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            self._head, self._framed, self._keep_for = True, False, None  # an interim answer
        elif self.answer is None:
            reusable = self._parser.should_keep_alive()
            self.answer = Answer(status, self._size, reusable, self._keep_for)


def _announced_timeout(value: bytes) -> float | None:
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit():
            return float(number)
    return None


async def exchange(stream: ByteStream, request: bytes) -> Answer:
    """Send a GET and read its whole answer.

    :raises NoAnswer: if the connection ended before the answer began
    :raises ProtocolError: if the answer is malformed or cut short
    """
    reader = _Reader()
    begun = False
    try:
        await stream.send(request)
        while True:
            data = await stream.receive()
            begun = True
            answer = reader.feed(data)
            if answer is not None:
                return answer
    except anyio.EndOfStream:
        if not begun:
            raise NoAnswer("the connection ended without an answer") from None
        return reader.end()
    except anyio.BrokenResourceError as exc:
        if not begun:
            raise NoAnswer("the connection broke without an answer") from exc
        raise ProtocolError("the connection broke in the middle of the answer") from exc
