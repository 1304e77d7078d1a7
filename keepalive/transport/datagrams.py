"""A datagram socket among a poller's links."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from .link import Link

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .poller import Poller

_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", {"linux": 8, "darwin": 26}.get(sys.platform))
_RECV6: Final = getattr(socket, "IPV6_RECVPKTINFO", None)
_PKTINFO6: Final = getattr(socket, "IPV6_PKTINFO", None)
_INFO4: Final = struct.Struct("=I4s4s")  # in_pktinfo: interface, our address, the header's address
_INFO6: Final = struct.Struct("=16sI")  # in6_pktinfo: the header's address, interface
_ROOM: Final = socket.CMSG_SPACE(_INFO4.size) + socket.CMSG_SPACE(_INFO6.size)
_ANY: Final = ("0.0.0.0", "::")
_GONE: Final = {errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENETUNREACH}
"""What the kernel says, in one case or another, of an address that is not ours."""


class Datagrams(Link):
    """A datagram socket, connected or not, registered with a poller.

    On one that is bound to no address in particular, each datagram says which one it came to, and one can be
    sent from there (RFC 3542 6, IP_PKTINFO); where the system cannot do that, the system chooses.

    An error that the kernel tells of a former datagram (ICMP) is not the socket's end: reading goes on.

    :ivar local: the address it is bound to, "" if it is none in particular
    """

    __slots__ = ("_tells", "local")

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        super().__init__(sock, poller)
        host: str = sock.getsockname()[0]
        self.local = "" if host in _ANY else host
        self._tells = False
        if self.local:
            return
        if host == "::" and _RECV6 is not None and _PKTINFO6 is not None:
            sock.setsockopt(socket.IPPROTO_IPV6, _RECV6, 1)
            self._tells = True
        if _IP_PKTINFO is not None:
            with suppress(OSError):  # an IPv6 socket has it only where it may be one of IPv4 too
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                self._tells = self._tells or host != "::"

    def try_receive_from(self, max_bytes: int) -> tuple[bytes, Any, str] | None:
        """Return one datagram, its sender, and which of our addresses it came to; None if one must wait.

        That is "" if that is not known, or none to send from (a multicast group).

        :raises OSError: what became of an earlier datagram on a connected socket, ECONNREFUSED for example
        """
        try:
            if not self._tells:
                return *self.sock.recvfrom(max_bytes), self.local
            data, notes, _, address = self.sock.recvmsg(max_bytes, _ROOM)
        except (BlockingIOError, InterruptedError):
            self.readable = self.hung = False
            return None
        return data, address, _arrived_at(notes)

    def try_send_to(self, data: bytes, address: Any | None, local: str = "") -> bool:
        """Give one datagram to the kernel; False if it has no room now.

        :param address: None on a connected socket
        :param local: which of our addresses it is to come from; "" lets the system choose, and so does one
            that is no longer ours
        :raises OSError: it cannot be sent (EMSGSIZE, unreachable, ...)
        """
        try:
            if address is None:
                self._send(data)
            elif not local or not self._tells:
                self.sock.sendto(data, address)
            else:
                self._send_from(data, address, local)
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def _send(self, data: bytes) -> None:
        try:
            self.sock.send(data)
        except ConnectionRefusedError:  # that was the one before; this one has not been sent
            self.sock.send(data)

    def _send_from(self, data: bytes, address: Any, local: str) -> None:
        try:
            self.sock.sendmsg([data], [_leaving_from(local, len(address) > 2)], 0, address)
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
            self.sock.sendto(data, address)


def _arrived_at(notes: Iterable[tuple[int, int, bytes]]) -> str:
    found = ""
    for level, kind, data in notes:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _INFO4.size:
            # Not the header's address: that may be a broadcast or a group, which nothing can come from. An
            # IPv6 socket tells both, and this one counts.
            return socket.inet_ntop(socket.AF_INET, _INFO4.unpack_from(data)[1])
        if level == socket.IPPROTO_IPV6 and kind == _PKTINFO6 and len(data) >= _INFO6.size:
            address = _INFO6.unpack_from(data)[0]
            found = "" if address[0] == 0xFF else socket.inet_ntop(socket.AF_INET6, address)
    return found


def _leaving_from(local: str, ipv6: bool) -> tuple[int, int, bytes]:
    if not ipv6:
        assert _IP_PKTINFO is not None, "checked when the socket was set up"
        ours = socket.inet_pton(socket.AF_INET, local)
        return socket.IPPROTO_IP, _IP_PKTINFO, _INFO4.pack(0, ours, bytes(4))
    assert _PKTINFO6 is not None, "as above"
    if ":" not in local:
        local = "::ffff:" + local
    ours = socket.inet_pton(socket.AF_INET6, local.partition("%")[0])
    return socket.IPPROTO_IPV6, _PKTINFO6, _INFO6.pack(ours, 0)
