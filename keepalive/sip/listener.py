"""The socket at which connections arrive."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

from keepalive.transport.link import Link
from keepalive.transport.listener import Listener
from keepalive.transport.tls import TLSLink

from .connection import Connection
from .core.flow import HANDSHAKE, OPEN
from .source import place_of

if TYPE_CHECKING:
    import socket
    import ssl

    from .core.flow import Place
    from .engine import Engine

logger = logging.getLogger("keepalive.sip")

ACCEPTS: Final = 64
"""Connections accepted before others have their turn."""
SHORT_PAUSE: Final = 0.1
"""Seconds until accepting is tried again when descriptors or memory were short."""
_SHORT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class StreamListener:
    """Takes the connections that arrive.

    :param context: for TLS: without one they are refused
    """

    def __init__(
        self, engine: Engine, sock: socket.socket, proto: str, context: ssl.SSLContext | None
    ) -> None:
        self._engine = engine
        self._proto = proto
        self._context = context
        self._options = engine.config.options.listed()
        self._warned = self._pausing = False
        self._link = Listener(sock, engine.reactor.poller)
        self._link.slot = self
        self._pause = engine.reactor.timer(self._retry)
        engine.close_socket = self.close

    def read(self) -> int:
        """Accept what waits, for a while."""
        for _ in range(0 if self._pausing else ACCEPTS):
            try:
                found = self._link.try_accept()
            except OSError as exc:
                if exc.errno not in _SHORT:
                    continue  # the caller had gone before we came
                if not self._warned:
                    self._warned = True
                    logger.warning("cannot accept connections: %s; trying again", exc.strerror)
                self._pausing = True
                self._pause.move(SHORT_PAUSE)
                return 1
            if found is None:
                self._warned = False
                return 1
            sock, address = found
            self._accept(sock, place_of(address))
        if not self._pausing:
            self._engine.read_later(self)
        return ACCEPTS

    def _accept(self, sock: socket.socket, peer: Place) -> None:
        engine, context = self._engine, self._context
        link = self._linked(sock, peer[0])
        if link is None:
            engine.counts["refused"] += 1
            sock.close()
            return
        engine.counts["accepted"] += 1
        state = OPEN if context is None else HANDSHAKE
        flow = link.slot = Connection(engine, self._proto, peer, state=state)
        engine.flows.add(flow, engine.clock())
        if context is None:
            flow.start(link)
        else:
            flow.link = TLSLink(link, context, None, strict=False, server_side=True)

    def _linked(self, sock: socket.socket, address: str) -> Link | None:
        """Return the link of a connection; None if it is not to be had, or not wanted."""
        engine = self._engine
        no_certificate = self._proto == "tls" and self._context is None
        if no_certificate or engine.flows.full_for(address) or not engine.admits(address):
            return None
        try:
            for option in self._options:
                sock.setsockopt(*option)
            return Link(sock, engine.reactor.poller)
        except OSError as exc:  # the kernel's limit of what may be watched, or it does not know an option
            logger.warning("cannot take a connection: %s", exc.strerror)
            return None

    def _retry(self) -> None:
        self._pausing = False
        self._engine.read_now(self)

    def close(self) -> None:
        """Close the socket."""
        self._pause.cancel()
        self._link.close()
