"""Limits that a whole fleet keeps: connections of many processes and machines, counted in Redis or Valkey.

Needs the extra ``fleet``.
"""

from .control import FleetKey, FleetMember, FleetStatus, set_limit, status
from .redis import RedisFleet
from .stats import FleetKeyStats, FleetStats

__all__ = (
    "FleetKey",
    "FleetKeyStats",
    "FleetMember",
    "FleetStats",
    "FleetStatus",
    "RedisFleet",
    "set_limit",
    "status",
)
