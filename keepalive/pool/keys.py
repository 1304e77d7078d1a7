"""The keys that the pool knows, and how those out of use are forgotten."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from .records import Counters, KeyState

if TYPE_CHECKING:
    from keepalive.base.types import Key

    from .states import Limits, LimitsOf

MOST_RESTING = 1024
"""Keys without connections or requests whose totals are still kept apart."""


class Keys:
    """The state of each key.

    :ivar states: by key
    :ivar direct: those without a proxy, by the first three parts: half the work to find most of them
    :ivar resting: those without connections or requests, the longest first
    :ivar past: the totals of keys that have been forgotten
    """

    __slots__ = ("_limits", "_limits_of", "direct", "past", "resting", "states")

    def __init__(self, limits: Limits, limits_of: LimitsOf) -> None:
        self._limits = limits
        self._limits_of = limits_of
        self.states: dict[Key, KeyState] = {}
        self.direct: dict[tuple[str, str, int], KeyState] = {}
        self.resting: OrderedDict[KeyState, None] = OrderedDict()
        self.past = Counters()

    def of(self, key: Key) -> KeyState:
        """Return the state of a key, a new one if it has none."""
        per_key = self.states.get(key)
        if per_key is None:
            per_key = self.states[key] = KeyState(key, self._limits_of(key, self._limits))
            if key[:3] == key[3:]:
                self.direct[key[:3]] = per_key
        return per_key

    def relimit(self, limits_of: LimitsOf | None = None) -> None:
        """Give every key its limits anew, by another rule if one is given."""
        self._limits_of = limits_of or self._limits_of
        for key, per_key in self.states.items():
            per_key.limits = self._limits_of(key, self._limits)

    def wake(self, per_key: KeyState) -> None:
        """Note that a key comes into use."""
        self.resting.pop(per_key, None)

    def rest(self, per_key: KeyState) -> None:
        """Keep the totals of a key if it is out of use, for the last `MOST_RESTING` of them."""
        if per_key.count or per_key.queue is not None or self.states.get(per_key.key) is not per_key:
            return  # in use, or forgotten already
        self.resting[per_key] = None
        if len(self.resting) > MOST_RESTING:
            oldest, _ = self.resting.popitem(last=False)
            del self.states[oldest.key]
            if oldest.key[:3] == oldest.key[3:]:
                del self.direct[oldest.key[:3]]
            self.past.add(oldest.counters)
