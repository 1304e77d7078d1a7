"""The top Via of a message: where its response goes (RFC 3261 18.2.2, RFC 3581, RFC 5923). Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_VIA: Final = re.compile(
    rb"SIP\s*/\s*2\.0\s*/\s*([^\s;,]+)\s+(\[[0-9A-Fa-f:.%]+\]|[^\s:;,\[\]]+)\s*(?::\s*([0-9]{1,5}))?\s*([^,]*)"
)
_PARAM: Final = re.compile(rb";\s*([^\s;=]+)\s*(?:=\s*([^\s;]+))?")

_TRANSPORT: Final = re.compile(rb"(?mi)^(?:via|v)[ \t]*:\s*SIP\s*/\s*2\.0\s*/\s*([^\s;,]+)")


class Via(NamedTuple):
    """What one Via says.

    :ivar host: of sent-by, without brackets
    :ivar port: of sent-by, 0 if it says none
    :ivar received: the address that the request came from, "" if it does not say
    :ivar rport: the port that it came from, 0 if it does not say
    :ivar alias: whether requests may come back on the same connection
    """

    transport: str
    host: str
    port: int
    received: str
    rport: int
    maddr: str
    alias: bool


def parse_via(value: bytes) -> Via | None:
    """Read the first Via of a field's value; None if that is not one."""
    found = _VIA.match(value)
    if found is None:
        return None
    transport, host, port, rest = found.groups()
    params = {name.lower(): given for name, given in _PARAM.findall(rest)}
    rport = params.get(b"rport", b"")
    return Via(
        transport.decode("ascii", "replace").lower(),
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
