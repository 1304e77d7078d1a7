"""What the sockets must know of a message: its first line and a few header fields; and a 400 to it. Pure.

The rules are the ancestor's (Net::SIP): what it takes for a broken message is one here too, and two more
things are: a line end that is not CR LF, and a message without Call-ID or CSeq. Nothing is repaired, nothing
is guessed: of two readings of a message one may be an attacker's.

To know where a message ends is another matter: a proxy relays what a broken phone says, and the connection
is not only that phone's. So a message with a flaw is still one (`Head.flaw`), if all readings of its header
agree on its Content-Length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

TOKEN: Final = rb"[!%'*+.0-9A-Z_`a-z~-]+"
_START: Final = re.compile(
    rb"(?:(" + TOKEN + rb") ([^\x00-\x20\x7f]+) SIP/2\.0|SIP/2\.0 ([1-6][0-9]{2}) [^\r\n]*)\r\n"
)
_NAME: Final = re.compile(rb"([^\s:]+)[ \t]*")
FOLD: Final = re.compile(rb"[ \t]*\r\n[ \t]+")
_CSEQ: Final = re.compile(rb"([0-9]+)\s+(" + TOKEN + rb")")
_CALL_ID: Final = re.compile(rb"[^\s@]+(?:@[^\s@]+)?")
_BALANCED: Final = re.compile(rb'(?:[^"\\<]++|\\.|"(?:[^"\\]++|\\.)*+"|<[^>]*+>)*+', re.DOTALL)
_TOP_VIA: Final = re.compile(
    rb'SIP\s*/\s*2\.0\s*/\s*[^\s;,]+\s+([^\s;,][^;,]*)(?:[^,]*?;\s*branch\s*=\s*([^;,\s"]+))?', re.IGNORECASE
)
_TAG: Final = re.compile(rb';\s*tag\s*=\s*([^;,\s"]+)', re.IGNORECASE)
_COOKIE: Final = b"z9hG4bK"
"""A branch that begins so is its sender's for this request alone (RFC 3261 8.1.1.7)."""
MAX_KEY: Final = 128  # bytes of a key as it is; a longer one is kept as its digest
_ANY_END: Final = re.compile(rb"\r\n|\r|\n")
_ANY_FOLD: Final = re.compile(rb"[ \t]*(?:\r\n|\r|\n)[ \t]+")

# Kinds of fields. The first six must not be there twice with different values.
_LENGTH, _CALL, _SEQ, _FROM, _TO, _TYPE, _VIA, _NUMBER, _LIST, _PLAIN = range(10)
_UNIQUE_NAMES: Final = ("content-length", "call-id", "cseq", "from", "to", "content-type")

_NAMES: Final = {
    name: kind
    for kind, names in {
        _LENGTH: (b"content-length", b"l"),
        _CALL: (b"call-id", b"i"),
        _SEQ: (b"cseq",),
        _FROM: (b"from", b"f"),
        _TO: (b"to", b"t"),
        _TYPE: (b"content-type", b"c"),
        _VIA: (b"via", b"v"),
        _NUMBER: (b"max-forwards", b"expires", b"min-expires"),
        _LIST: (b"contact", b"m", b"route", b"record-route"),
    }.items()
    for name in names
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


@dataclass(slots=True, eq=False, repr=False)
class Head:
    """A message with what was read of it; of a flawed one that is header and length only."""

    header: bytes  # first line and header fields, each with its line end
    method: bytes = b""  # of a request; of a response the one in its CSeq
    code: int = 0  # of a response
    via: bytes = b""  # value of the first Via field
    key: bytes = b""  # the same in request, response and ACK; see `transaction_key`
    length: int = -1  # the Content-Length, -1 if there is none
    flaw: str = ""  # why it is no good message
    raw: bytes = b""  # the whole message, set when it is complete

    @property
    def expects_response(self) -> bool:
        """Whether it is a request that has one: an ACK has none."""
        return not self.code and self.method != b"ACK"


def read_head(header: bytes) -> Head:
    """Read a header of which at least must be known where its message ends; what else is wrong is its `flaw`.

    :raises Flaw: nobody can say where the message ends
    """
    try:
        head = parse_head(header)
    except Flaw as flaw:
        head = Head(header, length=_agreed_length(header), flaw=flaw.reason)
    if head.length < 0:
        raise Flaw("no content-length")
    return head


def _agreed_length(header: bytes) -> int:
    """Return the Content-Length of a broken header, -1 for none.

    Elsewhere any of CR, LF and CR LF may count as a line's end, and other blanks as blanks: whoever reads so
    must find the same length, or one message here would be two there.

    :raises Flaw: it is no number, there are several, or the header might end before
    """
    if b"" in _ANY_END.split(header)[1:-1]:
        raise Flaw("line end")
    found: bytes | None = None
    for line in _ANY_END.split(_ANY_FOLD.sub(b" ", header))[1:-1]:
        name, colon, value = line.partition(b":")
        if not colon or name.strip(b" \t\v\f\0").lower() not in (b"content-length", b"l"):
            continue
        value = value.strip()
        if found is not None and value != found:
            raise Flaw("conflicting content-length")
        found = value
    return -1 if found is None else _number("content-length", found)


def parse_head(header: bytes) -> Head:
    """Read first line and header fields, up to and with the last field's line end.

    :raises Flaw: this is no SIP message
    """
    start = _START.match(header)
    if start is None:
        raise Flaw("start line")
    lines = header.split(b"\r\n")
    if header.count(b"\n") != len(lines) - 1 or header.count(b"\r") != len(lines) - 1:
        raise Flaw("line end")
    if b"\r\n " in header or b"\r\n\t" in header:
        if lines[1][:1] in (b" ", b"\t"):
            raise Flaw("header line")
        lines = FOLD.sub(b" ", header).split(b"\r\n")
    method, _, code = start.groups()
    return _read_fields(header, lines, method, int(code) if code else 0)


def _read_fields(header: bytes, lines: list[bytes], method: bytes | None, code: int) -> Head:
    once: list[bytes | None] = [None] * _VIA
    via = None
    for line in lines[1:-1]:
        name, colon, value = line.partition(b":")
        kind = _SPELLED.get(name)
        if kind is None:  # unusually spelled
            found = _NAME.fullmatch(name)
            if found is None:
                raise Flaw("header line")
            kind = _NAMES.get(found[1].lower(), _PLAIN)
        if not colon:
            raise Flaw("header line")
        if kind == _PLAIN:
            continue
        value = value.strip()
        if kind < _VIA:
            before = once[kind]
            if before is not None and before != value:
                raise Flaw(f"conflicting {_UNIQUE_NAMES[kind]}")
            once[kind] = value
            if kind == _LENGTH:
                _number(_UNIQUE_NAMES[_LENGTH], value)
            elif kind >= _FROM and b'"' in value:
                _check_quotes(value)
        elif kind == _NUMBER:
            _number("number", value)
        else:
            if kind == _VIA and via is None:
                via = value
            _check_quotes(value)
    return _assemble(header, method, code, via or b"", once)


def _assemble(header: bytes, method: bytes | None, code: int, via: bytes, once: list[bytes | None]) -> Head:
    call_id, cseq, length = once[_CALL], once[_SEQ], once[_LENGTH]
    if not call_id or _CALL_ID.fullmatch(call_id) is None:
        raise Flaw("call-id")
    if cseq is None or (found := _CSEQ.fullmatch(cseq)) is None:
        raise Flaw("cseq")
    number, of_method = found.groups()
    if method is not None and of_method != method:
        raise Flaw("cseq")
    key = transaction_key(via, call_id, number, of_method, once[_FROM] or b"")
    return Head(
        header, of_method, code, via, key, -1 if length is None else _number("content-length", length)
    )


def transaction_key(via: bytes, call_id: bytes, number: bytes, method: bytes, sender: bytes) -> bytes:
    """Make what tells a transaction from others (RFC 3261 17.1.3, 17.2.3), of what a response repeats.

    It is the top Via's branch and sent-by, and the method, an ACK's being that of its INVITE. A branch
    without the magic cookie tells too little (8.1.1.7): then Call-ID, CSeq and From's tag count too. The
    Request-URI, which 17.2.3 names as well, no response has.
    """
    found = _TOP_VIA.match(via)
    sent_by, branch = (via, b"") if found is None else (found[1], found[2] or b"")
    parts = [branch, b"".join(sent_by.split()).lower(), b"INVITE" if method == b"ACK" else method]
    if not branch.startswith(_COOKIE) or branch == _COOKIE:
        tag = _TAG.search(sender, sender.rfind(b">") + 1)
        parts += [call_id, number.lstrip(b"0"), b"" if tag is None else tag[1]]
    key = b" ".join(parts)
    return key if len(key) <= MAX_KEY else blake2b(key).digest()


def _check_quotes(value: bytes) -> None:
    if b'"' in value or b"\\" in value:
        balanced = _BALANCED.fullmatch(value) is not None
    else:
        balanced = value.rfind(b"<") <= value.rfind(b">")
    if not balanced:
        raise Flaw("quote")


def _number(what: str, digits: bytes) -> int:
    if not digits.isdigit():
        raise Flaw(what)
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) < 19 else 10**18  # too much, however much


# -- the top Via: where a response goes (RFC 3261 18.2.2, RFC 3581, RFC 5923) --------------------------

_VIA_VALUE: Final = re.compile(
    rb"SIP\s*/\s*2\.0\s*/\s*[^\s;,]+\s+(\[[0-9A-Fa-f:.%]+\]|[^\s:;,\[\]]+)\s*(?::\s*([0-9]{1,5}))?\s*([^,]*)"
)
_PARAM: Final = re.compile(rb";\s*([^\s;=]+)\s*(?:=\s*([^\s;]+))?")
_TRANSPORT: Final = re.compile(rb"(?mi)^(?:via|v)[ \t]*:\s*SIP\s*/\s*2\.0\s*/\s*([^\s;,]+)")


class Via(NamedTuple):
    """What one Via says; "" and 0 for what it does not."""

    host: str  # of sent-by, without brackets
    port: int  # of sent-by
    received: str  # the address that the request came from
    rport: int  # the port that it came from
    maddr: str
    alias: bool  # whether requests may come back on the same connection


def parse_via(value: bytes) -> Via | None:
    """Read the first Via of a field's value; None if that is not one."""
    found = _VIA_VALUE.match(value)
    if found is None:
        return None
    host, port, rest = found.groups()
    params = {name.lower(): given for name, given in _PARAM.findall(rest)}
    rport = params.get(b"rport", b"")
    return Via(
        host.decode("ascii", "replace").strip("[]"),
        _port(port or b""),
        params.get(b"received", b"").decode("ascii", "replace").strip("[]"),
        _port(rport),
        params.get(b"maddr", b"").decode("ascii", "replace").strip("[]"),
        b"alias" in params,
    )


def _port(digits: bytes) -> int:
    number = int(digits) if digits.isdigit() and len(digits) < 6 else 0
    return number if number < 65536 else 0


def response_place(via: Via, *, stream: bool, default_port: int) -> tuple[str, int]:
    """Return host and port for a response that cannot go back where its request came in."""
    if stream:
        return via.received or via.host, via.port or default_port
    if via.maddr:
        return via.maddr, via.port or default_port
    if via.received:
        return via.received, via.rport or via.port or default_port
    return via.host, via.rport or via.port or default_port


def with_transport(message: bytes, transport: bytes) -> bytes:
    """Let a message's top Via say that it goes over this transport (RFC 3261 18.1.1)."""
    found = _TRANSPORT.search(message, 0, message.find(b"\r\n\r\n") + 2)
    if found is None:
        return message
    return message[: found.start(1)] + transport + message[found.end(1) :]


# -- what is answered to a broken request ----------------------------------------------------------------

_REQUEST: Final = re.compile(rb"(" + TOKEN + rb") ")
_FIELD: Final = re.compile(
    rb"(?mi)^(via|v|from|f|to|t|call-id|i|cseq)[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n"
)
_ANSWERED: Final = {_VIA: b"Via", _FROM: b"From", _TO: b"To", _CALL: b"Call-ID", _SEQ: b"CSeq"}
"""What a response repeats of its request."""
_HAS_TAG: Final = re.compile(rb";\s*tag\s*=", re.IGNORECASE)


def bad_request(header: bytes, reason: str) -> bytes | None:
    """Make a 400 to a broken request (RFC 3261 8.2.6, 18.3).

    :param header: what there is of its header
    :param reason: what is wrong with it, for people; no line ends
    :return: None if there is nothing that could be answered: a response, an ACK, or no Via to say whose the
        answer is. Fields that the request lacks the answer lacks too (RFC 4475 3.3.1)
    """
    start = _REQUEST.match(header)
    if start is None or start[1] in (b"ACK", b"SIP/2.0"):
        return None
    lines: list[bytes] = []
    seen: set[bytes] = set()
    for short, value in _FIELD.findall(header):
        name = _ANSWERED[_NAMES[short.lower()]]
        if name in seen and name != b"Via":
            continue
        seen.add(name)
        value = value.strip()
        if name == b"To" and _HAS_TAG.search(value) is None:
            value += b";tag=" + blake2b(header, digest_size=6).hexdigest().encode()
        lines.append(name + b": " + value + b"\r\n")
    if b"Via" not in seen:
        return None
    first = f"SIP/2.0 400 Bad Request ({reason})\r\n".encode()
    return first + b"".join(lines) + b"Content-Length: 0\r\n\r\n"
