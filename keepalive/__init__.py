"""Warm connections for every protocol client, on asyncio, uvloop and trio."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it as true; `typing` itself takes long to load
if TYPE_CHECKING:
    from keepalive.base.hostname import HostName
    from keepalive.base.text import printable
    from keepalive.base.types import CloseReason, Key, Phase, Reuse
    from keepalive.connect.dial import Dial
    from keepalive.connect.http_proxy import HTTPProxyConnector
    from keepalive.connect.options import SocketOptions
    from keepalive.connect.socks import SOCKS5Connector
    from keepalive.connect.tcp import TCPConnector, UnixConnector
    from keepalive.connect.tls import TLSConnector
    from keepalive.manager.connection import Connection
    from keepalive.manager.key_settings import KeySettings
    from keepalive.manager.manager import ConnectionManager
    from keepalive.manager.preconnect import WarmUp
    from keepalive.manager.request import Request
    from keepalive.manager.stats import KeyStats, Stats
    from keepalive.resolve.dns import DNSResolver
    from keepalive.resolve.resolver import StaticResolver
    from keepalive.resolve.system import SystemResolver
    from keepalive.transport.link import Link
    from keepalive.transport.tls import TLSSessionAttribute

    from .abc import (
        Connector,
        Fleet,
        Lifecycle,
        Manager,
        Observer,
        Places,
        Resolution,
        Resolver,
        Shares,
        Stream,
    )
    from .errors import (
        AllocateError,
        AllocateTimeout,
        ConnectError,
        FleetError,
        KeepaliveError,
        ManagerClosed,
        QueueFull,
        RequestCancelled,
        ResolveError,
        SetupError,
        TLSError,
    )

    __version__: str
del TYPE_CHECKING

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
    "Fleet",
    "FleetError",
    "HTTPProxyConnector",
    "HostName",
    "KeepaliveError",
    "Key",
    "KeySettings",
    "KeyStats",
    "Lifecycle",
    "Link",
    "Manager",
    "ManagerClosed",
    "Observer",
    "Phase",
    "Places",
    "QueueFull",
    "Request",
    "RequestCancelled",
    "Resolution",
    "ResolveError",
    "Resolver",
    "Reuse",
    "SOCKS5Connector",
    "SetupError",
    "Shares",
    "SocketOptions",
    "StaticResolver",
    "Stats",
    "Stream",
    "SystemResolver",
    "TCPConnector",
    "TLSConnector",
    "TLSError",
    "TLSSessionAttribute",
    "UnixConnector",
    "WarmUp",
    "printable",
)

_PARTS = frozenset({"abc", "errors"})

# A name is loaded when it is first asked for: a program that merely imports the package, or a part of it,
# does not pay for anyio, asyncio and ssl.
_HOMES = {
    "AllocateError": "errors",
    "AllocateTimeout": "errors",
    "CloseReason": "base.types",
    "ConnectError": "errors",
    "Connection": "manager.connection",
    "ConnectionManager": "manager.manager",
    "Connector": "abc",
    "DNSResolver": "resolve.dns",
    "Dial": "connect.dial",
    "Fleet": "abc",
    "FleetError": "errors",
    "HTTPProxyConnector": "connect.http_proxy",
    "HostName": "base.hostname",
    "KeepaliveError": "errors",
    "Key": "base.types",
    "KeySettings": "manager.key_settings",
    "KeyStats": "manager.stats",
    "Lifecycle": "abc",
    "Link": "transport.link",
    "Manager": "abc",
    "ManagerClosed": "errors",
    "Observer": "abc",
    "Phase": "base.types",
    "Places": "abc",
    "QueueFull": "errors",
    "Request": "manager.request",
    "RequestCancelled": "errors",
    "Resolution": "abc",
    "ResolveError": "errors",
    "Resolver": "abc",
    "Reuse": "base.types",
    "SOCKS5Connector": "connect.socks",
    "SetupError": "errors",
    "Shares": "abc",
    "SocketOptions": "connect.options",
    "StaticResolver": "resolve.resolver",
    "Stats": "manager.stats",
    "Stream": "abc",
    "SystemResolver": "resolve.system",
    "TCPConnector": "connect.tcp",
    "TLSConnector": "connect.tls",
    "TLSError": "errors",
    "TLSSessionAttribute": "transport.tls",
    "UnixConnector": "connect.tcp",
    "WarmUp": "manager.preconnect",
    "printable": "base.text",
}


def __getattr__(name: str) -> object:
    """Load a public name, or find the version (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("keepalive-manager")
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _PARTS:
        from importlib import import_module

        value = import_module(f"{__name__}.{name}")
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg, name=name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS, "__version__"})
