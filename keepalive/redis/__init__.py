"""Redis over the connections of a manager.

`ConnectionPool` puts redis-py's asyncio client over a manager:

    async with ConnectionManager() as mgr:
        pool = keepalive.redis.ConnectionPool(mgr, "redis://localhost/0")
        client = redis.asyncio.Redis(connection_pool=pool)
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it as true; `typing` itself takes long to load
if TYPE_CHECKING:
    from .client_connection import ClientConnection
    from .client_pool import ConnectionPool
del TYPE_CHECKING

__all__ = ("ClientConnection", "ConnectionPool")

# Loaded when first asked for: who speaks Redis without redis-py need not have it.
_HOMES = {"ClientConnection": "client_connection", "ConnectionPool": "client_pool"}


def __getattr__(name: str) -> object:
    """Load a public name (PEP 562)."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg, name=name)
    from importlib import import_module

    import_module(f"{__name__}.needs")  # for what it says if something is missing
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
