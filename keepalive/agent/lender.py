"""One pool of an agent: a connection manager, and what the agent notes of its connections."""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from keepalive import (
    AllocateError,
    AllocateTimeout,
    ConnectionManager,
    ManagerClosed,
    QueueFull,
    RequestCancelled,
)
from keepalive.abc import Observer
from keepalive.errors import ResolveError, TLSError

from .adopter import adopters
from .core.records import Pool
from .wire import Failed, Sealed

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from keepalive import CloseReason, Connection, Key, Request, Reuse

    from .config import Config
    from .core.desk import Desk
    from .core.policy import Policy
    from .core.records import Loan

T = TypeVar("T")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that does not switch tasks from a plain function."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    msg = "it would have to wait"
    raise RuntimeError(msg)


class Lender(Observer):
    """The connections of one pool.

    :ivar pool: what the desk knows of it
    :ivar ready: connections of another agent's, by key: the next ones that are "opened"
    :ivar last_lent: the number of the connection that a request was served with last
    """

    def __init__(self, policy: Policy, config: Config, desk: Desk, inherited: frozenset[str]) -> None:
        self.pool = Pool(policy, self)
        self.ready: dict[Key, deque[socket.socket]] = {}
        self.manager = ConnectionManager(
            observer=self,
            connectors=adopters(config.connectors, inherited, self.ready),
            **config.limits.get(policy.name, {}),
        )
        self._desk = desk
        self._max_open: int = config.limits.get(policy.name, {}).get("max_open", 128)
        self._open = 0
        self._waiting = 0
        self.last_lent = 0
        self._sockets: dict[int, tuple[socket.socket, int] | None] = {}
        at_once(self.manager.__aenter__())

    def adjust(self, policy: Policy, config: Config) -> None:
        """Go by another configuration from now on. Of the limits these hold for what is open, too."""
        self.pool.go_by(policy)
        limits = config.limits.get(policy.name, {})
        self._max_open = limits.get("max_open", 128)
        if self.manager.usable:
            self.manager.set_limits(
                max_per_host=limits.get("max_per_host", 4),
                max_open=self._max_open,
                max_idle=limits.get("max_idle"),
            )

    # -- requests -------------------------------------------------------------------------------------

    def enter(self, loan: Loan) -> Connection | None:
        """Enter a loan's request; return its connection if there is one at once.

        :raises Exception: as `ConnectionManager.allocate` and its request do
        """
        conn = self._first_look(loan)
        if conn is None and self._waiting != loan.request.id:
            # What was idle turned out to be dead. Who waits does so in a task, from the beginning.
            conn = self._first_look(loan)
        return conn

    def _first_look(self, loan: Loan) -> Connection | None:
        key, terms = loan.key, loan.terms
        loan.request = request = self.manager.allocate(
            *key[:3],
            terms.timeout,
            **_behind(key),
            fresh=terms.fresh,
            queue_timeout=terms.queue_timeout,
            open_timeout=terms.open_timeout,
        )
        return None if self._waiting == request.id else _immediate(request)

    def idle_one(self, key: Key) -> Connection | None:
        """Return an idle connection of a key; None if there is none."""
        try:
            return _immediate(self.manager.allocate(*key[:3], 0, **_behind(key)))
        except AllocateTimeout:
            return None

    async def adopt(self, key: Key, sock: socket.socket) -> Connection:
        """Lend a connection that another agent has opened.

        :raises KeepaliveError: there is no room for it
        """
        self.ready.setdefault(key, deque()).append(sock)
        return await self.manager.allocate(*key[:3], 10, fresh=True, **_behind(key))

    def opened_socket(self, conn: Connection) -> tuple[socket.socket, int] | None:
        """Return the socket of a connection that was lent just now, and its family; None under TLS."""
        try:
            return self._sockets[self.last_lent]
        except KeyError:
            pass
        attributes = conn.extra_attributes
        sealed = TLSAttribute.tls_version in attributes
        found = None
        if not sealed:
            sock: socket.socket = attributes[SocketAttribute.raw_socket]()
            found = sock, int(sock.family)
        self._sockets[self.last_lent] = found
        return found

    # -- what the manager tells -----------------------------------------------------------------------

    def queued(self, key: Key, request_id: int) -> None:
        """Note that the request being entered must wait."""
        self._waiting = request_id

    def lent(self, key: Key, connection_id: int, request_id: int, reuse: Reuse | None, waited: float) -> None:
        """Note which connection the next one is."""
        self.last_lent = connection_id

    def opening(self, key: Key, connection_id: int) -> None:
        """Count a place that is taken."""
        self._count(1)

    def attempt_failed(self, key: Key, connection_id: int, error: Exception) -> None:
        """Count a place that is free."""
        self._count(-1)

    def attempt_aborted(self, key: Key, connection_id: int) -> None:
        """Count a place that is free."""
        self._count(-1)

    def closed(self, key: Key, connection_id: int, reason: CloseReason) -> None:
        """Count a place that is free."""
        self._sockets.pop(connection_id, None)
        self._count(-1)

    def _count(self, change: int) -> None:
        self._open += change
        crowded = self._open >= self._max_open
        if crowded != self.pool.crowded:
            self._desk.crowd(self.pool, crowded=crowded)


def _behind(key: Key) -> dict[str, Any]:
    """Return what lies behind a proxy, if it is not the same: a manager knows the plain case at a glance."""
    if key[:3] == key[3:]:
        return {}
    return {"for_scheme": key.for_scheme, "for_addr": key.for_addr, "for_port": key.for_port}


def _immediate(request: Request) -> Connection | None:
    """Fetch what a request has been served with; None (and the request is cancelled) if it must wait."""
    steps = request.__await__()
    try:
        steps.send(None)
    except StopIteration as done:
        conn: Connection = done.value
        return conn
    steps.close()
    request.cancel()
    return None


def hang_up(conn: Connection, sock: socket.socket | None) -> None:
    """Close a connection for whoever has a copy of its descriptor: a stopped borrower, or its children."""
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was closed from the other side
    conn.discard()


def sealed_by(conn: Connection) -> Sealed:
    """Tell what was agreed for a TLS connection."""
    attributes = conn.extra_attributes
    return Sealed(
        attributes[TLSAttribute.tls_version](),
        attributes[TLSAttribute.alpn_protocol](),
        attributes[TLSAttribute.cipher](),
    )


_KINDS = (
    (AllocateTimeout, "timeout"),
    (ResolveError, "resolve"),
    (TLSError, "tls"),
    (AllocateError, "connect"),
    (QueueFull, "full"),
    (ManagerClosed, "closed"),
    (RequestCancelled, "cancelled"),
)


def failure(number: int, exc: Exception) -> Failed:
    """Put what failed a request into a message."""
    kind = next((name for known, name in _KINDS if isinstance(exc, known)), "invalid")
    if isinstance(exc, AllocateError):
        return Failed(number, kind, exc.function, exc.error_num, exc.error_str[:2000])
    error = exc.errno if isinstance(exc, OSError) else None
    return Failed(number, kind, "agent", error, str(exc)[:2000])
