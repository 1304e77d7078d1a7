"""What can be plugged into a manager: connectors, fleets, life cycles, resolvers, observers."""

from .connect.connector import Connector
from .connect.lifecycle import Lifecycle, Shares
from .manager.fleet import Fleet, Places
from .manager.observer import Observer
from .manager.protocol import Manager
from .resolve.resolver import Resolution, Resolver
from .transport.stream import LinkStream as Stream

__all__ = (
    "Connector",
    "Fleet",
    "Lifecycle",
    "Manager",
    "Observer",
    "Places",
    "Resolution",
    "Resolver",
    "Shares",
    "Stream",
)
