"""A datagram socket among a poller's links."""

from __future__ import annotations

from typing import Any

from .link import Link


class Datagrams(Link):
    """A datagram socket, connected or not, registered with a poller.

    An error that the kernel tells of a former datagram (ICMP) is not the socket's end: reading goes on.
    """

    __slots__ = ()

    def try_receive_from(self, max_bytes: int) -> tuple[bytes, Any] | None:
        """Return one datagram and where it came from; None if one must wait.

        :raises OSError: what became of an earlier datagram on a connected socket, ECONNREFUSED for example
        """
        try:
            return self.sock.recvfrom(max_bytes)
        except (BlockingIOError, InterruptedError):
            self.readable = self.hung = False
            return None

    def try_send_to(self, data: bytes, address: Any | None) -> bool:
        """Give one datagram to the kernel; False if it has no room now.

        :param address: None on a connected socket
        :raises OSError: it cannot be sent (EMSGSIZE, unreachable, ...)
        """
        try:
            if address is not None:
                self.sock.sendto(data, address)
                return True
            try:
                self.sock.send(data)
            except ConnectionRefusedError:  # that was the one before; this one has not been sent
                self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        return True
