"""The chunked transfer coding (RFC 9112 7.1), taken apart by llhttp. No I/O."""

from __future__ import annotations

import httptools

from .errors import BadAnswer
from .head import MAX_FIELDS, Headers

__all__ = ("Chunks",)

MAX_QUIET = 65536
"""Bytes that may come without content: a chunk's extensions, or trailers."""
_PRIME = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Chunks:
    """Content in chunks, and what follows it.

    :ivar done: whether its end has come
    :ivar clean: whether nothing has come after its end
    """

    __slots__ = ("_fields", "_parser", "_pieces", "_quiet", "_tail", "clean", "done")

    def __init__(self) -> None:
        self.done = False
        self.clean = True
        self._pieces: list[bytes] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self._quiet = 0
        self._tail = b""
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(_PRIME)
        self._parser: httptools.HttpResponseParser | None = parser
        self._fields.clear()

    @property
    def trailers(self) -> Headers:
        """The fields after the last chunk."""
        return Headers(self._fields)

    def receive(self, data: bytes) -> bytes:
        """Take what has come; return the content in it.

        :raises BadAnswer: it is not in chunks, or a limit is broken
        """
        assert self._parser is not None, "fed after its end"
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if not self.done:
                raise BadAnswer(f"the answer's chunks are malformed: {exc}") from exc
            self.clean = False
        if self.done:
            self._parser = None  # it knows this object, and this object it: a circle
            # llhttp passes over empty lines between messages; here they are something after the end.
            end = (self._tail + data)[-5:]
            self.clean = self.clean and end[-4:] == b"\r\n\r\n" and end[0] not in b"\r\n"
        elif self._quiet > MAX_QUIET + len(data):
            raise BadAnswer(f"the answer's trailers, or a chunk's head, are longer than {MAX_QUIET} bytes")
        if len(self._fields) > MAX_FIELDS:
            raise BadAnswer(f"the answer has more than {MAX_FIELDS} trailers")
        self._tail = data[-4:] if len(data) > 3 else (self._tail + data)[-4:]
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content

    # -- httptools' callbacks -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.done:
            self.clean = False  # something follows the end

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.done:  # llhttp reads on, into what follows
            self._fields.append((name, value.rstrip(b" \t")))

    def on_chunk_header(self) -> None:
        self._quiet = 0

    def on_body(self, body: bytes) -> None:
        self._quiet = 0
        if not self.done:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self.done = True
