"""Connectors without a layer of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from keepalive._dial import Dial
    from keepalive._io._link import Link


class TCPConnector:
    """Plain TCP to ``addr`` and ``port`` of the key, TCP_NODELAY and TCP keep-alive on."""

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        return await dial.connect_tcp(dial.key.addr, dial.key.port)


class UnixConnector:
    """A Unix stream socket; ``addr`` of the key is its path."""

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        return await dial.connect_unix(dial.key.addr)


@runtime_checkable
class Tunnelling(Protocol):
    """A connector that may do more than make a tunnel, and can make just that."""

    async def tunnel(self, dial: Dial) -> Link:
        """Open one connection without what would be done inside of it."""
