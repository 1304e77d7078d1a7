"""Header fields in HTTP/2: of requests as they go out, and of answers as they come. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from keepalive.http.errors import BadAnswer, InvalidRequest
from keepalive.http.head import Headers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive.http.request import Message

Pair = tuple[bytes, bytes]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch  # RFC 9113 8.2.1
_VALUE = re.compile(rb"(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?").fullmatch
_STATUS = re.compile(rb"[1-9][0-9][0-9]").fullmatch

OF_THE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""Fields of HTTP/1.1's own framing (RFC 9113 8.2.2)."""
_NEVER_INDEXED = frozenset({b"authorization", b"proxy-authorization"})
"""Not to be guessed by what compresses well (RFC 7541 7.1.3)."""
_SHORT_COOKIE = 20


def of_request(message: Message, scheme: bytes) -> list[Pair]:
    """Return the fields of a request, the pseudo-fields first (RFC 9113 8.3.1).

    :raises InvalidRequest: it asks for what HTTP/2 does not have
    """
    if message.upgrades:
        raise InvalidRequest("a request with Upgrade cannot be said in HTTP/2 (RFC 9113 8.6)")
    authority, dropped = message.authority, set(OF_THE_CONNECTION)
    fields: list[Pair] = []
    for name, value in message.fields:
        lower = name.lower()
        if lower == b"host":
            authority = value
        elif lower == b"connection":
            dropped.update(option.strip().lower() for option in value.split(b","))
        fields.append((lower, value))
    method = message.method
    if method == b"CONNECT":
        first = [(b":method", method), (b":authority", message.target)]
    else:
        path = message.target
        first = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]
    dropped.add(b"host")
    rest = [
        _indexed(name, value)
        for name, value in fields
        if name not in dropped and not (name == b"te" and value.lower() != b"trailers")
    ]
    return [*(HeaderTuple(*pair) for pair in first), *rest]


def _indexed(name: bytes, value: bytes) -> Pair:
    secret = name in _NEVER_INDEXED or (name == b"cookie" and len(value) < _SHORT_COOKIE)
    return NeverIndexedHeaderTuple(name, value) if secret else HeaderTuple(name, value)


def size_of(pairs: Iterable[Pair]) -> int:
    """Return what fields would come to in HTTP/1.1."""
    return sum(len(name) + len(value) + 4 for name, value in pairs)


# As with HTTP/1.1, most heads are known until Date changes.
_known: dict[tuple[Pair, ...], tuple[int, Headers, int]] = {}
_KNOWN = 64
_SHORT = 1024


def of_answer(pairs: list[Pair]) -> tuple[int, Headers, int]:
    """Check the fields of an answer; return its status, those that are no pseudo-field, and their size.

    :raises BadAnswer: they are malformed (RFC 9113 8.1.1)
    """
    key = tuple(pairs)
    known = _known.get(key)
    if known is None:
        known = _read(pairs)
        if known[2] <= _SHORT:
            if len(_known) >= _KNOWN:
                _known.clear()
            _known[key] = known
    return known


def _read(pairs: list[Pair]) -> tuple[int, Headers, int]:
    if not pairs or pairs[0][0] != b":status" or not _STATUS(pairs[0][1]):
        raise BadAnswer("the answer is malformed: it does not begin with a status")
    return int(pairs[0][1]), checked(pairs[1:]), size_of(pairs)


def checked(pairs: Iterable[Pair]) -> Headers:
    """Check fields that may have no pseudo-field among them.

    :raises BadAnswer: they are malformed
    """
    fields = Headers((name, value) for name, value in pairs)
    for name, value in fields:
        if not _NAME(name) or name in OF_THE_CONNECTION:
            raise BadAnswer(f"the answer is malformed: it has a field {name[:40]!r}")
        if not _VALUE(value):
            raise BadAnswer(f"the answer is malformed: its field {name[:40]!r} has a value {value[:40]!r}")
    return fields
