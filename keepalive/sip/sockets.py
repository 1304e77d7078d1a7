"""The socket that a pool is given: where connections arrive, or one for datagrams."""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from keepalive.base.addresses import target_of, unmapped
from keepalive.base.failure import text_of
from keepalive.transport.datagrams import Datagrams
from keepalive.transport.link import Link
from keepalive.transport.listener import Listener
from keepalive.transport.tls import TLSLink

from .connection import Connection
from .core.flow import HANDSHAKE, OPEN
from .core.framer import parse_datagram
from .core.stun import binding_response, is_stun
from .source import UNSPECIFIED, Address, Source, host_and_port

if TYPE_CHECKING:
    import ssl

    from .core.flow import HostPort
    from .core.outgoing import Outgoing
    from .engine import Engine

logger = logging.getLogger("keepalive.sip")

ACCEPTS_PER_TURN: Final = 64  # connections accepted before others have their turn
ACCEPT_PAUSE: Final = 0.1  # seconds until accepting is tried again when descriptors or memory were short
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

READS_PER_TURN: Final = 64  # datagrams read before others have their turn
MAX_REMEMBERED: Final = 4096  # peers of which it is remembered at which address they asked


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
        for _ in range(0 if self._pausing else ACCEPTS_PER_TURN):
            try:
                found = self._link.try_accept()
            except OSError as exc:
                if exc.errno not in _OUT_OF_RESOURCES:
                    continue  # the caller had gone before we came
                if not self._warned:
                    self._warned = True
                    logger.warning("cannot accept connections: %s; trying again", exc.strerror)
                self._pausing = True
                self._pause.move(ACCEPT_PAUSE)
                return 1
            if found is None:
                self._warned = False
                return 1
            sock, address = found
            self._accept(sock, host_and_port(address))
        if not self._pausing:
            self._engine.read_later(self)
        return ACCEPTS_PER_TURN

    def _accept(self, sock: socket.socket, peer: HostPort) -> None:
        engine, context = self._engine, self._context
        link = self._admit(sock, peer[0])
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

    def _admit(self, sock: socket.socket, address: str) -> Link | None:
        """Return the link of a connection; None if it is not to be had, or not wanted."""
        engine = self._engine
        no_certificate = self._proto == "tls" and self._context is None
        if no_certificate or engine.flows.limit_reached(address) or not engine.allows(address):
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


class UDPSocket:
    """Sends and receives the datagrams of one socket."""

    def __init__(self, engine: Engine, sock: socket.socket, *, connected: bool) -> None:
        self._engine = engine
        self._queue: deque[tuple[Outgoing, Any]] = deque()
        self._queued = 0
        self._connected = connected
        self._local_by_peer: dict[tuple[str, int], str] = {}  # at which address of ours a peer asked last
        self._ipv6 = sock.family == socket.AF_INET6
        self._families = _families_of(sock)
        self._link = Datagrams(sock, engine.reactor.poller)
        self._link.slot = self
        engine.close_socket = self.close

    def read(self) -> int:
        """Read what waits, for a while."""
        engine = self._engine
        for n in range(READS_PER_TURN):
            if engine.inbox.full:
                engine.inbox.stalled[self] = None
                return n + 1
            if self._link.closed:
                return n + 1
            try:
                found = self._link.try_receive_from(65536)
            except OSError as exc:  # what became of a datagram sent before
                self._unreachable(exc)
                continue
            if found is None:
                return n + 1
            self._receive(*found)
        engine.read_later(self)
        return READS_PER_TURN

    def _receive(self, data: bytes, address: Any, local: str) -> None:
        engine = self._engine
        host, port = host_and_port(address)
        if not engine.allows(host, port):
            engine.flaws["not from dst"] += 1
            return
        answer = None
        if is_stun(data):
            answer = binding_response(data, host, port)
        elif (head := parse_datagram(data)) is not None:
            source = self._source(host, port, unmapped(local))
            self._remember_local(source)
            if head.flaw:
                answer = engine.refuse(head.flaw, head.header, head.raw, source)
            else:
                engine.deliver(head, source)
        if answer is not None:
            self._send_answer(answer, None if self._connected else address, local)

    def _source(self, host: str, port: int, local: str = "") -> Source:
        place = self._engine.local_address
        return Source(host, host, port, "udp", local=Address(local or place.addr, place.port))

    def _unreachable(self, error: OSError) -> None:
        """Note what ICMP said of a datagram; only of a connected socket is it told."""
        engine = self._engine
        engine.flaws[f"icmp: {error.strerror}"] += 1
        if engine.allowed_peer is not None:
            engine.call_lost(self._source(*engine.allowed_peer), "unreachable")

    def _remember_local(self, source: Source) -> None:
        """Remember at which address of ours a peer has asked: what is sent to it comes from there.

        That is for answers that go where their Via says, and for requests: a NAT or firewall before the peer
        knows no other address.
        """
        peer, local = (source.addr, source.port), source.local.addr
        if self._engine.local_address.addr in UNSPECIFIED and local not in UNSPECIFIED:
            self._local_by_peer.pop(peer, None)
            self._local_by_peer[peer] = local
            if len(self._local_by_peer) > MAX_REMEMBERED:
                del self._local_by_peer[next(iter(self._local_by_peer))]

    def _send_answer(self, data: bytes, address: Any, local: str) -> None:
        try:
            self._link.try_send_to(data, address, local)
        except OSError as exc:
            logger.info("cannot answer: %s", exc.strerror)

    def supports(self, addr: str) -> bool:
        """Say whether an address is of a family that the socket can send to."""
        return (":" in addr) in self._families

    def send(self, out: Outgoing, addr: str, port: int, local: str) -> None:
        """Send a datagram, or put it in the queue while the kernel has no room.

        :param local: the address of ours that it is to come from; if it is unspecified, the one at which the
            peer asked last
        :raises OSError: the zone of an IPv6 address is not known
        """
        if local in UNSPECIFIED:
            local = self._local_by_peer.get((addr, port), "")
        address = None if self._connected else (target_of(addr, port, ipv6=self._ipv6), local)
        out.sent_to = self._source(addr, port, local)
        if self._queue:
            if self._queued + len(out.data) > self._engine.config.max_queue:
                self._engine.completions.fail(out, "queue", errno.ENOBUFS)
                return
        elif self._try_send(out, address):
            return
        self._queue.append((out, address))
        self._queued += len(out.data)
        self._link.writer = self

    def _try_send(self, out: Outgoing, address: Any) -> bool:
        try:
            if not self._link.try_send_to(out.data, *(address or (None,))):
                return False
        except OSError as exc:
            number = exc.errno if exc.errno is not None and exc.errno > 0 else None
            reason = "size" if number == errno.EMSGSIZE else "send"
            self._engine.completions.fail(out, reason, number, text_of(exc))
        else:
            self._engine.completions.complete(out, None)
        return True

    def done(self) -> bool:
        """Say that this waiting writer can always be woken; see `Parking`."""
        return False

    def set_result(self, _: None = None, /) -> None:
        """Send on: the kernel has room. See `Parking`."""
        while self._queue and not self._link.closed:
            out, address = self._queue[0]
            if not out.finished and not self._try_send(out, address):
                return
            self._queue.popleft()
            self._queued -= len(out.data)
        self._link.writer = None

    def close(self) -> None:
        """Close the socket; what was not sent is completed."""
        self._link.writer = None
        self._link.close()
        for out, _ in self._queue:
            self._engine.completions.fail(out, "shutdown", errno.ECANCELED, "the pool was closed")


def _families_of(sock: socket.socket) -> tuple[bool, ...]:
    """Say whether a socket can send to IPv6, to IPv4 (False), or both."""
    if sock.family == socket.AF_INET:
        return (False,)
    host = sock.getsockname()[0]
    if host == "::":
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return (True,) if only else (True, False)
    return (unmapped(host) == host,)
