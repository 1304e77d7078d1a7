"""The answer to a request that cannot be read, as far as its header could be. Pure."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from .head import TOKEN

_REQUEST: Final = re.compile(rb"(" + TOKEN + rb") ")
_FIELD: Final = re.compile(
    rb"(?mi)^(via|v|from|f|to|t|call-id|i|cseq)[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n"
)
_FULL: Final = {
    b"v": b"Via",
    b"via": b"Via",
    b"f": b"From",
    b"from": b"From",
    b"t": b"To",
    b"to": b"To",
    b"i": b"Call-ID",
    b"call-id": b"Call-ID",
    b"cseq": b"CSeq",
}
_TAG: Final = re.compile(rb";\s*tag\s*=", re.IGNORECASE)


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
        name = _FULL[short.lower()]
        if name in seen and name != b"Via":
            continue
        seen.add(name)
        value = value.strip()
        if name == b"To" and _TAG.search(value) is None:
            value += b";tag=" + blake2b(header, digest_size=6).hexdigest().encode()
        lines.append(name + b": " + value + b"\r\n")
    if b"Via" not in seen:
        return None
    first = f"SIP/2.0 400 Bad Request ({reason})\r\n".encode()
    return first + b"".join(lines) + b"Content-Length: 0\r\n\r\n"
