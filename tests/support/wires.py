"""Wires: ways to reach a test server, so that one test runs over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepalive import ConnectionManager

from .server import Server

if TYPE_CHECKING:
    from keepalive import Connector, Request

    from .peer import Behaviour


class Wire:
    """One way to reach a server: plain TCP, a Unix socket or TLS."""

    def __init__(self, name: str, connectors: dict[str, Connector], options: dict[str, Any]) -> None:
        self.name = name
        self.scheme = {"tcp": "t", "unix": "unix"}.get(name, "tls")
        self._connectors = connectors
        self._options = options

    def serve(self, behaviour: Behaviour | None = None, **more: Any) -> Server:
        """Make a server that is reached this way."""
        return Server(behaviour, **self._options, **more)

    def manager(self, **more: Any) -> ConnectionManager:
        """Make a manager that knows the way."""
        return ConnectionManager(connectors=self._connectors, **more)

    def ask(self, manager: ConnectionManager, server: Server, **more: Any) -> Request:
        """Request a connection."""
        return manager.allocate(self.scheme, server.host, server.port, **more)
