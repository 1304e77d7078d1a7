"""Where a message came from, and where one shall go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keepalive.base.addresses import family_of, is_literal, unmapped
from keepalive.base.failure import text_of
from keepalive.base.hostname import ascii_name, canonical
from keepalive.resolve.service import LOOPBACK

from .errors import SendError

if TYPE_CHECKING:
    import socket

    from keepalive.resolve.resolver import Resolver

    from .core.flow import Flow

__all__ = ("Source", "resolve_host")

UNSPECIFIED: Final = ("0.0.0.0", "::")  # what a socket is bound to that is bound to no address in particular


class Address(NamedTuple):
    """An address of ours and a port; as text it fits into a Via or a URI: "192.0.2.1:5060", "[::1]:5060".

    :ivar addr: an IPv4 or IPv6 literal, without a zone
    """

    addr: str
    port: int

    def __str__(self) -> str:
        return f"[{self.addr}]:{self.port}" if ":" in self.addr else f"{self.addr}:{self.port}"


UNKNOWN: Final = Address("0.0.0.0", 0)  # what is said where nothing is known


@dataclass(slots=True, eq=False, repr=False)
class Source:
    """Where a message came from. As destination it means: back there, on the same connection while it lives.

    All messages of one connection have the same source object.

    :ivar host: the name that was called, or the address
    :ivar addr: the address, an IPv4 or IPv6 literal
    :ivar port: the port
    :ivar family: `socket.AF_INET` or `socket.AF_INET6`
    :ivar proto: "udp", "tcp" or "tls"
    :ivar local: which address of ours it came to, and the port that the pool's socket is bound to: what our
        Via and Contact are to say to that peer. The address is "0.0.0.0" or "::" where the system cannot tell
    """

    host: str
    addr: str
    port: int
    proto: str = ""
    _flow: Flow | None = None
    local: Address = UNKNOWN

    @property
    def family(self) -> socket.AddressFamily:
        """The address family."""
        return family_of(self.addr)

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate, as `ssl.SSLSocket.getpeercert` gives it; None if there is none."""
        return None if self._flow is None else self._flow.certificate

    @property
    def connected(self) -> bool:
        """Whether the connection it came in on is still open; False for a datagram."""
        return self._flow is not None and self._flow.usable

    def __str__(self) -> str:
        return str(Address(self.addr, self.port))

    def __repr__(self) -> str:
        return f"<Source {self.proto} {self}>"


def local_address(sock: socket.socket) -> Address:
    """Return what a socket is bound to, without a zone: what a peer may be told."""
    host, port, *_ = sock.getsockname()
    return Address(unmapped(host.partition("%")[0]), port)


def destination(name: str, dst: object, default_port: int) -> Source:
    """Read a destination: a `Source`, "host:port", "[v6]:port", (host, port), or a record with these names.

    A record has ``addr`` or ``host`` or both, and maybe ``port``, as attributes or as items.

    :raises TypeError, ValueError: it is none; the message names it
    """
    if isinstance(dst, Source):
        return dst
    if isinstance(dst, str):
        host, port = split_host_port(name, dst)
        return Source(host, host, _port(name, dst, port, default_port))
    if isinstance(dst, tuple) and 2 <= len(dst) <= 4:
        host = _host(name, dst, dst[0])
        return Source(host, host, _port(name, dst, dst[1], default_port))
    addr, host, port = (_part(dst, part) for part in ("addr", "host", "port"))
    if addr is None and host is None:
        msg = (
            f"{name} must be a Source, 'host:port', (host, port) or a record with addr and port, not {dst!r}"
        )
        raise TypeError(msg)
    addr = _host(name, dst, host if addr is None else addr)
    return Source(
        addr if host is None else _host(name, dst, host), addr, _port(name, dst, port, default_port)
    )


def _part(dst: object, name: str) -> Any:
    return dst.get(name) if isinstance(dst, dict) else getattr(dst, name, None)


def _host(name: str, dst: object, host: object) -> str:
    if not isinstance(host, str):
        msg = f"{name}'s host must be a str, not {host!r}"
        raise TypeError(msg)
    bare = host.strip("[]")
    if not bare or "\0" in bare or any(char.isspace() for char in bare) or len(bare) > 255:
        msg = f"{name} has no usable host: {dst!r}"
        raise ValueError(msg)
    return canonical(bare)


def _port(name: str, dst: object, port: object, default: int) -> int:
    if port is None or (isinstance(port, int) and not isinstance(port, bool) and port == 0):
        return default
    return _checked_port(name, dst, port)


def _checked_port(name: str, dst: object, port: object) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        msg = f"{name}'s port must be from 1 to 65535, not {port!r} in {dst!r}"
        raise ValueError(msg)
    return port


def split_host_port(name: str, text: str) -> tuple[str, int | None]:
    """Split "host", "host:port", "[v6]", "[v6]:port", or a bare v6 address; None for no port."""
    if is_literal(text):
        return text, None
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, colon = text, ""
    if colon and not digits.isdecimal():
        msg = f"{name} must end in a port number, not {text!r}"
        raise ValueError(msg)
    if ":" in host and not (host.startswith("[") and host.endswith("]") and is_literal(host[1:-1])):
        msg = f"{name} must have an IPv6 address in brackets, not {text!r}"
        raise ValueError(msg)
    port = _checked_port(name, text, int(digits)) if colon else None
    return _host(name, text, host), port


def host_and_port(address: Any) -> tuple[str, int]:
    """Return host and port of a socket address, the scope of an IPv6 one in the host.

    An IPv4 address that is mapped into IPv6 is the plain one.
    """
    host, port, *rest = address
    if len(rest) > 1 and rest[1] and "%" not in host:
        host = f"{host}%{rest[1]}"
    return unmapped(host), port


async def resolve_host(host: str, resolver: Resolver) -> tuple[str, ...]:
    """Return all addresses of a host, in the resolver's order.

    A UDP pool has a socket of one address family, and its user may have to choose it. A literal is its own
    address, ``localhost`` is never asked for (RFC 6761 6.3), and international names are encoded (RFC 5890).
    A checkpoint if the resolver is asked; a cancellation goes through to it.

    :raises SendError: with the reason "resolve": whatever the resolver raised is its cause
    """
    name = host.removesuffix(".").lower()
    if is_literal(name):
        return (name,)
    if name == "localhost" or name.endswith(".localhost"):
        return LOOPBACK
    try:
        return (await resolver.resolve(ascii_name(host))).addresses
    except Exception as exc:
        number = exc.errno if isinstance(exc, OSError) else None
        raise SendError(host, "resolve", number, text_of(exc)) from exc
