"""A listening socket among a poller's links: what is readable there are connections."""

from __future__ import annotations

import socket
from typing import Any

from .link import Link


class Listener(Link):
    """A listening stream socket, registered with a poller. Nothing is received or sent on it."""

    __slots__ = ()

    def try_accept(self) -> tuple[socket.socket, Any] | None:
        """Return a new connection (non-blocking) and its peer's address; None if one must wait.

        After an `OSError` that says that something is short (descriptors, memory) the connection still waits,
        and no event tells of it again: the caller must come back by himself.

        :raises OSError: the connection had died in the queue (ECONNABORTED), or something is short
        """
        try:
            sock, address = self.sock.accept()
        except (BlockingIOError, InterruptedError):
            self.readable = self.hung = False
            return None
        try:
            sock.setblocking(False)
            if sock.family != getattr(socket, "AF_UNIX", None):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            sock.close()
            raise
        return sock, address
