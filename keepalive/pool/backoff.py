"""Keys whose attempts fail again and again are left alone for a while.

Theory. After `pause_after` failures in a row a key pauses, and no attempt of it is started. The pause doubles
with each further failure. It is up to a quarter shorter, so that what many pools do after the end of one
server is scattered. After it attempts go one at a time until one succeeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

from .records import Pause

if TYPE_CHECKING:
    from .records import KeyState, Slot
    from .states import Effects, Limits
    from .timers import Timers

FIRST_PAUSE = 0.1
"""Seconds; each further failure doubles it."""
GOLDEN_RATIO = 0.618033988749895
"""Multiples of it, modulo 1, lie as far apart from each other as can be."""


class Backoff:
    """The failures and pauses of all keys.

    :param seed: 0 to 1; what differs between two pools that see the same
    """

    __slots__ = ("_effects", "_limits", "_seed", "_timers")

    def __init__(self, limits: Limits, timers: Timers, effects: Effects, seed: float) -> None:
        self._limits = limits
        self._timers = timers
        self._effects = effects
        self._seed = seed

    def allows(self, per_key: KeyState) -> bool:
        """Say whether one more attempt may be started: not in a pause, and alone after one."""
        few = per_key.failures < self._limits.pause_after
        return per_key.pause is None and (few or not per_key.opening)

    def failed(self, slot: Slot, error: Exception | None, now: float, *, closed: bool) -> None:
        """Count a failed attempt; a key with too many in a row pauses."""
        per_key, limits = slot.per_key, self._limits
        if limits.pause_after == NEVER:
            return  # an error keeps much alive: the frames of its traceback
        per_key.last_failure = slot.phase, error
        if per_key.pause is not None:
            return  # it was on its way when the pause began
        if now - per_key.failed_at > 2 * limits.max_pause:
            per_key.failures = 0  # what was then says nothing of now
        per_key.failures += 1
        per_key.failed_at = now
        if per_key.failures >= limits.pause_after and not closed:
            times = min(per_key.failures - limits.pause_after, 30)
            jitter = (self._seed + slot.id * GOLDEN_RATIO) % 1
            seconds = min(limits.max_pause, FIRST_PAUSE * 2**times) * (1 - jitter / 4)
            per_key.pause = Pause(per_key)
            self._timers.set(per_key.pause, now + seconds)
            self._effects.notify("paused", per_key.key, per_key.failures, seconds)

    def reset(self, per_key: KeyState) -> None:
        """Forget a key's failures."""
        per_key.failures = 0
        per_key.last_failure = "", None
        if per_key.pause is not None:
            self._timers.clear(per_key.pause)
            per_key.pause = None
