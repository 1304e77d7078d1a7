"""What the sockets must know of a message: its first line and a few header fields. Pure.

The rules are the ancestor's (Net::SIP): what it takes for a broken message is one here too, and two more
things are: a line end that is not CR LF, and a message without Call-ID or CSeq. Nothing is repaired, nothing
is guessed: of two readings of a message one may be an attacker's.

To know where a message ends is another matter: a proxy relays what a broken phone says, and the connection
is not only that phone's. So a message with a flaw is still one (`Head.flaw`), if all readings of its header
agree on its Content-Length.
"""

from __future__ import annotations

import re
from hashlib import blake2b
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
_TOP: Final = re.compile(
    rb'SIP\s*/\s*2\.0\s*/\s*[^\s;,]+\s+([^\s;,][^;,]*)(?:[^,]*?;\s*branch\s*=\s*([^;,\s"]+))?', re.IGNORECASE
)
_TAG: Final = re.compile(rb';\s*tag\s*=\s*([^;,\s"]+)', re.IGNORECASE)
_COOKIE: Final = b"z9hG4bK"
"""A branch that begins so is its sender's for this request alone (RFC 3261 8.1.1.7)."""
MAX_KEY: Final = 128
"""Bytes of a key as it is; a longer one is kept as its digest."""
_ANY_END: Final = re.compile(rb"\r\n|\r|\n")
_ANY_FOLD: Final = re.compile(rb"[ \t]*(?:\r\n|\r|\n)[ \t]+")

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
    :ivar key: what tells the transaction, the same in request, response and ACK; see `transaction_key`
    :ivar length: the Content-Length, -1 if there is none
    :ivar flaw: why it is no good message, "" for a good one; of a flawed one only header and length are known
    """

    __slots__ = ("code", "flaw", "header", "key", "length", "method", "raw", "via")

    raw: bytes

    def __init__(
        self, header: bytes, method: bytes, code: int, via: bytes, key: bytes, length: int, flaw: str = ""
    ) -> None:
        self.header = header
        self.method = method
        self.code = code
        self.via = via
        self.key = key
        self.length = length
        self.flaw = flaw


def read_head(header: bytes) -> Head:
    """Read a header of which at least must be known where its message ends; what else is wrong is its `flaw`.

    :raises Flaw: nobody can say where the message ends
    """
    try:
        head = parse_head(header)
    except Flaw as flaw:
        head = Head(header, b"", 0, b"", b"", _agreed_length(header), flaw.reason)
    if head.length < 0:
        raise Flaw("no content-length", header)
    return head


def _agreed_length(header: bytes) -> int:
    """Return the Content-Length of a broken header, -1 for none.

    Elsewhere any of CR, LF and CR LF may count as a line's end, and other blanks as blanks: whoever reads so
    must find the same length, or one message here would be two there.

    :raises Flaw: it is no number, there are several, or the header might end before
    """
    if b"" in _ANY_END.split(header)[1:-1]:
        raise Flaw("line end", header)
    found: bytes | None = None
    for line in _ANY_END.split(_ANY_FOLD.sub(b" ", header))[1:-1]:
        name, colon, value = line.partition(b":")
        if not colon or name.strip(b" \t\v\f\0").lower() not in (b"content-length", b"l"):
            continue
        value = value.strip()
        if found is not None and value != found:
            raise Flaw("conflicting content-length", header)
        found = value
    if found is None:
        return -1
    _check_digits("content-length", found, header)
    return _number(found)


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
            elif kind >= _FROM and b'"' in value:
                _check_quotes(value, header)
        elif kind == _NUMBER:
            _check_digits("number", value, header)
        else:
            if kind == _VIA and via is None:
                via = value
            _check_quotes(value, header)
    return _assemble(header, method, code, via or b"", once)


def _assemble(header: bytes, method: bytes | None, code: int, via: bytes, once: list[bytes | None]) -> Head:
    call_id, cseq, length = once[_CALL], once[_SEQ], once[_LENGTH]
    if not call_id or _CALL_ID.fullmatch(call_id) is None:
        raise Flaw("call-id", header)
    if cseq is None or (found := _CSEQ.fullmatch(cseq)) is None:
        raise Flaw("cseq", header)
    number, of_method = found.groups()
    if method is not None and of_method != method:
        raise Flaw("cseq", header)
    key = transaction_key(via, call_id, number, of_method, once[_FROM] or b"")
    return Head(header, of_method, code, via, key, -1 if length is None else _number(length))


def transaction_key(via: bytes, call_id: bytes, number: bytes, method: bytes, sender: bytes) -> bytes:
    """Make what tells a transaction from others (RFC 3261 17.1.3, 17.2.3), of what a response repeats.

    It is the top Via's branch and sent-by, and the method, an ACK's being that of its INVITE. A branch
    without the magic cookie tells too little (8.1.1.7): then Call-ID, CSeq and From's tag count too. The
    Request-URI, which 17.2.3 names as well, no response has.
    """
    found = _TOP.match(via)
    sent_by, branch = (via, b"") if found is None else (found[1], found[2] or b"")
    parts = [branch, b"".join(sent_by.split()).lower(), b"INVITE" if method == b"ACK" else method]
    if not branch.startswith(_COOKIE) or branch == _COOKIE:
        tag = _TAG.search(sender, sender.rfind(b">") + 1)
        parts += [call_id, number.lstrip(b"0"), b"" if tag is None else tag[1]]
    key = b" ".join(parts)
    return key if len(key) <= MAX_KEY else blake2b(key).digest()


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
