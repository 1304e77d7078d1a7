"""The socket of a UDP pool, and what every pool asks of the socket it is given."""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from keepalive.base.addresses import target_of
from keepalive.base.failure import text_of
from keepalive.transport.datagrams import Datagrams

from .core.framer import whole
from .core.stun import binding_response, is_stun
from .errors import send_error
from .source import ANY, MAPPED, Address, Source, place_of, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from .core.outgoing import Outgoing
    from .services import Services

logger = logging.getLogger("keepalive.sip")

READS: Final = 64
"""Datagrams read before others have their turn."""
MAX_MET: Final = 4096
"""Peers of which it is remembered at which address they asked."""


class Mailbox:
    """Sends and receives the datagrams of one socket.

    :param admits: says whether a peer may talk to us
    :param unreachable: called with what became of a datagram that was sent before
    """

    def __init__(
        self,
        services: Services,
        sock: socket.socket,
        *,
        connected: bool,
        admits: Callable[[str, int], bool],
        unreachable: Callable[[OSError], None],
    ) -> None:
        self._services = services
        self._admits = admits
        self._unreachable = unreachable
        self._queue: deque[tuple[Outgoing, Any]] = deque()
        self._queued = 0
        self._connected = connected
        self._met: dict[tuple[str, int], str] = {}  # at which address of ours a peer asked last
        self._ipv6 = sock.family == socket.AF_INET6
        self._reaches = _families(sock)
        self.link = Datagrams(sock, services.reactor.poller)
        self.link.slot = self

    def read(self) -> int:
        """Read what waits, for a while."""
        services = self._services
        for n in range(READS):
            if services.inbox.full:
                services.inbox.stall(self)
                return n + 1
            if self.link.closed:
                return n + 1
            try:
                found = self.link.try_receive_from(65536)
            except OSError as exc:  # what became of a datagram sent before
                self._unreachable(exc)
                continue
            if found is None:
                return n + 1
            self._take(*found)
        services.dispatcher.postpone(self)
        return READS

    def _take(self, data: bytes, address: Any, local: str) -> None:
        services = self._services
        host, port = place_of(address)
        if not self._admits(host, port):
            services.note_flaw("not from dst")
            return
        answer = None
        if is_stun(data):
            answer = binding_response(data, host, port)
        elif (head := whole(data)) is not None:
            ours = plain(local) or self._services.place.addr
            self._meet(host, port, ours)
            source = Source(host, host, port, "udp", local=Address(ours, self._services.place.port))
            if head.flaw:
                answer = services.refuse(head.flaw, head.header, head.raw, source)
            else:
                services.deliver(head, source)
        if answer is not None:
            self._send_now(answer, None if self._connected else address, local)

    def _meet(self, host: str, port: int, local: str) -> None:
        """Remember at which address of ours a peer has asked: what is sent to it comes from there.

        That is for answers that go where their Via says, and for requests: a NAT or firewall before the peer
        knows no other address.
        """
        if self._services.place.addr in ANY and local not in ANY:
            self._met.pop((host, port), None)
            self._met[host, port] = local
            if len(self._met) > MAX_MET:
                del self._met[next(iter(self._met))]

    def _send_now(self, data: bytes, address: Any, local: str) -> None:
        try:
            self.link.try_send_to(data, address, local)
        except OSError as exc:
            logger.info("cannot answer: %s", exc.strerror)

    def fits(self, addr: str) -> bool:
        """Say whether an address is of a family that the socket can send to."""
        return (":" in addr) in self._reaches

    def send(self, out: Outgoing, addr: str, port: int, local: str) -> None:
        """Send a datagram, or put it in the queue while the kernel has no room.

        :param local: the address of ours that it is to come from; "" for the one at which the peer asked last
        :raises OSError: the zone of an IPv6 address is not known
        """
        local = local or self._met.get((addr, port), "")
        if self._connected:
            address = None
        else:
            address = target_of(addr if ":" in addr or not self._ipv6 else MAPPED + addr, port), local
        out.went = Source(
            addr,
            addr,
            port,
            "udp",
            local=Address(local or self._services.place.addr, self._services.place.port),
        )
        if self._queue:
            if self._queued + len(out.data) > self._services.config.max_queue:
                self._services.completions.complete(out, send_error(out.where, "queue", errno.ENOBUFS))
                return
        elif self._try(out, address):
            return
        self._queue.append((out, address))
        self._queued += len(out.data)
        self.link.writer = self

    def _try(self, out: Outgoing, address: Any) -> bool:
        try:
            if not self.link.try_send_to(out.data, *(address or (None,))):
                return False
        except OSError as exc:
            number = exc.errno if exc.errno is not None and exc.errno > 0 else None
            reason = "size" if number == errno.EMSGSIZE else "send"
            self._services.completions.complete(out, send_error(out.where, reason, number, text_of(exc)))
        else:
            self._services.completions.complete(out, None)
        return True

    def done(self) -> bool:
        """Say that this waiting writer can always be woken; see `Parking`."""
        return False

    def set_result(self, _: None = None, /) -> None:
        """Send on: the kernel has room. See `Parking`."""
        while self._queue and not self.link.closed:
            out, address = self._queue[0]
            if not out.finished and not self._try(out, address):
                return
            self._queue.popleft()
            self._queued -= len(out.data)
        self.link.writer = None

    def close(self) -> list[Outgoing]:
        """Close the socket; return what was not sent."""
        self.link.writer = None
        self.link.close()
        return [out for out, _ in self._queue if not out.finished]


def _families(sock: socket.socket) -> tuple[bool, ...]:
    """Say whether a socket can send to IPv6, to IPv4 (False), or both."""
    if sock.family == socket.AF_INET:
        return (False,)
    host = sock.getsockname()[0]
    if host == "::":
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return (True,) if only else (True, False)
    return (plain(host) == host,)


def check_socket(proto: str, sock: object, *, connected: bool) -> None:
    """Check that a socket is what a pool of this kind needs.

    :raises TypeError, ValueError: it is not
    """
    if not isinstance(sock, socket.socket):
        msg = f"sock must be a socket, not {sock!r}"
        raise TypeError(msg)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        msg = f"sock must be an IPv4 or IPv6 socket, not {sock!r}"
        raise ValueError(msg)
    stream = sock.type == socket.SOCK_STREAM
    if stream != (proto != "udp"):
        kind = "a UDP" if proto == "udp" else "a listening TCP"
        msg = f"sock must be {kind} socket for {proto}, not {sock!r}"
        raise ValueError(msg)
    if stream and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        msg = "sock must be listening"
        raise ValueError(msg)
    if connected and stream:
        msg = "connected is for UDP sockets only"
        raise ValueError(msg)
    if connected:
        try:
            sock.getpeername()
        except OSError as exc:
            msg = "connected was given, but sock has no peer"
            raise ValueError(msg) from exc
