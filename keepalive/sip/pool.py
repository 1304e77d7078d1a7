"""The pool, as its users see it."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from anyio.lowlevel import checkpoint

from keepalive.base import arguments as settings
from keepalive.base.addresses import is_literal, target_of
from keepalive.base.hostname import canonical
from keepalive.transport.link import FAIR_RUN
from keepalive.transport.loops import current_runtime

from .config import SipConfig, SipTLS, check_socket, client_context, server_context
from .connection import Connection
from .engine import Engine
from .errors import PoolClosed
from .messages import Parser, outgoing
from .sending import PORTS, Sender
from .sockets import StreamListener, UDPSocket
from .source import UNKNOWN, Source, destination, host_and_port, local_address
from .stats import connections_of, stats_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from .core.outgoing import Outgoing
    from .errors import SendError
    from .messages import Packet
    from .stats import ConnectionInfo, SipStats

__all__ = ("SocketPool", "open_leg")

Proto = Literal["udp", "tcp", "tls"]


class SocketPool:
    """The sockets of one SIP leg: the one it was given, and the connections beside it.

    Use it as an async context manager, entered and left by one task; every other call may come from any task
    of that event loop. Leaving the block closes all connections and the socket it was given.

    :param proto: "udp", "tcp" or "tls"
    :param sock: a bound UDP socket, or a listening TCP socket; it becomes non-blocking. See `open_leg`
    :param dst: the only peer: everything is sent there, and nothing is taken from another address (for UDP
        from another port neither, if it has one)
    :param connected: the socket is a UDP socket that is connected to `dst`
    :param tls: certificates, for "tls"
    :param config: everything else that can be set
    :raises TypeError, ValueError: an argument is wrong; the message names it
    :raises OSError: a certificate cannot be read
    :raises ImportError: messages are to be parsed, but `sipmessage` is not installed
    """

    def __init__(
        self,
        proto: Proto,
        sock: socket.socket,
        *,
        dst: object = None,
        connected: bool = False,
        tls: SipTLS | None = None,
        config: SipConfig | None = None,
    ) -> None:
        if proto not in PORTS:
            msg = f'proto must be "udp", "tcp" or "tls", not {proto!r}'
            raise ValueError(msg)
        settings.instance("config", config, SipConfig)
        settings.instance("tls", tls, SipTLS)
        if (proto == "tls") != (tls is not None):
            msg = 'tls must be given for proto "tls", and only then'
            raise ValueError(msg)
        settings.flag("connected", connected)
        check_socket(proto, sock, connected=connected)
        self._proto = proto
        self._sock = sock
        self._connected = connected
        self._tls = tls
        self._config = SipConfig() if config is None else config
        self._dst = None if dst is None else _checked_dst(dst, proto)
        self._parser = None if self._config.raw else Parser()
        self._contexts = (None, None) if tls is None else (server_context(tls), client_context(tls))
        self._engine: Engine | None = None
        self._sender: Sender | None = None
        self._credit = FAIR_RUN

    # -- its life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start. Does not switch tasks. What arrives waits until somebody takes it.

        :raises RuntimeError: it was entered before
        :raises OSError: the socket has been closed
        """
        if self._engine is not None:
            msg = "a SocketPool can be entered only once"
            raise RuntimeError(msg)
        local = host_and_port(self._sock.getsockname())[0]
        only = None if self._dst is None else (self._dst.addr, self._dst.port)
        engine = Engine(current_runtime(), self._config, self._parser, local_address(self._sock), only)
        try:
            self._sender = self._start(engine, local)
        except BaseException:
            await engine.aclose()
            raise
        self._engine = engine
        return self

    def _start(self, engine: Engine, local: str) -> Sender:
        ours, theirs = self._contexts
        udp_socket = None
        self._sock.setblocking(False)
        if self._proto == "udp":
            udp_socket = UDPSocket(engine, self._sock, connected=self._connected)
        else:
            StreamListener(engine, self._sock, self._proto, ours)
        check_names = self._tls is not None and self._tls.verify_server and self._tls.client_context is None
        return Sender(engine, self._proto, udp_socket, local, theirs, check_names=check_names)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything; exceptions leave the block as they are."""
        await self._running().aclose()
        if exc_type is None:
            await checkpoint()  # after an exception, a cancellation met here would take its place

    async def aclose(self) -> None:
        """Close all connections and the socket; messages still waiting are completed. Switches tasks.

        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        await self._running().aclose()
        await checkpoint()

    def _running(self) -> Engine:
        engine = self._engine
        if engine is None:
            msg = "the SocketPool has not been entered: use it in `async with`"
            raise RuntimeError(msg)
        engine.reactor.check_here("a SocketPool belongs")
        return engine

    def _open(self) -> Engine:
        engine = self._running()
        if engine.closed:
            msg = "the pool has been closed"
            raise PoolClosed(msg)
        return engine

    # -- sending --------------------------------------------------------------------------------------

    async def send_to(self, packet: Packet, dst: object = None, *, fresh: bool = False) -> Source:
        """Send a message; return when all of it has been handed to the kernel.

        A response goes out on the connection that its request came in on; if that has gone, to where its top
        Via says, and to `dst` if nobody is to be found there. A request takes a connection to the same
        address, port and verified name, the most recently used one, or a new one. Over UDP everything goes
        to `dst`.

        Switches tasks if it must wait, and once in a while. When cancelled, a message of which nothing has
        gone out is withdrawn; else the rest of it goes out all the same, since the connection is others' too.

        :param packet: `sipmessage.Request` or `sipmessage.Response`, whose Content-Length is set here; or
            bytes, which are sent as they are. CR LFs alone are a sign of life
        :param dst: a `Source` (answer there), "host:port", "[v6]:port", (host, port), or a record with
            ``addr`` or ``host``, and ``port``. The port may be missing (5060, for TLS 5061). None for a
            response that is to go where its Via says, or for a pool that has a `dst` of its own
        :param fresh: open a connection for it, whatever there is; what follows then goes there too. Nothing
            changes for datagrams
        :return: where it went: the connection, for `close` and `keep`, and to be compared with what `lost`
            is told
        :raises SendError: it did not go out (all of it); `SendTimeout` if no connection stood in time
        :raises PoolClosed: the pool has been closed
        :raises TypeError, ValueError: an argument is wrong; the message names it
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        engine = self._open()
        out = self._submit(packet, dst, None, fresh)
        if not out.finished:
            self._credit = FAIR_RUN
            parked = out.parked = engine.reactor.park()
            try:
                await parked
            finally:
                engine.flows.withdraw(out)
        else:
            self._credit -= 1
            if self._credit < 0:
                self._credit = FAIR_RUN
                await checkpoint()
        if out.error is not None:
            raise out.error
        assert isinstance(out.sent_to, Source), "it went out"
        return out.sent_to

    def send_soon(
        self,
        packet: Packet,
        dst: object = None,
        callback: Callable[[SendError | None], object] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Send a message, and be called back with what became of it. A plain method; see `send_to`.

        :param callback: called exactly once, never from within this call: with None when all of the message
            has been handed to the kernel, with the error if it was not. Messages to one peer are called back
            in the order in which they were sent, but for those that a limit refuses at once. One that raises
            is logged
        :raises PoolClosed, TypeError, ValueError, RuntimeError: as for `send_to`; there is no callback then
        """
        settings.callback("callback", callback)
        self._open()
        self._submit(packet, dst, callback, fresh)

    def _submit(
        self, packet: Packet, dst: object, callback: Callable[[SendError | None], object] | None, fresh: bool
    ) -> Outgoing:
        settings.flag("fresh", fresh)
        assert self._sender is not None, "made when the pool is entered"
        target = self._target(dst)
        out, head = outgoing(packet, stream=self._proto != "udp")
        out.callback, out.fresh = callback, fresh
        if target is None and (head is None or not head.code):
            msg = "dst must be given for a request"
            raise ValueError(msg)
        self._sender.submit(out, head, target)
        return out

    def _target(self, dst: object) -> Source | None:
        given = None if dst is None else destination("dst", dst, PORTS[self._proto])
        if given is not None and given._flow is not None and self._own(given) is None:
            given = replace(given, _flow=None)  # another pool's
        if self._dst is None:
            return given
        # The restriction replaces what was given; a connection of that peer is as good.
        flow, local = (None, UNKNOWN) if given is None else (given._flow, given.local)
        return replace(self._dst, port=self._dst.port or PORTS[self._proto], _flow=flow, local=local)

    def _own(self, source: Source) -> Connection | None:
        """Return its connection if that is one of this pool, open or not."""
        flow = source._flow
        return flow if isinstance(flow, Connection) and flow.engine is self._engine else None

    # -- its connections ------------------------------------------------------------------------------

    def close(self, dst: object) -> int:
        """Close a connection; what waits on it is completed. A plain method, O(n) in connections.

        For a connection that is of no use any more, whatever the user knows that from: the next message to
        its peer goes elsewhere. What has been read from it and not handed over yet is dropped, but for what
        waits in the inbox.

        :param dst: a `Source` means its connection; any other destination all connections to it
        :return: how many have been closed
        :raises TypeError, ValueError: the destination is none
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        engine = self._running()
        target = destination("dst", dst, PORTS[self._proto])
        place = target.addr, target.port
        found = [
            flow
            for flow in engine.flows.all
            if (flow is target._flow if isinstance(dst, Source) else place in (flow.peer, flow.peer_address))
        ]
        for flow in found:
            flow.end("closed", errno.ECANCELED, "the connection was closed by the pool's user")
        return len(found)

    def keep(self, source: Source, seconds: float | None) -> bool:
        """Spare a connection from expiry, for its peer is registered by it (RFC 5626). A plain method.

        To be called with each registration (a 2xx to a REGISTER) and its ``expires``. If several are made by
        one connection, the longest counts, which is the caller's to find out.

        :param source: where the REGISTER came from
        :param seconds: for so long from now, whatever it was before; 0 for no more, None until it closes
        :return: whether there is such a connection; False for datagrams
        :raises TypeError, ValueError: an argument is wrong; the message names it
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        engine = self._running()
        settings.instance("source", source, Source, none=False)
        until = engine.clock() + settings.seconds("seconds", seconds)
        flow = self._own(source)
        if flow is None or flow.ended:
            return False
        engine.flows.keep(flow, until)
        return True

    # -- receiving ------------------------------------------------------------------------------------

    def attach(
        self,
        callback: Callable[[Packet, Source], object],
        lost: Callable[[Source, str], object] | None = None,
        flawed: Callable[[bytes, Source, str], object] | None = None,
        *,
        lost_idle: bool = False,
    ) -> None:
        """Call back with each message from now on, first with those that wait already. A plain method.

        The callback runs in the event loop, for each message of a connection in order. It must be quick, may
        call anything of the pool, and when it raises that is logged.

        :param callback: called with a message (bytes with `SipConfig.raw`) and its `Source`
        :param lost: called with a source and a reason when a connection ends on which transactions are open:
            requests, received or sent, without their final response. Those do not count of which a send has
            failed with the connection: its sender is told already. Once for each connection. On a connected
            UDP socket also, with "unreachable", when the network says that nobody listens there (ICMP)
        :param flawed: called with the bytes of a message that was refused, because it is not as SIP wants it,
            its source, and what is wrong with it; a request has been answered by 400. If nobody can say where
            it ends, the bytes are its header, and its connection ends
        :param lost_idle: tell `lost` of every connection that ends after it stood, open transactions or not
        """
        engine = self._open()
        settings.callback("callback", callback, none=False)
        settings.callback("lost", lost)
        settings.callback("flawed", flawed)
        settings.flag("lost_idle", lost_idle)
        engine.inbox.receiver, engine.flawed = callback, flawed
        engine.lost, engine.lost_idle = lost, lost_idle
        if engine.inbox.messages:
            engine.reactor.call_soon_threadsafe(engine.inbox.flush)

    def detach(self) -> None:
        """Call back no more; messages wait again. Connections and what is half received stay."""
        engine = self._running()
        engine.inbox.receiver = engine.flawed = engine.lost = None

    def __aiter__(self) -> Self:
        """Iterate over (message, source); ends when the pool is closed. Each message goes to one iterator."""
        return self

    async def __anext__(self) -> tuple[Packet, Source]:
        """Return the next message and where it came from. Switches tasks if there is none yet."""
        engine = self._running()
        inbox = engine.inbox
        self._credit -= 1
        if inbox.messages and self._credit < 0:
            self._credit = FAIR_RUN
            await checkpoint()
        while not inbox.messages:
            if engine.closed:
                raise StopAsyncIteration
            self._credit = FAIR_RUN
            await inbox.wait(engine.reactor.park())
        return inbox.take()

    # -- insight --------------------------------------------------------------------------------------

    @property
    def master(self) -> socket.socket:
        """The socket that the pool was given."""
        return self._sock

    @property
    def proto(self) -> str:
        """Transport: "udp", "tcp" or "tls"."""
        return self._proto

    @property
    def config(self) -> SipConfig:
        """What was set."""
        return self._config

    def connections(self) -> list[ConnectionInfo]:
        """Return what there is of connections. O(n)."""
        return connections_of(self._running())

    def stats(self) -> SipStats:
        """Return a frozen snapshot of all counts. O(n). Possible after the end too."""
        return stats_of(self._running())

    def __repr__(self) -> str:
        engine = self._engine
        state = "new" if engine is None else "closed" if engine.closed else "open"
        many = 0 if engine is None else len(engine.flows.all)
        return f"<SocketPool {self._proto} {state}: connections={many}>"


def _checked_dst(dst: object, proto: str) -> Source:
    target = destination("dst", dst, 0 if proto == "udp" else PORTS[proto])
    if not is_literal(target.addr):
        msg = f"dst must be an address, not {target.addr!r}"
        raise ValueError(msg)
    return target


def open_leg(
    proto: Proto,
    addr: str = "0.0.0.0",
    port: int | None = None,
    *,
    dst: object = None,
    connected: bool = False,
    tls: SipTLS | None = None,
    config: SipConfig | None = None,
    backlog: int = 1024,
) -> SocketPool:
    """Make a socket and a `SocketPool` on it, to be entered.

    :param proto: "udp", "tcp" or "tls"
    :param addr: the local address, a literal; "::" serves IPv4 peers too
    :param port: the local port: None means 5060, for TLS 5061; 0 lets the system choose
    :param dst, tls, config: see `SocketPool`
    :param connected: connect a UDP socket to `dst`
    :param backlog: connections that may wait to be accepted
    :raises OSError: the address or port is not to be had
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """
    if proto not in PORTS:
        msg = f'proto must be "udp", "tcp" or "tls", not {proto!r}'
        raise ValueError(msg)
    if not is_literal(settings.text("addr", addr)):
        msg = f"addr must be an IPv4 or IPv6 address, not {addr!r}"
        raise ValueError(msg)
    number = PORTS[proto] if port is None else settings.port_number("port", port, least=0)
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM)
    try:
        if proto != "udp":
            # For a listener only: two UDP sockets with it would steal each other's datagrams.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and (canonical(addr) == "::" or ":" not in canonical(addr)):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # it serves IPv4 peers too
        sock.bind(target_of(addr, number))
        if proto != "udp":
            sock.listen(backlog)
        elif connected and dst is not None:
            peer = destination("dst", dst, PORTS[proto])
            sock.connect(target_of(peer.addr, peer.port, ipv6=family == socket.AF_INET6))
        return SocketPool(proto, sock, dst=dst, connected=connected, tls=tls, config=config)
    except BaseException:
        sock.close()
        raise
