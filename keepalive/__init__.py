"""Warm connections for every protocol client, on asyncio, uvloop and trio."""

from ._connection import Connection
from ._connectors import HTTPProxyConnector, SOCKS5Connector, TCPConnector, TLSConnector, UnixConnector
from ._core._types import CloseReason, Key, Phase, Reuse
from ._dial import Dial
from ._io._link import Link
from ._io._tls import TLSSessionAttribute
from ._manager import ConnectionManager
from ._names import DNSResolver, StaticResolver, SystemResolver
from ._request import Request
from ._route._hostname import HostName
from ._route._options import SocketOptions
from ._stats import KeyStats, Stats
from ._warmup import WarmUp
from .abc import Connector, Observer, Resolution, Resolver
from .errors import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    KeepaliveError,
    ManagerClosed,
    QueueFull,
    RequestCancelled,
    ResolveError,
    TLSError,
)

__all__ = (
    "AllocateError",
    "AllocateTimeout",
    "CloseReason",
    "ConnectError",
    "Connection",
    "ConnectionManager",
    "Connector",
    "DNSResolver",
    "Dial",
    "HTTPProxyConnector",
    "HostName",
    "KeepaliveError",
    "Key",
    "KeyStats",
    "Link",
    "ManagerClosed",
    "Observer",
    "Phase",
    "QueueFull",
    "Request",
    "RequestCancelled",
    "Resolution",
    "ResolveError",
    "Resolver",
    "Reuse",
    "SOCKS5Connector",
    "SocketOptions",
    "StaticResolver",
    "Stats",
    "SystemResolver",
    "TCPConnector",
    "TLSConnector",
    "TLSError",
    "TLSSessionAttribute",
    "UnixConnector",
    "WarmUp",
)
