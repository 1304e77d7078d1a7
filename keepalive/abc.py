"""What can be plugged into a manager: connectors, life cycles, resolvers, observers."""

from .connect.connector import Connector
from .connect.lifecycle import Lifecycle, Shares
from .manager.observer import Observer
from .manager.protocol import Manager
from .resolve.resolver import Resolution, Resolver
from .transport.stream import LinkStream as Stream

__all__ = ("Connector", "Lifecycle", "Manager", "Observer", "Resolution", "Resolver", "Shares", "Stream")
