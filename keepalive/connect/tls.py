"""TLS over whatever another connector opens."""

from __future__ import annotations

import ssl
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

from anyio import BrokenResourceError

from keepalive.base import arguments as settings
from keepalive.base.types import Phase
from keepalive.connect.connector import Connector

from .tcp import TCPConnector, Tunnelling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from keepalive.base.types import Key
    from keepalive.transport.link import Link

    from .dial import Dial


class TLSConnector:
    """TLS over TCP, or over what another connector opens.

    The handshake is part of the attempt: its errors fail the request, its time is the request's. The
    peer's certificate is verified by the system's trust and for the server's name, unless a context of
    one's own says otherwise.

    :param ssl_context: a client context, by default `ssl.create_default_context()`; or a plain function
        that is given the key of each attempt and returns one. It should return the same one for the same
        key: sessions are resumed within a context only. Client certificates are loaded into it; it is to
        be ready before its first use, since a resumed session keeps what was agreed when it began
    :param server_hostname: the name to verify and to send (SNI, RFC 6066 3); by default ``for_addr``
        of the key
    :param alpn: protocols to offer, the preferred first (RFC 7301); for a context of one's own they
        are set on it
    :param over: the connector below, by default `TCPConnector()`. One for a proxy makes the tunnel only,
        whatever it would do inside
    :param standard_compatible: whether an end of stream without TLS's own end raises
        `BrokenResourceError`, as RFC 8446 6.1 wants it, or passes for an end
    :param resume: whether to offer the newest session that the manager has of the same key, name and
        context. A peer that knows it no more does a full handshake instead; if one breaks the handshake
        off, it gets a new connection with a full one, and is offered none for ten minutes
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext | Callable[[Key], ssl.SSLContext] | None = None,
        server_hostname: str | None = None,
        alpn: Sequence[str] | None = None,
        *,
        over: Connector | None = None,
        standard_compatible: bool = True,
        resume: bool = True,
    ) -> None:
        self._context: ssl.SSLContext | None = None
        self._choose: Callable[[Key], ssl.SSLContext] | None = None
        if callable(ssl_context) and not isinstance(ssl_context, type):
            if iscoroutinefunction(ssl_context):
                msg = f"ssl_context must be a plain function, not {ssl_context!r}, which is async"
                raise TypeError(msg)
            self._choose = ssl_context
        else:
            settings.client_context("ssl_context", ssl_context)
            self._context = ssl_context if isinstance(ssl_context, ssl.SSLContext) else None
        if server_hostname is not None:
            settings.text("server_hostname", server_hostname)
        settings.instance("over", over, Connector)
        self._server_hostname = server_hostname
        self._alpn = settings.protocols("alpn", alpn)
        below: Connector = TCPConnector() if over is None else over
        self._below = below.tunnel if isinstance(below, Tunnelling) else below.connect
        self._strict = settings.flag("standard_compatible", standard_compatible)
        self._resume = settings.flag("resume", resume)
        if self._context is not None and self._alpn is not None:
            self._context.set_alpn_protocols(self._alpn)

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        return await self.connect_over(dial, self._below)

    async def connect_over(self, dial: Dial, below: Callable[[Dial], Awaitable[Link]]) -> Link:
        """Open one connection over what ``below`` opens, instead of what ``over`` does."""
        link = await below(dial)
        dial.phase = Phase.TLS
        name = self._server_hostname or dial.key.for_addr
        context = self._context_for(dial.key)
        try:
            return await dial.start_tls(link, context, name, strict=self._strict, resume=self._resume)
        except (ssl.SSLError, BrokenResourceError):
            if not dial.session_refused:
                raise
        dial.give_up(link)
        link = await below(dial)
        return await dial.start_tls(link, context, name, strict=self._strict, resume=False)

    def _context_for(self, key: Key) -> ssl.SSLContext:
        if self._choose is not None:
            context = self._choose(key)
            settings.client_context(f"what ssl_context returns for {key}", context, none=False)
            if self._alpn is not None:
                context.set_alpn_protocols(self._alpn)
            return context
        # Made at the first use: loading the system's trust takes some 10 ms, and most managers have
        # a connector for "https" that they never use.
        if self._context is None:
            self._context = ssl.create_default_context()
            if self._alpn is not None:
                self._context.set_alpn_protocols(self._alpn)
        return self._context
