"""The connectors that come with the package."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from . import _settings as settings
from ._dial import is_literal
from .abc import Connector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._dial import Dial
    from ._io._link import Link

__all__ = ("TCPConnector", "TLSConnector", "UnixConnector")


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


class TLSConnector:
    """TLS over TCP, or over what another connector opens.

    The handshake is part of the attempt: its errors fail the request, its time is the request's. The
    peer's certificate is verified by the system's trust and for the server's name, unless a context of
    one's own says otherwise.

    :param ssl_context: a client context; by default `ssl.create_default_context()`
    :param server_hostname: the name to verify and to send (SNI, RFC 6066 3); by default ``for_addr``
        of the key
    :param alpn: protocols to offer, the preferred first (RFC 7301); for a context of one's own they
        are set on it
    :param over: the connector below, by default `TCPConnector()`
    :param standard_compatible: whether an end of stream without TLS's own end raises
        `BrokenResourceError`, as RFC 8446 6.1 wants it, or passes for an end
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        alpn: Sequence[str] | None = None,
        *,
        over: Connector | None = None,
        standard_compatible: bool = True,
    ) -> None:
        settings.client_context("ssl_context", ssl_context)
        if server_hostname is not None:
            settings.text("server_hostname", server_hostname)
        settings.instance("over", over, Connector)
        self._context = ssl_context
        self._server_hostname = server_hostname
        self._alpn = settings.protocols("alpn", alpn)
        self._over: Connector = TCPConnector() if over is None else over
        self._strict = standard_compatible
        if ssl_context is not None and self._alpn is not None:
            ssl_context.set_alpn_protocols(self._alpn)

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        link = await self._over.connect(dial)
        name = self._server_hostname or dial.key.for_addr
        return await dial.start_tls(link, self._get_context(), _wire_name(name), strict=self._strict)

    def _get_context(self) -> ssl.SSLContext:
        # Made at the first use: loading the system's trust takes some 10 ms, and most managers have
        # a connector for "https" that they never use.
        if self._context is None:
            self._context = ssl.create_default_context()
            if self._alpn is not None:
                self._context.set_alpn_protocols(self._alpn)
        return self._context


def _wire_name(name: str) -> str:
    """Bring a server name into the form that TLS sends and checks: no zone, no trailing dot."""
    if is_literal(name):
        return name.partition("%")[0]
    return name.rstrip(".")
