"""Wires: ways to reach a test server, so that one test runs over all of them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from keepalive import ConnectionManager, TLSConnector
from tests.support import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keepalive import Connector, Request
    from tests.support import Authority, Behaviour


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


@pytest.fixture(scope="session")
def server_contexts(ca: Authority) -> dict[str, ssl.SSLContext]:
    """Servers' TLS by the name of the wire; certificates take their time to make."""
    return {"tls": ca.server(), "tls12": ca.server(version=ssl.TLSVersion.TLSv1_2)}


@pytest.fixture
def make_wire(
    server_contexts: dict[str, ssl.SSLContext], client_context: ssl.SSLContext, tmp_path: Path
) -> Callable[[str], Wire]:
    """Make a wire by its name: tcp, unix, tls (1.3) or tls12."""

    def make(name: str) -> Wire:
        options: dict[str, Any] = {}
        if name == "unix":
            options = {"path": tmp_path / "wire.sock"}
        elif name != "tcp":
            options = {"tls": server_contexts[name]}
        return Wire(name, {"tls": TLSConnector(client_context, server_hostname="localhost")}, options)

    return make


@pytest.fixture(params=["tcp", "unix", "tls", "tls12"])
def wire(request: pytest.FixtureRequest, make_wire: Callable[[str], Wire]) -> Wire:
    """Every kind of connection."""
    return make_wire(request.param)


@pytest.fixture(params=["tcp", "tls"])
def net(request: pytest.FixtureRequest, make_wire: Callable[[str], Wire]) -> Wire:
    """The two kinds of connection that differ in what they can do to a stream."""
    return make_wire(request.param)
