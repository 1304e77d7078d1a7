"""Tokens: where an agent has taken another one's place, a socket pair for each TLS connection that was lent.

The old agent, which still carries that connection's bytes, has one end, the new one the other. A byte tells
what a message would tell if they were one process; the end of the new agent's side says: the loan is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from keepalive.transport.stream import LinkStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from anyio.abc import ByteReceiveStream

    from keepalive.transport.link import Link

    from .relay import Relay

HALF_CLOSED = b"h"
CLEAN = b"c"
BROKEN = b"b"
_OVER = (EndOfStream, BrokenResourceError, ClosedResourceError)


def tell(token: socket.socket, what: bytes) -> None:
    """Say something by a token."""
    try:
        token.send(what)
    except OSError:
        pass  # the other agent has gone, and the connection with it


async def follow(conn: ByteReceiveStream, over: Callable[[bool], None]) -> None:
    """Wait for what the old agent says of a connection, in the new one."""
    try:
        clean = await conn.receive() == CLEAN
    except _OVER:
        clean = False
    over(clean)


async def obey(link: Link, relay: Relay) -> None:
    """Do as the new agent says, in the old one."""
    stream = LinkStream.over(link)
    try:
        while True:
            if await stream.receive() == HALF_CLOSED:
                relay.half_close()
    except _OVER:
        relay.discard()
