"""What the sockets must know of a message: its first line and a few header fields. Pure.

The rules are the ancestor's (Net::SIP): what it takes for a broken message is one here too, and two more
things are: a line end that is not CR LF, and a message without Call-ID or CSeq. Nothing is repaired, nothing
is guessed: of two readings of a message one may be an attacker's.
"""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = rb"[!%'*+.0-9A-Z_`a-z~-]+"
_START: Final = re.compile(
    rb"(?:(" + TOKEN + rb") ([^\x00-\x20\x7f]+) SIP/2\.0|SIP/2\.0 ([1-6][0-9]{2}) [^\r\n]*)\r\n"
)
_NAME: Final = re.compile(rb"([^\s:]+)[ \t]*")
FOLD: Final = re.compile(rb"[ \t]*\r\n[ \t]+")
_CSEQ: Final = re.compile(rb"([0-9]+)\s+(" + TOKEN + rb")")
_CALL_ID: Final = re.compile(rb"[^\s@]+(?:@[^\s@]+)?")
_BALANCED: Final = re.compile(rb'(?:[^"\\<]++|\\.|"(?:[^"\\]++|\\.)*+"|<[^>]*+>)*+', re.DOTALL)
_BRANCH: Final = re.compile(rb'[^,]*?;\s*branch\s*=\s*([^;,\s"]+)', re.IGNORECASE)

# Kinds of fields. The first six must not be there twice with different values.
_LENGTH, _CALL, _SEQ, _FROM, _TO, _TYPE, _VIA, _NUMBER, _LIST, _PLAIN = range(10)
_WHAT: Final = ("content-length", "call-id", "cseq", "from", "to", "content-type")

_NAMES: Final = {
    b"content-length": _LENGTH,
    b"l": _LENGTH,
    b"call-id": _CALL,
    b"i": _CALL,
    b"cseq": _SEQ,
    b"via": _VIA,
    b"v": _VIA,
    b"from": _FROM,
    b"f": _FROM,
    b"to": _TO,
    b"t": _TO,
    b"content-type": _TYPE,
    b"c": _TYPE,
    b"max-forwards": _NUMBER,
    b"expires": _NUMBER,
    b"min-expires": _NUMBER,
    b"contact": _LIST,
    b"m": _LIST,
    b"route": _LIST,
    b"record-route": _LIST,
}
_COMMON: Final = (
    b"User-Agent", b"Server", b"Allow", b"Supported", b"Accept", b"Event", b"Date", b"Subject", b"Require",
    b"Authorization", b"WWW-Authenticate", b"Proxy-Authorization", b"Allow-Events", b"P-Asserted-Identity",
)  # fmt: skip
# The usual spellings are found without making them lower case first.
_SPELLED: Final = {
    **_NAMES,
    **{name.title(): kind for name, kind in _NAMES.items()},
    b"Call-ID": _CALL,
    b"CSeq": _SEQ,
    **dict.fromkeys(_COMMON, _PLAIN),
}


class Flaw(Exception):
    """Why bytes are no message. ``reason`` is short and one of few, fit for counting."""

    def __init__(self, reason: str, header: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.header = header


class Head:
    """A message with what was read of it.

    :ivar raw: the whole message, set when it is complete
    :ivar header: first line and header fields, each with its line end
    :ivar method: of a request; of a response the one in its CSeq
    :ivar code: of a response, 0 for a request
    :ivar via: value of the first Via field, b"" if there is none
    :ivar key: what tells the transaction: the top Via's branch, else Call-ID and CSeq number
    :ivar length: the Content-Length, -1 if there is none
    :ivar bare: whether it is there without a blank before its colon, as streams must have it
    """

    __slots__ = ("bare", "code", "header", "key", "length", "method", "raw", "via")

    raw: bytes

    def __init__(self, header: bytes, method: bytes, code: int, via: bytes, key: bytes, length: int) -> None:
        self.header = header
        self.method = method
        self.code = code
        self.via = via
        self.key = key
        self.length = length
        self.bare = False


def parse_head(header: bytes) -> Head:
    """Read first line and header fields, up to and with the last field's line end.

    :raises Flaw: this is no SIP message
    """
    start = _START.match(header)
    if start is None:
        raise Flaw("start line", header)
    lines = header.split(b"\r\n")
    if header.count(b"\n") != len(lines) - 1 or header.count(b"\r") != len(lines) - 1:
        raise Flaw("line end", header)
    if b"\r\n " in header or b"\r\n\t" in header:
        if lines[1][:1] in (b" ", b"\t"):
            raise Flaw("header line", header)
        lines = FOLD.sub(b" ", header).split(b"\r\n")
    method, _, code = start.groups()
    return _read_fields(header, lines, method, int(code) if code else 0)


def _kind_of(name: bytes, header: bytes) -> int:
    """Say what an unusually spelled field is."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise Flaw("header line", header)
    return _NAMES.get(found[1].lower(), _PLAIN)


def _read_fields(header: bytes, lines: list[bytes], method: bytes | None, code: int) -> Head:
    once: list[bytes | None] = [None] * _VIA
    via = None
    bare = False
    for line in lines[1:-1]:
        name, colon, value = line.partition(b":")
        kind = _SPELLED.get(name)
        if kind is None:
            kind = _kind_of(name, header)
        if not colon:
            raise Flaw("header line", header)
        if kind == _PLAIN:
            continue
        value = value.strip()
        if kind < _VIA:
            before = once[kind]
            if before is not None and before != value:
                raise Flaw(f"conflicting {_WHAT[kind]}", header)
            once[kind] = value
            if kind == _LENGTH:
                _check_digits(_WHAT[_LENGTH], value, header)
                bare = bare or name[-1:] not in b" \t"
            elif kind >= _FROM and b'"' in value:
                _check_quotes(value, header)
        elif kind == _NUMBER:
            _check_digits("number", value, header)
        else:
            if kind == _VIA and via is None:
                via = value
            _check_quotes(value, header)
    return _assemble(header, method, code, via or b"", once, bare)


def _assemble(
    header: bytes, method: bytes | None, code: int, via: bytes, once: list[bytes | None], bare: bool
) -> Head:
    call_id, cseq, length = once[_CALL], once[_SEQ], once[_LENGTH]
    if not call_id or _CALL_ID.fullmatch(call_id) is None:
        raise Flaw("call-id", header)
    if cseq is None or (found := _CSEQ.fullmatch(cseq)) is None:
        raise Flaw("cseq", header)
    number, of_method = found.groups()
    if method is not None and of_method != method:
        raise Flaw("cseq", header)
    branch = _BRANCH.match(via)
    key = branch[1] if branch is not None else call_id + b" " + number
    head = Head(header, of_method, code, via, key, -1 if length is None else _number(length))
    head.bare = bare
    return head


def _check_digits(what: str, value: bytes, header: bytes) -> None:
    if not value.isdigit():
        raise Flaw(what, header)


def _check_quotes(value: bytes, header: bytes) -> None:
    if b'"' in value or b"\\" in value:
        balanced = _BALANCED.fullmatch(value) is not None
    else:
        balanced = value.rfind(b"<") <= value.rfind(b">")
    if not balanced:
        raise Flaw("quote", header)


def _number(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) < 19 else 10**18  # too much, however much
