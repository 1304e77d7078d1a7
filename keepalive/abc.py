"""What can be plugged into a manager: connectors, resolvers, observers."""

from .connect.connector import Connector
from .manager.observer import Observer
from .resolve.resolver import Resolution, Resolver

__all__ = ("Connector", "Observer", "Resolution", "Resolver")
