"""How many connections there are, against both limits; and the extra slots that attempts may have.

Theory. Every slot counts from the start of its attempt until it is gone. An attempt that tries two addresses
at once needs a second socket, and so a second place: an *extra slot*, granted only while there is room and
recalled as soon as a request could use it. From its recall until it is given back it counts as closing.

Invariants. `total` is the sum of all keys' `count`. Only attempts have extra slots; `holders` are exactly the
attempts that have some which were not recalled. Recalled ones are given back within the same step.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from .states import OPENING, RECALL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import KeyState, Slot
    from .states import Effects, Limits


class Capacity:
    """The count of all connections.

    :ivar total: slots of any state but GONE, extra ones included
    :ivar closing: those of aborted attempts, and recalled extra slots
    :ivar shrunk: whether there are more connections than lowered limits allow
    """

    __slots__ = ("_limits", "_over", "closing", "shrunk", "total")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._over: set[KeyState] = set()  # keys that are beyond a lowered limit
        self.total = 0
        self.closing = 0
        self.shrunk = False

    @property
    def full(self) -> bool:
        """Whether there is no room for any key."""
        return self.total >= self._limits.max_open

    def full_for(self, per_key: KeyState) -> bool:
        """Say whether the key has as many as it may have."""
        return per_key.count >= per_key.limits.max_per_host

    def has_room(self, per_key: KeyState) -> bool:
        """Say whether there is room for one more connection of a key."""
        return self.total < self._limits.max_open and per_key.count < per_key.limits.max_per_host

    def exceeded(self, per_key: KeyState) -> bool:
        """Say whether there are more than lowered limits allow."""
        return self.total > self._limits.max_open or per_key.count > per_key.limits.max_per_host

    def add(self, per_key: KeyState) -> None:
        """Count one more."""
        per_key.count += 1
        self.total += 1

    def remove(self, per_key: KeyState) -> None:
        """Count one less."""
        per_key.count -= 1
        self.total -= 1
        if self.shrunk:
            if per_key.count <= per_key.limits.max_per_host:
                self._over.discard(per_key)
            self.shrunk = bool(self._over) or self.total > self._limits.max_open

    def begin_closing(self, per_key: KeyState, n: int = 1) -> None:
        """Count so many as closing."""
        per_key.closing += n
        self.closing += n

    def end_closing(self, per_key: KeyState) -> None:
        """Count one that was closing as gone."""
        per_key.closing -= 1
        self.closing -= 1
        self.remove(per_key)

    def measure_one(self, per_key: KeyState) -> None:
        """See after a change of one key's limit whether it is beyond that."""
        if per_key.count > per_key.limits.max_per_host:
            self._over.add(per_key)
            self.shrunk = True
        elif per_key in self._over:
            self._over.discard(per_key)
            self.shrunk = bool(self._over) or self.total > self._limits.max_open

    def measure(self, keys: Iterable[KeyState]) -> None:
        """See after a change of the limits who is beyond them."""
        self._over = {per_key for per_key in keys if per_key.count > per_key.limits.max_per_host}
        self.shrunk = bool(self._over) or self.total > self._limits.max_open


class ExtraSlots:
    """The further sockets of attempts.

    :ivar holders: the attempts with extra slots that were not recalled, in the order of their first one
    :ivar recalled: so many were recalled in this very step, and are not given back yet
    """

    __slots__ = ("_capacity", "_effects", "holders", "recalled")

    def __init__(self, capacity: Capacity, effects: Effects) -> None:
        self._capacity = capacity
        self._effects = effects
        self.holders: OrderedDict[Slot, None] = OrderedDict()
        self.recalled = 0

    def take(self, slot: Slot) -> bool:
        """Give an attempt one more slot; False if there is no room. Nothing is closed to make some."""
        per_key = slot.per_key
        if slot.state is not OPENING or not self._capacity.has_room(per_key):
            return False
        slot.extra += 1
        per_key.extra += 1
        self._capacity.add(per_key)
        self.holders[slot] = None
        return True

    def recall(self, slot: Slot) -> None:
        """Call back what an attempt has; until it is given back it counts as closing."""
        if slot in self.holders:
            del self.holders[slot]
            slot.per_key.extra -= slot.extra
            self._capacity.begin_closing(slot.per_key, slot.extra)
            self.recalled += slot.extra
            self._effects.append((RECALL, slot))

    def recall_one(self, per_key: KeyState | None) -> None:
        """Call back what one attempt has, of this key if one is given.

        One at a time: it is given back before this step ends, and then the rules see who needs another.
        """
        if not self.recalled:
            attempts = self.holders if per_key is None else per_key.opening
            self.recall(next(slot for slot in attempts if slot.extra))

    def give_back(self, slot: Slot) -> None:
        """Take one back."""
        per_key = slot.per_key
        slot.extra -= 1
        if slot in self.holders:
            per_key.extra -= 1
            self._capacity.remove(per_key)
            if not slot.extra:
                del self.holders[slot]
        else:
            self._capacity.end_closing(per_key)
            self.recalled -= 1
