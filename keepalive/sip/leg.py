"""A pool with a socket of its own."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from keepalive.base import arguments as settings
from keepalive.base.addresses import MAPPED, is_literal, target_of
from keepalive.base.hostname import canonical

from .pool import SocketPool
from .sending import PORTS
from .source import destination

if TYPE_CHECKING:
    from .config import SipConfig, SipTLS
    from .pool import Proto

__all__ = ("open_leg",)


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
            mapped = family == socket.AF_INET6 and ":" not in peer.addr
            sock.connect(target_of(MAPPED + peer.addr if mapped else peer.addr, peer.port))
        return SocketPool(proto, sock, dst=dst, connected=connected, tls=tls, config=config)
    except BaseException:
        sock.close()
        raise
