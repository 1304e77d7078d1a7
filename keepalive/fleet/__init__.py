"""Limits that a whole fleet keeps: connections of many processes and machines, counted in Redis or Valkey.

Needs the extra ``fleet``.
"""

from .redis import RedisFleet
from .stats import FleetKeyStats, FleetStats

__all__ = ("FleetKeyStats", "FleetStats", "RedisFleet")
