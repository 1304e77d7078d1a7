"""The head of an answer, from bytes to meaning. Pure: the same bytes, the same head.

llhttp (by httptools) reads it, and is strict: it refuses bare CR or LF, control characters, a length twice or
beside Transfer-Encoding. Refused here: any transfer coding but "chunked", versions other than 1.0 and 1.1 and
other protocols of its family, control characters in the reason. Folded lines are unfolded first (RFC 9112
5.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

try:
    import httptools
except ModuleNotFoundError as exc:
    if exc.name != "httptools":
        raise  # it is there, and misses something itself
    msg = "keepalive.http needs httptools; install it with: pip install 'keepalive-manager[http]'"
    raise ModuleNotFoundError(msg, name="httptools") from None

from .errors import BadAnswer

BEGINNING = b"HTTP/1."
MOST = 2**31 - 1

# Blanks before it may stay: they are blanks within the value.
_FOLD = re.compile(rb"\r\n[ \t]+").sub
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
# The lengths of "connection", "keep-alive", "content-length", "transfer-encoding": a quick first sieve.
_TELLING = frozenset({10, 14, 17})


class Headers(tuple[tuple[bytes, bytes], ...]):
    """Header fields as they came: pairs of bytes, in order, names as the peer wrote them."""

    __slots__ = ()

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the value of a field, several joined by commas (RFC 9110 5.3), or the default."""
        found = self.get_all(name)
        return ", ".join(found) if found else default

    def get_all(self, name: str) -> list[str]:
        """Return all values of a field, as text of latin-1."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self if key.lower() == wanted]


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What heads of answers, and trailers, may come to; more is a `BadAnswer`.

    :ivar size: bytes in one head; each interim answer (1xx) is measured alone
    :ivar fields: fields in one head; None for any number
    :ivar interim: interim answers before the final one
    :raises TypeError, ValueError: a limit is no whole number, or negative
    """

    size: int = 102_400
    fields: int | None = None
    interim: int = 10_000

    def __post_init__(self) -> None:
        for name, value, least in (
            ("size", self.size, 1),
            ("fields", self.fields, 0),
            ("interim", self.interim, 0),
        ):
            if value is None and name == "fields":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                msg = f"{name} must be a whole number, not {value!r}"
                raise TypeError(msg)
            if not least <= value <= MOST:
                msg = f"{name} must be from {least} to {MOST}, not {value!r}"
                raise ValueError(msg)

    def check(self, size: int, fields: int = 0) -> None:
        """Raise `BadAnswer` for a head, or the beginning of one, that is too long."""
        if size > self.size:
            raise BadAnswer(f"the answer's head is longer than {self.size} bytes, or its trailers are")
        if self.fields is not None and fields > self.fields:
            raise BadAnswer(f"a head or the trailers of the answer have more than {self.fields} fields")


GENEROUS = HeadLimits()
"""As generous as h11."""


class AnyHead:
    """What any head says.

    :ivar version: of HTTP: "1.1", "1.0" or "2"
    :ivar keep_for: for how many seconds the peer leaves the connection open, if it says so
    """

    __slots__ = ("headers", "keep_for", "reason", "status", "version")

    def __init__(self, status: int, reason: bytes, version: str, headers: Headers) -> None:
        self.status = status
        self.reason = reason
        self.version = version
        self.headers = headers
        self.keep_for: float | None = None


class Head(AnyHead):
    """What a head says; not to be changed, since equal heads are one object.

    :ivar length: the announced length of the content, or -1
    :ivar chunked: whether the content comes in chunks
    :ivar keep: whether the peer leaves the connection open after the answer
    """

    __slots__ = ("_alive", "_close", "_fields", "_whole", "chunked", "keep", "length")

    def __init__(self, raw: bytes) -> None:
        if raw[:7] != BEGINNING or raw[7:8] not in (b"0", b"1") or raw[12:13] not in (b" ", b"\r"):
            raise BadAnswer(f"the answer is not HTTP/1.1: it begins with {raw[:20]!r}")
        self.version = "1.1" if raw[7] == 0x31 else "1.0"
        self.length = -1
        self.keep_for: float | None = None
        self.chunked = self._close = self._alive = self._whole = False
        self._fields: list[tuple[bytes, bytes]] = []
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(_unfolded(raw))
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as exc:
            if parser.get_status_code() != 101 or not self._whole:
                raise BadAnswer(f"the answer is not HTTP/1.1: {exc}") from exc
        self.status: int = parser.get_status_code()
        self.reason = raw[13 : raw.index(b"\r")]
        if self.status < 100 or _CONTROL(self.reason):
            raise BadAnswer(f"the answer is not HTTP/1.1: it begins with {raw[:40]!r}")
        self.headers = Headers(self._fields)
        for name, value in self._fields:
            if len(name) in _TELLING:
                self._tells(name.lower(), value)
        self.keep = not self._close and (self._alive or raw[7] == 0x31)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        if value[-1:] in b" \t":  # an empty one too
            value = value.rstrip(b" \t")
        self._fields.append((name, value))

    def on_message_complete(self) -> None:
        """Note that the head makes a whole message."""
        self._whole = True

    def _tells(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            # Digits only, and once, and not too great a number, or llhttp would have refused it; but with any
            # number of zeros before it, and Python converts only so many digits.
            self.length = int(value.lstrip(b"0") or b"0")
        elif name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            self._close |= b"close" in options
            self._alive |= b"keep-alive" in options
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or self.chunked:
                raise BadAnswer(f"the answer has a transfer coding that is not just chunked: {value!r}")
            self.chunked = True
        elif name == b"keep-alive":
            self._announced(value)

    def _announced(self, value: bytes) -> None:
        for part in value.split(b","):
            name, _, number = part.strip().partition(b"=")
            if not number.isdigit() or len(number) > 9:
                continue
            if name.lower() == b"timeout":
                self.keep_for = float(number)
            elif name.lower() == b"max" and int(number) == 0:
                self._close = True


def _unfolded(raw: bytes) -> bytes:
    """Join folded lines (obs-fold), but not what follows the status line: there is nothing to fold there."""
    if b"\r\n " not in raw and b"\r\n\t" not in raw:
        return raw
    line, _, fields = raw.partition(b"\r\n")
    return line + b"\r\n" + _FOLD(b" ", fields)


def check_lines(data: bytes, seen: int) -> None:
    """Refuse a bare LF in what is not complete yet: its sender may think that it is, and wait.

    :param seen: how much of it has been looked at before
    :raises BadAnswer: a line ends without CR
    """
    start = max(0, seen - 1)  # a CR before what is new
    known = seen > 0 and data[start] == 0x0A
    if data.count(b"\n", start) - known != data.count(b"\r\n", start):
        raise BadAnswer("the answer is not HTTP/1.1: a line in its head or trailers ends without CR")


class _Trailers(list[tuple[bytes, bytes]]):
    def on_header(self, name: bytes, value: bytes) -> None:
        self.append((name, value.rstrip(b" \t")))


def parse_trailers(raw: bytes) -> Headers:
    """Read trailers, from the first one to the empty line.

    :raises BadAnswer: they are malformed
    """
    fields = _Trailers()
    try:
        httptools.HttpResponseParser(fields).feed_data(_unfolded(b"HTTP/1.1 200 OK\r\n" + raw))
    except httptools.HttpParserError as exc:
        raise BadAnswer(f"the answer's trailers are malformed: {exc}") from exc
    return Headers(fields)


# A server's answers to one kind of request often have the same head but for Date, which changes once a
# second: knowing it again costs a tenth of reading it.
_known: dict[bytes, Head] = {}
_KNOWN = 64
_SHORT = 1024


def parse_head(raw: bytes) -> Head:
    """Read a head, from the status line to the empty line.

    :raises BadAnswer: it is none
    """
    head = _known.get(raw)
    if head is None:
        head = Head(raw)
        if len(raw) <= _SHORT:
            if len(_known) >= _KNOWN:
                _known.clear()
            _known[raw] = head
    return head
