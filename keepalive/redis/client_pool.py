"""redis-py's connection pool, with a manager in its place."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from anyio.streams.tls import TLSAttribute
from redis.asyncio import ConnectionPool as RedisPool
from redis.asyncio.connection import parse_url

from keepalive import ConnectionManager, KeepaliveError

from .client_connection import ClientConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection
    from redis.asyncio.retry import Retry
    from redis.auth.token import TokenInterface

    from keepalive import Connection, Request

__all__ = ("ConnectionPool",)

_CONNECT_TIMEOUT = 5.0  # redis-py's
_numbers = count(1)

# What redis-py's options of these beginnings are about is not the connection object's affair here.
_REFUSED = {
    "host": "it is part of the url",
    "port": "it is part of the url",
    "path": "it is part of the url",
    "max_connections": "limits are the manager's",
    "connection_class": "connections are the manager's",
    "maint_notifications": "maintenance notifications are not supported",
    "ssl": "TLS is a matter of the manager's connectors",
    "socket_keepalive": "socket options are given to the manager's connectors",
    "socket_type": "sockets are the manager's",
}


class ConnectionPool(RedisPool):
    """A pool for redis-py's asyncio client whose connections are a manager's.

    Two lines change in a program: ``pool = keepalive.redis.ConnectionPool(mgr, "redis://host/0")`` and
    ``redis.asyncio.Redis(connection_pool=pool)``. Each command allocates a connection and gives it back:
    limits, the fair queue, name resolution, liveness and statistics are the manager's. What redis-py sets up
    (HELLO, AUTH, SELECT, CLIENT SETNAME) is done once for each connection. One that was given back while an
    reply was outstanding, after a cancellation too, is closed.

    Its connections are no other pool's, since what was set up is not: each pool has a key of its own, with a
    ``for_scheme`` of its own, and `max_per_host` counts for each. The manager belongs to one event loop, of
    asyncio or uvloop, and so does the pool. The pool may be dropped; the manager closes what is idle.

    Errors are redis-py's own: ``redis.exceptions.TimeoutError`` where connecting took too long,
    ``ConnectionError`` for anything else, a wait for a place that took too long included.

    :param manager: a `ConnectionManager` that has been entered
    :param url: redis://, rediss:// or unix://, as redis-py knows them; for rediss the manager needs a
        connector that speaks TLS: ``connectors={"rediss": TLSConnector()}``
    :param timeout: seconds to wait for a place, by default the manager's `timeout`
    :param scheme: the scheme to allocate by, by default the URL's
    :param options: redis-py's own, for its connections: `db`, `username`, `password`, `client_name`,
        `protocol`, `decode_responses`, `retry`, `health_check_interval`, `socket_timeout` for each command,
        `socket_connect_timeout` (5 seconds by default) for name, connection and TLS, and so on
    :raises TypeError, ValueError: an argument is wrong, or is the manager's affair
    """

    def __init__(
        self,
        manager: ConnectionManager,
        url: str,
        *,
        timeout: float | None = None,
        scheme: str | None = None,
        **options: Any,
    ) -> None:
        _check_manager(manager)
        _check_options(options)
        options |= parse_url(url)  # the URL's options win, as with redis-py
        host, port = options.pop("host", "localhost"), options.pop("port", 6379)
        path = options.pop("path", "")
        options.pop("connection_class", None)
        _check_options(options)
        own_scheme = url.partition("://")[0]
        self._manager = manager
        self._tls = own_scheme == "rediss"
        self._place = (scheme or own_scheme, path, 0) if path else (scheme or own_scheme, host, port)
        self._key = {"for_scheme": f"redis-py-{next(_numbers)}", "for_addr": host, "for_port": port}
        self._request: Callable[..., Request] = partial(
            manager.allocate,
            *self._place,
            **self._key,
            queue_timeout=options.pop("timeout", timeout),
            open_timeout=options.get("socket_connect_timeout", _CONNECT_TIMEOUT),
        )
        self._where = path or f"{host}:{port}"
        self._connections: WeakSet[ClientConnection] = WeakSet()
        super().__init__(connection_class=ClientConnection, **options)
        self.make_connection()  # redis-py's checks of the options are in there

    # -- connections --------------------------------------------------------------------------------

    async def _allocated(self, fresh: bool) -> Connection:
        conn = await self._request(fresh=fresh)
        if conn.state is None:
            self._check_new(conn)
        return conn

    def _check_new(self, conn: Connection) -> None:
        """Refuse what speaks no TLS where it should, before a password is sent in the clear."""
        if self._tls and conn.extra(TLSAttribute.tls_version, None) is None:
            conn.discard()
            scheme = self._place[0]
            msg = (
                f'the manager has no connector with TLS for "{scheme}"; give it '
                f'connectors={{"{scheme}": TLSConnector()}}'
            )
            raise ValueError(msg)

    def make_connection(self) -> ClientConnection:
        """Return a connection object that connects when it is first used."""
        connection = ClientConnection(allocate=self._allocated, where=self._where, **self.connection_kwargs)
        self._connections.add(connection)
        return connection

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> ClientConnection:
        """Allocate a connection that is set up. First come, first served."""
        try:
            conn = await self._request()
        except KeepaliveError as exc:
            connection = self.make_connection()
            await connection.begin(exc)
            return connection
        known = conn.state
        if type(known) is ClientConnection:
            conn.state = None  # a user who drops the connection object drops the stream with it
            await known.resume(conn)
            return known
        if known is not None:
            conn.discard()
            scheme = self._place[0]
            msg = f'the manager has a life cycle for "{scheme}"; give the pool another scheme='
            raise ValueError(msg)
        self._check_new(conn)
        connection = self.make_connection()
        await connection.begin(conn)
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Give a connection back; closed if a reply is outstanding. Does not switch tasks."""
        if not isinstance(connection, ClientConnection):
            msg = f"{connection!r} is not a connection of this pool"
            raise TypeError(msg)
        connection.give_back()

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close what is idle, and unless told otherwise what is in use."""
        if self._manager.usable:
            self._manager.evict(*self._place, **self._key)
        if inuse_connections:
            for connection in self._lent():
                await connection.disconnect()

    async def aclose(self) -> None:
        """Close its connections. The manager goes on, and so may the pool."""
        await self.disconnect()

    # -- what redis-py tells its pool ---------------------------------------------------------------

    def _lent(self) -> list[ClientConnection]:
        return [connection for connection in self._connections if connection.is_connected]

    def set_retry(self, retry: Retry) -> None:
        """Set the retries of the connections there are."""
        for connection in tuple(self._connections):
            connection.retry = retry

    async def re_auth_callback(self, token: TokenInterface) -> None:
        """Note a new token; each connection authenticates with it before its next user has it."""
        for connection in tuple(self._connections):
            connection.set_re_auth_token(token)

    async def update_active_connections_for_reconnect(self) -> None:
        """Have what is in use closed when it is given back."""
        for connection in self._lent():
            connection.mark_for_reconnect()

    def can_get_connection(self) -> bool:
        """Say yes: one may have to wait."""
        return True

    def get_connection_count(self) -> list[tuple[int, dict[str, Any]]]:
        """Return how many are idle and how many in use, for redis-py's metrics."""
        in_use = len(self._lent())
        told = getattr(super(), "get_connection_count", None)  # older releases have none
        names = [{}, {}] if told is None else [names for _, names in told()]
        return list(zip((len(self._connections) - in_use, in_use), names, strict=True))


def _check_manager(manager: object) -> None:
    if not isinstance(manager, ConnectionManager):
        msg = f"manager must be a ConnectionManager, not {manager!r}"
        raise TypeError(msg)


def _check_options(options: dict[str, Any]) -> None:
    for name in options:
        for refused, why in _REFUSED.items():
            if name.startswith(refused):
                msg = f"{name} must not be given: {why}"
                raise ValueError(msg)
