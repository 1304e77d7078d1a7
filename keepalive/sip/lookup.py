"""The addresses of a peer, for those who choose one themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.addresses import is_literal
from keepalive.base.failure import text_of
from keepalive.resolve.check import ascii_name
from keepalive.resolve.service import LOOPBACK

from .errors import SendError

if TYPE_CHECKING:
    from keepalive.resolve.resolver import Resolver

__all__ = ("resolve_host",)


async def resolve_host(host: str, resolver: Resolver) -> tuple[str, ...]:
    """Return all addresses of a host, in the resolver's order.

    A UDP pool has a socket of one address family, and its user may have to choose it. A literal is its own
    address, ``localhost`` is never asked for (RFC 6761 6.3), and international names are encoded (RFC 5890).
    A checkpoint if the resolver is asked; a cancellation goes through to it.

    :raises SendError: with the reason "resolve": whatever the resolver raised is its cause
    """
    name = host.removesuffix(".").lower()
    if is_literal(name):
        return (name,)
    if name == "localhost" or name.endswith(".localhost"):
        return LOOPBACK
    try:
        return (await resolver.resolve(ascii_name(host))).addresses
    except Exception as exc:
        number = exc.errno if isinstance(exc, OSError) else None
        raise SendError(host, "resolve", number, text_of(exc)) from exc
