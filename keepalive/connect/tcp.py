"""Connectors without a layer of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from keepalive.base import arguments as settings

from .options import DEFAULTS, SocketOptions

if TYPE_CHECKING:
    from keepalive.transport.link import Link

    from .dial import Dial


class TCPConnector:
    """Plain TCP to ``addr`` and ``port`` of the key.

    :param options: what its sockets are set to; by default TCP_NODELAY and TCP keep-alive
    :raises TypeError: an argument is wrong; the message names it
    """

    options = DEFAULTS

    def __init__(self, options: SocketOptions | None = None) -> None:
        settings.instance("options", options, SocketOptions)
        if options is not None:
            self.options = options.listed()

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        return await dial.connect_tcp(dial.key.addr, dial.key.port, self.options)


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
