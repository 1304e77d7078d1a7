"""Between bytes and the message objects of the `sipmessage` library."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from .core.head import FOLD, Flaw, Head, parse_head
from .core.outgoing import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable

    import sipmessage


Packet: TypeAlias = "sipmessage.Request | sipmessage.Response | bytes"
"""A message, parsed or raw."""

_BLANK: Final = re.compile(rb"(?m)^([^\s:]+)[ \t]+:")


class Parser:
    """Makes message objects of what arrives.

    :raises ImportError: the library is not installed
    """

    def __init__(self) -> None:
        try:
            import sipmessage
        except ImportError as exc:
            msg = (
                "keepalive.sip needs sipmessage to parse messages; install it with: "
                "pip install 'keepalive-manager[sip]', or set SipConfig(raw=True)"
            )
            raise ModuleNotFoundError(msg, name="sipmessage") from exc
        self._parse: Callable[[bytes], Packet] = sipmessage.Message.parse

    def __call__(self, head: Head) -> Packet:
        """Make the message object.

        The library knows neither folded lines nor a blank before the colon, which RFC 3261 7.3.1 allows:
        these are undone before it sees them.

        :raises ValueError: the library cannot represent it, though its form is right
        """
        raw, header = head.raw, head.header
        if b"\r\n " in header or b"\r\n\t" in header or b" :" in header or b"\t:" in header:
            raw = _BLANK.sub(rb"\1:", FOLD.sub(b" ", header)) + raw[len(header) :]
        return self._parse(raw)


def outgoing(packet: object, *, stream: bool) -> tuple[Outgoing, Head | None]:
    """Return a packet as it is sent, and what was read of it; None for a keep-alive (CR LFs only).

    A message object gets its Content-Length here, whatever it says itself; bytes are sent as they are.

    :raises TypeError, ValueError: it is no message, or its peer could not tell where it ends
    """
    if isinstance(packet, (bytes, bytearray, memoryview)):
        raw = bytes(packet)
    elif hasattr(packet, "headers") and hasattr(packet, "body"):
        body = packet.body
        packet.headers.set("Content-Length", str(len(body)))
        raw = bytes(packet)  # type: ignore[call-overload]  # both classes of messages have __bytes__
    else:
        msg = f"packet must be a sipmessage.Request, a sipmessage.Response or bytes, not {packet!r}"
        raise TypeError(msg)
    if raw and not raw.replace(b"\r\n", b""):
        pings = len(raw) // 4
        return Outgoing(raw, expects_answer=pings > 0, pings=pings), None
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        msg = "packet is no SIP message: its header has no end"
        raise ValueError(msg)
    try:
        head = parse_head(raw[: end + 2])
    except Flaw as flaw:
        msg = f"packet is no SIP message: {flaw.reason}"
        raise ValueError(msg) from flaw
    body_size = len(raw) - end - 4
    if stream and head.length != body_size:
        said = "no Content-Length" if head.length < 0 else f"Content-Length {head.length}"
        msg = f"packet has {said}, but {body_size} bytes of body"
        raise ValueError(msg)
    return Outgoing(raw, key=head.key, expects_answer=head.expects_response), head
