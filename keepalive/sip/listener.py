"""The socket at which connections arrive."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

from keepalive.transport.listener import Listener

from .source import place_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .core.routes import Place
    from .services import Services

logger = logging.getLogger("keepalive.sip")

ACCEPTS: Final = 64
"""Connections accepted before others have their turn."""
SHORT_PAUSE: Final = 0.1
"""Seconds until accepting is tried again when descriptors or memory were short."""
_SHORT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class StreamListener:
    """Takes the connections that arrive.

    :param accepted: called with each, and whom it is from
    """

    def __init__(
        self, services: Services, sock: socket.socket, accepted: Callable[[socket.socket, Place], None]
    ) -> None:
        self._dispatcher = services.dispatcher
        self._accepted = accepted
        self._warned = self._pausing = False
        self.link = Listener(sock, services.reactor.poller)
        self.link.slot = self
        self._pause = services.reactor.timer(self._retry)

    def read(self) -> int:
        """Accept what waits, for a while."""
        for _ in range(0 if self._pausing else ACCEPTS):
            try:
                found = self.link.try_accept()
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
            self._accepted(sock, place_of(address))
        if not self._pausing:
            self._dispatcher.postpone(self)
        return ACCEPTS

    def _retry(self) -> None:
        self._pausing = False
        self._dispatcher.read_now(self)

    def close(self) -> None:
        """Close the socket."""
        self._pause.cancel()
        self.link.close()
