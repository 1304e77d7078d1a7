"""The request as it goes out: checked whole before a byte of it is sent. No I/O.

What may not pass: anything by which two readers of the request could disagree on where it ends or what it
asks for (RFC 9112 11.2): line breaks and control characters anywhere, two lengths, a length and chunks, two
hosts. h11's rules are met or exceeded.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from .errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

__all__ = ("Content", "HeaderInput", "Message", "compose", "header_pairs")

Pair: TypeAlias = tuple[bytes, bytes]
HeaderInput: TypeAlias = "Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]"
Content: TypeAlias = "bytes | bytearray | memoryview | Iterable[bytes] | AsyncIterable[bytes]"

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110 5.6.2
_VALUE = re.compile(rb"(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?").fullmatch  # 5.5
_TARGET = re.compile(rb"[\x21-\x7e]+").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch

SAFE_TO_REPEAT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""The idempotent methods of RFC 9110 9.2.2."""
AT_ONCE = 65536
"""Content up to this size goes out with the head, and the answer is read afterwards."""
BLOCK = 65536
"""Bytes of a file that are read at a time."""
_EXPECT_CONTENT = frozenset({b"POST", b"PUT", b"PATCH"})


@dataclass(eq=False, repr=False, slots=True)
class Message:
    """A request that is ready to be sent.

    :ivar head: all bytes up to the content
    :ivar at_once: head and content, if they are to go out together; else b""
    :ivar body: the content if it is at hand, else b""
    :ivar chunks: what yields the content otherwise
    :ivar length: the announced length of `chunks`; None for the chunked coding
    :ivar keep: whether this request leaves the connection open
    :ivar repeatable: whether it may be sent again if nobody knows whether it was carried out
    :ivar expects: whether it waits for "100 Continue" before its content
    :ivar upgrades: whether it asks for another protocol, by Upgrade
    :ivar target, authority, fields, content: its parts, for protocols that say them otherwise; `content` is
        what is at hand
    :ivar pairs: the same as HTTP/2 has it, once somebody asked for that
    """

    method: bytes
    target: bytes
    authority: bytes
    fields: list[Pair] = field(default_factory=list)
    pairs: list[Pair] | None = None
    head: bytes = b""
    at_once: bytes = b""
    body: bytes = b""
    content: bytes = b""
    chunks: Iterable[bytes] | AsyncIterable[bytes] | None = None
    length: int | None = 0
    keep: bool = True
    repeatable: bool = field(init=False)
    expects: bool = False
    upgrades: bool = False

    def __post_init__(self) -> None:
        self.repeatable = self.method in SAFE_TO_REPEAT


def header_pairs(headers: HeaderInput | None) -> list[Pair]:
    """Bring header fields into bytes; text becomes latin-1, as RFC 9110 5.5 has it.

    :raises InvalidRequest: text that is not latin-1
    :raises TypeError: neither text nor bytes
    """
    if headers is None:
        return []
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(_octets("a header's name", name), _octets("a header's value", value)) for name, value in items]


def _octets(what: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        msg = f"{what} must be str or bytes, not {value!r}"
        raise TypeError(msg)
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} must be latin-1, not {value!r}") from None


def compose(
    method: str | bytes, target: bytes, authority: bytes, headers: Sequence[Pair], content: Content | None
) -> Message:
    """Make a request of its parts.

    Adds Host, Content-Length and Transfer-Encoding where `headers` does not have them; nothing else.

    :raises InvalidRequest: something in it cannot be said in HTTP/1.1, or says two things
    :raises TypeError: a part of the wrong type
    """
    verb = _octets("method", method)
    if not _TOKEN(verb):
        raise InvalidRequest(f"method must be a token, not {method!r}")
    if not _TARGET(target):
        raise InvalidRequest(f"the request target must be visible ASCII without spaces, not {target!r}")
    fields = _Fields(verb, target, authority)
    for name, value in headers:
        fields.add(name, value)
    return fields.finish(content)


def _yields(content: object) -> bool:
    return isinstance(content, (Iterable, AsyncIterable)) and not isinstance(content, str)


def _in_blocks(content: Any) -> Any:
    """Return a file's content in blocks: it would yield lines, of any length. Anything else stays."""
    if not (callable(getattr(content, "read", None)) and callable(getattr(content, "readline", None))):
        return content
    return _read_async(content) if isinstance(content, AsyncIterable) else _read(content)


def _read(file: Any) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


async def _read_async(file: Any) -> AsyncIterator[bytes]:
    while block := await file.read(BLOCK):
        yield block


class _Fields:
    """Gathers header fields, and what they say of the message."""

    def __init__(self, verb: bytes, target: bytes, authority: bytes) -> None:
        self._verb = verb
        self._lines = [b"%b %b HTTP/1.1" % (verb, target)]
        self._authority = authority
        self._host = self._chunked = False
        self._length: int | None = None
        self._message = Message(verb, target, authority)

    def add(self, name: bytes, value: bytes) -> None:
        if not _TOKEN(name):
            raise InvalidRequest(f"a header's name must be a token, not {name!r}")
        if not _VALUE(value):
            raise InvalidRequest(
                f"header {name.decode()} must be free of control characters and outer space, not {value!r}"
            )
        self._lines.append(b"%b: %b" % (name, value))
        self._message.fields.append((name, value))
        check = _SPECIAL.get(len(name))
        if check is not None and name.lower() in check:
            self._note(name.lower(), value)

    def _note(self, name: bytes, value: bytes) -> None:
        message = self._message
        if name == b"host":
            if self._host:
                raise InvalidRequest("a request must have one Host, not two")
            self._host = True
        elif name == b"content-length":
            if self._length is not None or self._chunked or not _LENGTH(value):
                raise InvalidRequest(f"Content-Length must be one number and the only length, not {value!r}")
            self._length = int(value)
        elif name == b"transfer-encoding":
            if self._length is not None or self._chunked or value.lower() != b"chunked":
                raise InvalidRequest(f"Transfer-Encoding must be chunked and the only length, not {value!r}")
            self._chunked = True
        elif name == b"expect":
            message.expects = value.lower() == b"100-continue"
        elif name == b"upgrade":
            message.upgrades = True
        elif b"close" in [option.strip() for option in value.lower().split(b",")]:
            message.keep = False

    def finish(self, content: Content | None) -> Message:
        message = self._message
        if not self._host:
            if not _TARGET(self._authority):
                raise InvalidRequest(f"Host must be visible ASCII without spaces, not {self._authority!r}")
            self._lines.insert(1, b"Host: " + self._authority)
        if content is None:
            self._whole(b"", given=False)
        elif isinstance(content, (bytes, bytearray, memoryview)):
            self._whole(bytes(content), given=True)
        elif _yields(content):
            content = _in_blocks(content)
            message.chunks = cast("AsyncIterable[bytes]", content)  # or a plain one
            message.length = self._length
            message.repeatable = False
            if self._length is None and not self._chunked:
                self._lines.append(b"Transfer-Encoding: chunked")
        else:
            msg = f"content must be bytes or yield bytes, not {content!r}"
            raise TypeError(msg)
        message.head = b"\r\n".join(self._lines) + b"\r\n\r\n"
        if message.chunks is None:
            message.expects = message.expects and len(message.body) > 0
            if not message.expects and len(message.body) <= AT_ONCE:
                message.at_once = message.head + message.body
        return message

    def _whole(self, body: bytes, *, given: bool) -> None:
        message, size = self._message, len(body)
        message.content = body
        if self._chunked:
            message.body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if size else b"0\r\n\r\n"
        else:
            message.body = body
            if self._length is None:
                if given or self._verb in _EXPECT_CONTENT:  # RFC 9110 8.6
                    self._lines.append(b"Content-Length: %d" % size)
                    message.fields.append((b"Content-Length", b"%d" % size))
            elif self._length != size:
                raise InvalidRequest(f"Content-Length is {self._length}, but content has {size} bytes")


_SPECIAL: dict[int, tuple[bytes, ...]] = {}
for _name in (b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"connection"):
    _SPECIAL[len(_name)] = (*_SPECIAL.get(len(_name), ()), _name)
