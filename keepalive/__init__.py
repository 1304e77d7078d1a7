"""Warm connections for every protocol client, on asyncio, uvloop and trio."""

from keepalive.base.types import CloseReason, Key, Phase, Reuse
from keepalive.connect.dial import Dial
from keepalive.connect.http_proxy import HTTPProxyConnector
from keepalive.connect.options import SocketOptions
from keepalive.connect.socks import SOCKS5Connector
from keepalive.connect.tcp import TCPConnector, UnixConnector
from keepalive.connect.tls import TLSConnector
from keepalive.manager.connection import Connection
from keepalive.manager.manager import ConnectionManager
from keepalive.manager.preconnect import WarmUp
from keepalive.manager.request import Request
from keepalive.manager.stats import KeyStats, Stats
from keepalive.resolve.dns import DNSResolver
from keepalive.resolve.static import StaticResolver
from keepalive.resolve.system import SystemResolver
from keepalive.transport.link import Link
from keepalive.transport.tls import TLSSessionAttribute

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
