"""What one manager remembers of names. Pure: time comes in as an argument."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

SIZE = 1000
"""So many names are remembered; then the one that was asked for longest ago is forgotten."""
LONGEST = 7 * 86400.0
"""Seconds; no answer is remembered for longer, whatever its resolver says (RFC 8767 4)."""
LONGEST_NEGATIVE = 3 * 3600.0
"""Seconds; the same for answers that there is nothing (RFC 2308 5)."""
PUT_OFF = 30.0
"""Seconds for which an old answer serves, after a refresh has failed, before the next try (RFC 8767 5)."""


@dataclass(slots=True)
class Entry:
    """One answer."""

    addresses: tuple[str, ...]  # none means: it is known that there are none
    error: Exception | None  # why there are none
    fresh_until: float  # when it must be refreshed
    stale_until: float  # when it must not be used any more, not even if a refresh fails


class Cache:
    """Answers by name: for their time to live, and for a while longer where a refresh fails.

    An answer lives from ``now`` to ``now + ttl``, the end excluded.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # the one asked for longest ago first

    def __len__(self) -> int:
        """Return how many names are remembered, outdated ones included."""
        return len(self._entries)

    def fresh(self, name: str, now: float) -> Entry | None:
        """Return the answer to use without asking anybody. Forgets one that is of no use any more."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if now < entry.fresh_until:
            self._entries.move_to_end(name)
            return entry
        if now >= entry.stale_until:
            del self._entries[name]
        return None

    def stale(self, name: str, now: float) -> Entry | None:
        """Return the answer to use if asking fails."""
        entry = self._entries.get(name)
        return entry if entry is not None and entry.addresses and now < entry.stale_until else None

    def found(self, name: str, addresses: tuple[str, ...], ttl: float, stale: float, now: float) -> None:
        """Remember an answer for `ttl` seconds, and for `stale` more in case that a refresh fails."""
        until = now + min(ttl, LONGEST)
        self._keep(name, Entry(addresses, None, until, until + min(stale, LONGEST)), now)

    def missing(self, name: str, error: Exception, ttl: float, now: float) -> None:
        """Remember that there is nothing. That is an answer too: it ends an older one that is outdated."""
        until = now + min(ttl, LONGEST_NEGATIVE)
        self._keep(name, Entry((), error, until, until), now)

    def refresh_failed(self, name: str, now: float) -> None:
        """Use the outdated answer for a while before the next try."""
        entry = self.stale(name, now)
        if entry is not None:
            entry.fresh_until = max(entry.fresh_until, min(now + PUT_OFF, entry.stale_until))

    def forget(self, name: str | None) -> None:
        """Forget a name, or all."""
        if name is None:
            self._entries.clear()
        else:
            self._entries.pop(name, None)

    def _keep(self, name: str, entry: Entry, now: float) -> None:
        self._entries.pop(name, None)
        if entry.stale_until > now:
            self._entries[name] = entry
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
