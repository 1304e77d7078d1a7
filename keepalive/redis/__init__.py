"""Redis over the connections of a manager.

`ConnectionPool` puts redis-py's asyncio client over a manager:

    async with ConnectionManager() as mgr:
        pool = keepalive.redis.ConnectionPool(mgr, "redis://localhost/0")
        client = redis.asyncio.Redis(connection_pool=pool)

Life cycles speak Redis themselves, on trio too; `RedisMultiplexed` has many borrowers share a connection:

    async with ConnectionManager(lifecycles={"redis": keepalive.redis.RedisMultiplexed()}) as mgr:
        async with mgr.allocate("redis", "localhost", 6379) as conn:
            await keepalive.redis.Commands(conn).execute("GET", "key")
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it as true; `typing` itself takes long to load
if TYPE_CHECKING:
    from .client_connection import ClientConnection
    from .client_pool import ConnectionPool
    from .commands import Commands
    from .errors import BadReply, NoReply, RedisError, ReplyError
    from .lifecycle import RedisLifecycle, RedisMultiplexed
    from .multiplexer import Multiplexer
    from .session import Session
del TYPE_CHECKING

__all__ = (
    "BadReply",
    "ClientConnection",
    "Commands",
    "ConnectionPool",
    "Multiplexer",
    "NoReply",
    "RedisError",
    "RedisLifecycle",
    "RedisMultiplexed",
    "ReplyError",
    "Session",
)

# Loaded when first asked for: who speaks Redis without redis-py need not have it.
_HOMES = {
    "BadReply": "errors",
    "ClientConnection": "client_connection",
    "Commands": "commands",
    "ConnectionPool": "client_pool",
    "Multiplexer": "multiplexer",
    "NoReply": "errors",
    "RedisError": "errors",
    "RedisLifecycle": "lifecycle",
    "RedisMultiplexed": "lifecycle",
    "ReplyError": "errors",
    "Session": "session",
}


def __getattr__(name: str) -> object:
    """Load a public name (PEP 562)."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg, name=name)
    from importlib import import_module

    from . import needs

    home = _HOMES[name]
    needs.check("hiredis", *(["redis"] if home.startswith("client") else []))
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
