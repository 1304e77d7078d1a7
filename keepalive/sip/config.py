"""What can be set, and what is made of it: TLS contexts, out of one certificate for both roles."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from keepalive.base import arguments as settings
from keepalive.connect.options import SocketOptions
from keepalive.resolve.resolver import Resolver

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("SipConfig", "SipTLS")

_VERIFY: Final = {0: ssl.CERT_NONE, -1: ssl.CERT_OPTIONAL, 1: ssl.CERT_REQUIRED}
_WHOLE: Final = {"max_header": 1, "max_body": 0, "max_tid": 1, "max_queue": 1, "max_inbox": 1, "mtu": 201}
_SECONDS: Final = (
    "connect_timeout", "max_pending", "message_timeout", "min_expire", "max_expire", "ping_expire"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SipConfig:
    """The settings of a `SocketPool`; the first six and their defaults are the ancestor's.

    :param max_header: bytes a header may have on a stream
    :param max_body: bytes a body may have on a stream
    :param max_tid: transactions per connection whose response finds its way back by it
    :param min_expire: seconds that a connection may be quiet when there are very many
    :param max_expire: the same when it is the only one; in between it is min + (max - min) / n
    :param connect_timeout: seconds a connection may take to stand: name, TCP and TLS, in both directions.
        A TLS 1.3 server that says nothing after the handshake has as long again for refusing our
        certificate: until then messages do not count as sent
    :param max_pending: seconds that a connection may be quiet while bytes or transactions wait on it
    :param ping_expire: seconds that a connection may be quiet whose peer keeps it alive by CR LFs, or answers
        ours, which comes every 95 to 120 seconds (RFC 5626 4.4.1)
    :param response_timeout: seconds in which something must come, whatever it is, on a connection on which a
        request was sent, or two CR LFs; else the connection is dead and ends. None to wait on. The default is
        RFC 3261's timer B
    :param message_timeout: seconds a message may take from its first byte to its last
    :param max_queue: bytes that may wait on one connection
    :param max_inbox: received messages kept while nobody takes them; then nothing more is read
    :param max_connections: connections in all; further ones are refused. None for no limit
    :param max_per_peer: connections to and from one address. None for no limit
    :param raw: deliver messages as bytes; else as `sipmessage.Request` and `sipmessage.Response`, and only
        what that library cannot take as bytes
    :param mtu: of the path, for datagrams: a request may have 200 bytes less (RFC 3261 18.1.1)
    :param oversize: what to do with a request above that: "refuse" it with EMSGSIZE, send it over "tcp"
        as the RFC wants it, or "send" it as it is
    :param options: what TCP sockets are set to, those of callers too: keep-alive, `user_timeout` and others
    :param resolver: turns host names into addresses; by default a `DNSResolver`
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """

    max_header: int = 16384
    max_body: int = 65536
    max_tid: int = 30
    min_expire: float = 15.0
    max_expire: float = 120.0
    connect_timeout: float = 10.0
    max_pending: float = 300.0
    ping_expire: float = 150.0
    response_timeout: float | None = 32.0
    message_timeout: float = 30.0
    max_queue: int = 16 * 1024 * 1024
    max_inbox: int = 1024
    max_connections: int | None = 20_000
    max_per_peer: int | None = None
    raw: bool = False
    mtu: int = 1500
    oversize: Literal["refuse", "tcp", "send"] = "refuse"
    options: SocketOptions = field(default_factory=SocketOptions)
    resolver: Resolver | None = None

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            if getattr(self, name) is None:
                msg = f"{name} must be a whole number, not None"
                raise TypeError(msg)
            settings.count(name, getattr(self, name), least=least)
        for name in ("max_connections", "max_per_peer"):
            settings.count(name, getattr(self, name), least=1)
        for name in _SECONDS:
            settings.seconds(name, getattr(self, name), none=None)
            settings.positive_seconds(name, getattr(self, name))
        settings.positive_seconds("response_timeout", self.response_timeout)
        if self.max_expire < self.min_expire:
            msg = f"max_expire must not be less than min_expire={self.min_expire!r}, not {self.max_expire!r}"
            raise ValueError(msg)
        settings.flag("raw", self.raw)
        if self.oversize not in ("refuse", "tcp", "send"):
            msg = f'oversize must be "refuse", "tcp" or "send", not {self.oversize!r}'
            raise ValueError(msg)
        settings.instance("options", self.options, SocketOptions, none=False)
        settings.instance("resolver", self.resolver, Resolver)


@dataclass(frozen=True, slots=True, kw_only=True)
class SipTLS:
    """Certificates for both roles: one is shown to callers, and to those called when they ask for it.

    :param cert: file with the certificate and what links it to its authority, PEM; it may hold the key too.
        Without one (and without `server_context`) the pool only calls: connections that arrive are refused
    :param key: file with the private key, PEM; by default in `cert`
    :param ca: file with the authorities to trust, PEM; by default the system's
    :param verify_client: certificates of callers: 0 none is asked for, -1 may be missing, 1 must be there
    :param verify_server: whether certificates and names of those called are checked (RFC 5922)
    :param password: of the private key
    :param server_context, client_context: contexts of one's own, in place of what the others would make
    :raises TypeError, ValueError: an argument is wrong; the message names it
    :raises OSError: a file cannot be read, or does not hold what it should; when the pool is made
    """

    cert: str | Path | None = None
    key: str | Path | None = None
    ca: str | Path | None = None
    verify_client: Literal[0, -1, 1] = 0
    verify_server: bool = True
    password: str | None = field(default=None, repr=False)
    server_context: ssl.SSLContext | None = None
    client_context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.verify_client not in (0, -1, 1) or isinstance(self.verify_client, bool):
            msg = f"verify_client must be 0, -1 or 1, not {self.verify_client!r}"
            raise ValueError(msg)
        if self.verify_client and self.cert is None and self.server_context is None:
            msg = "verify_client needs cert: without one nobody can call"
            raise ValueError(msg)
        settings.flag("verify_server", self.verify_server)
        settings.client_context("client_context", self.client_context)
        if self.key is not None and self.cert is None:
            msg = "key needs cert"
            raise ValueError(msg)


def server_context(tls: SipTLS) -> ssl.SSLContext | None:
    """Make the context for those who call us; None if there is no certificate to show them.

    :raises OSError: a file is missing or does not hold what it should
    """
    if tls.server_context is not None:
        return tls.server_context
    if tls.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key, tls.password)
    context.verify_mode = _VERIFY[tls.verify_client]
    if tls.verify_client:
        if tls.ca is None:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        else:
            context.load_verify_locations(tls.ca)
    return context


def client_context(tls: SipTLS) -> ssl.SSLContext:
    """Make the context for those whom we call. Names are checked by `core.identity`, not by the context.

    :raises OSError: a file is missing or does not hold what it should
    """
    if tls.client_context is not None:
        return tls.client_context
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = False
    if not tls.verify_server:
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key, tls.password)
    return context


def check_socket(proto: str, sock: socket.socket, *, connected: bool) -> None:
    """Check that a socket is what a pool of this kind needs.

    :raises TypeError, ValueError: it is not
    """
    settings.instance("sock", sock, socket.socket, none=False)
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
