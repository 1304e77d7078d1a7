"""STUN on the SIP port: a phone behind a NAT keeps its way open by it (RFC 5626 4.4.2, RFC 8489). Pure."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

HEADER: Final = struct.Struct("!HHI12s")
COOKIE: Final = 0x2112A442
BINDING_REQUEST: Final = 0x0001
BINDING_SUCCESS: Final = 0x0101
XOR_MAPPED_ADDRESS: Final = 0x0020
OPTIONAL: Final = 0x8000  # attributes from here on may be passed over by who does not know them


def is_stun(data: bytes) -> bool:
    """Say whether a datagram is STUN; no SIP message begins with such a byte (RFC 7983)."""
    return (
        len(data) >= HEADER.size
        and data[0] < 4
        and len(data) % 4 == 0
        and HEADER.unpack_from(data)[1] == len(data) - HEADER.size
    )


def binding_response(data: bytes, host: str, port: int) -> bytes | None:
    """Tell a client how we see it.

    :param data: what `is_stun` says yes to
    :param host: the address it came from, a literal
    :return: None for what is no Binding request, is of the old kind (RFC 3489), or asks for more than that
    """
    kind, _, cookie, transaction = HEADER.unpack_from(data)
    if kind != BINDING_REQUEST or cookie != COOKIE or _asks_for_more(data):
        return None
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    mask = struct.pack("!I", COOKIE) + transaction
    hidden = bytes(a ^ b for a, b in zip(address.packed, mask, strict=False))
    value = struct.pack("!BBH", 0, 1 if address.version == 4 else 2, port ^ (COOKIE >> 16)) + hidden
    attribute = struct.pack("!HH", XOR_MAPPED_ADDRESS, len(value)) + value
    return HEADER.pack(BINDING_SUCCESS, len(attribute), COOKIE, transaction) + attribute


def _asks_for_more(data: bytes) -> bool:
    """Say whether there is an attribute that must be understood: credentials, for example."""
    pos = HEADER.size
    while pos + 4 <= len(data):
        kind, size = struct.unpack_from("!HH", data, pos)
        if kind < OPTIONAL:
            return True
        pos += 4 + (size + 3) // 4 * 4
    return False
