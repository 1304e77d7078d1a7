"""Addresses in the forms that users write and the kernel reads. No resolver is asked in here."""

from __future__ import annotations

import socket

Target = tuple[str, int] | tuple[str, int, int, int]
"""A socket address of IPv4 or IPv6."""

MAPPED = "::ffff:"
"""What an IPv4 address begins with that an IPv6 socket tells."""

BindAddresses = dict[int, tuple[str, int]]
"""Local addresses and ports by family."""


def is_literal(host: str) -> bool:
    """Say whether this is an IPv4 or IPv6 address (with a zone, maybe) and not a name."""
    bare, percent, zone = host.partition("%")
    v6 = ":" in bare
    if percent and not (v6 and zone):
        return False
    try:
        socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, bare)
    except (OSError, ValueError):
        return False
    return True


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of a literal."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def target_of(address: str, port: int, *, ipv6: bool = False) -> Target:
    """Make the socket address of a literal, as the kernel gives it back; of IPv4 too for an IPv6 socket."""
    if ":" not in address:
        return (MAPPED + address, port, 0, 0) if ipv6 else (address, port)
    bare, _, zone = address.partition("%")
    index = 0 if not zone else int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, bare)), port, 0, index


def unmapped(address: str) -> str:
    """Return the IPv4 address for one that is mapped into IPv6: they are the same peer (RFC 4291 2.5.5.2)."""
    mapped = address.startswith(MAPPED) and "." in address
    return address[len(MAPPED) :] if mapped else address
