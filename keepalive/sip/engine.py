"""What lives between a pool's entry and its end: reactor, timer, connections; and what the core wants done.

Everything here is plain and runs in callbacks of the event loop. Callbacks of users are called when nothing
of the pool is half done; completions always in a turn of their own, in order.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

from keepalive.resolve.dns import DNSResolver
from keepalive.resolve.service import Names
from keepalive.transport.link import Link
from keepalive.transport.reactor import Reactor
from keepalive.transport.tls import TLSLink

from .connection import Connection
from .core.flow import HANDSHAKE, OPEN
from .errors import PoolClosed, send_error
from .listener import StreamListener
from .mailbox import Mailbox
from .services import Services
from .source import Source, local_of

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from keepalive.transport.runtime import Runtime

    from .config import SipConfig
    from .core.flows import Flows
    from .core.outgoing import Outgoing
    from .core.routes import Place
    from .dispatch import Reader
    from .messages import Parser

logger = logging.getLogger("keepalive.sip")


class Engine:
    """The working parts of one pool; what is here for others is the `Effects` of its flows.

    :ivar only: the peer that this pool is restricted to
    :ivar resend: sends a message to its other destination; set by the sender
    :ivar lost: the user's callback for connections that end; `lost_idle`: for all of them
    """

    def __init__(self, runtime: Runtime, proto: str, config: SipConfig, parser: Parser | None) -> None:
        self.reactor = Reactor(runtime, self._readable, self._abandoned)
        self.clock = self.reactor.clock
        self.proto = proto
        self.config = config
        self.server_context: ssl.SSLContext | None = None
        self.only: Place | None = None
        self.names = Names(config.resolver or DNSResolver(), self.reactor)
        self.services = Services(self.reactor, config, parser, self, self._failed)
        self.flows: Flows[Connection] = self.services.flows
        self.complete: Final = self.services.completions.complete
        self.listener: StreamListener | None = None
        self.mailbox: Mailbox | None = None
        self.resend: Callable[[Outgoing], None]
        self.lost_callback: Callable[[Source, str], object] | None = None
        self.lost_idle = False
        self.closed = False
        self._options = config.options.listed()
        self._timer = self.reactor.timer(self._ring)

    def listen(self, sock: socket.socket, *, connected: bool) -> None:
        """Receive from the pool's socket."""
        sock.setblocking(False)
        self.services.place = local_of(sock)
        if self.proto == "udp":
            self.mailbox = Mailbox(
                self.services, sock, connected=connected, admits=self.admits, unreachable=self._unreachable
            )
        else:
            self.listener = StreamListener(self.services, sock, self._accepted)

    def _readable(self, root: Link) -> None:
        if root.slot is not None:  # else it is an attempt's
            self.services.dispatcher.readable(root.slot)

    def _failed(self, reader: Reader) -> None:
        if isinstance(reader, Connection):
            reader.end("error", None, "an error of the pool itself")

    def _ring(self) -> None:
        if not self.closed:
            self.flows.tick(self.clock())

    # -- effects --------------------------------------------------------------------------------------

    def wake_at(self, when: float) -> None:
        """See `Effects`."""
        if not self.closed:
            self._timer.move(max(0.0, when - self.clock()))

    def call_soon(self) -> None:
        """See `Effects`."""
        self.reactor.call_soon_threadsafe(lambda: self.services.call(self.services.completions.due()))

    def look(self, flow: Connection) -> None:
        """See `Effects`."""
        if flow.link is not None:
            flow.link.readable = True
            self.services.dispatcher.read_now(flow)

    def drain(self, flow: Connection) -> None:
        """See `Effects`."""
        flow.read()

    def stop(self, flow: Connection) -> None:
        """See `Effects`."""
        self.services.dispatcher.ready.pop(flow, None)
        self.services.inbox.forget(flow)
        if flow.attempt is not None:
            flow.attempt.cancel()
        if flow.link is not None:
            flow.link.writer = None

    def lost(self, flow: Connection, reason: str, *, transactions: bool, stood: bool) -> None:
        """See `Effects`."""
        if transactions or (self.lost_idle and stood):
            self._tell_lost(flow.source, reason)

    def _tell_lost(self, source: Source, reason: str) -> None:
        lost = self.lost_callback
        if lost is not None:
            self.services.completions.call_soon(lambda _: lost(source, reason), None)

    def close(self, flow: Connection) -> None:
        """See `Effects`."""
        root = flow.root
        if flow.link is not None and root is not None:
            root.slot = None
            flow.link.close()

    # -- connections ----------------------------------------------------------------------------------

    def admits(self, address: str, port: int) -> bool:
        """Say whether a peer is the one that this pool is restricted to, or there is no such restriction."""
        if self.only is None:
            return True
        return address == self.only[0] and (self.proto != "udp" or self.only[1] in (0, port))

    def _accepted(self, sock: socket.socket, peer: Place) -> None:
        """Take a connection that has arrived."""
        counts, context = self.services.counts, self.server_context
        no_certificate = self.proto == "tls" and context is None
        if no_certificate or self.flows.full_for(peer[0]) or not self.admits(*peer):
            counts["refused"] += 1
            sock.close()
            return
        try:
            for option in self._options:
                sock.setsockopt(*option)
            link = Link(sock, self.reactor.poller)
        except OSError as exc:  # the kernel's limit of what may be watched, or it does not know an option
            logger.warning("cannot take a connection: %s", exc.strerror)
            counts["refused"] += 1
            sock.close()
            return
        counts["accepted"] += 1
        state = OPEN if context is None else HANDSHAKE
        flow = link.slot = Connection(self.services, self.proto, peer, name=None, state=state)
        self.flows.add(flow, self.clock())
        if context is None:
            flow.start(link)
        else:
            flow.link = TLSLink(link, context, None, strict=False, server_side=True)

    def _unreachable(self, error: OSError) -> None:
        """Note what ICMP said of a datagram; only of a connected socket is it told."""
        self.services.note_flaw(f"icmp: {error.strerror}")
        if self.only is not None:
            addr, port = self.only
            self._tell_lost(Source(addr, addr, port, "udp", local=self.services.place), "unreachable")

    # -- the end --------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """End all connections; nothing is received or sent from here on."""
        if self.closed:
            return
        self.closed = True
        self.services.dispatcher.ready.clear()
        self.flows.shutdown(self.clock())
        if self.listener is not None:
            self.listener.close()
        if self.mailbox is not None:
            for out in self.mailbox.close():
                self.complete(out, send_error(out.where, "shutdown", errno.ECANCELED, "the pool was closed"))
        self.services.inbox.close()

    async def aclose(self) -> None:
        """End everything and wait for the tasks that were told to end."""
        self.shutdown()
        self.names.close()
        try:
            await self.reactor.wait_for_tasks()
        finally:
            self.services.call(self.services.completions.rest())
            self._timer.cancel()
            await self.reactor.aclose()

    def check_open(self) -> None:
        """Refuse what a closed pool cannot do."""
        if self.closed:
            msg = "the pool has been closed"
            raise PoolClosed(msg)

    def _abandoned(self) -> None:
        """End this copy after a fork; its descriptors are closed already."""
        self.closed = True
