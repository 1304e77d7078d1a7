"""All parts of one pool, put together. Each stands in a file of its own, with its own invariants."""

from __future__ import annotations

from .backoff import Backoff
from .capacity import Capacity, ExtraSlots
from .idle import IdleConnections
from .keys import Keys
from .requests import Requests
from .room import RoomQueue
from .spares import Spares
from .states import Effects, Limits, LimitsOf
from .timers import Timers


class Parts:
    """What a pool consists of, its decisions apart.

    :ivar closed: whether it was shut down
    """

    __slots__ = (
        "backoff",
        "capacity",
        "closed",
        "effects",
        "extra_slots",
        "idle",
        "keys",
        "limits",
        "requests",
        "room",
        "spares",
        "timers",
    )

    def __init__(self, limits: Limits, limits_of: LimitsOf, *, observed: bool, seed: float) -> None:
        self.closed = False
        self.limits = limits
        self.effects = Effects(observed=observed)
        self.timers = Timers()
        self.keys = Keys(limits, limits_of)
        self.requests = Requests(self.timers, self.effects)
        self.capacity = Capacity(limits)
        self.extra_slots = ExtraSlots(self.capacity, self.effects)
        self.idle = IdleConnections(self.timers)
        self.room = RoomQueue()
        self.spares = Spares(limits, self.timers)
        self.backoff = Backoff(limits, self.timers, self.effects, seed)
