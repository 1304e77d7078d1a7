"""The words between a member and its driver."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Do(Enum):
    """What the driver is asked to carry out, in this order."""

    SEND = "send"
    """Send this call; answer with `answered` or `failed`."""
    PLACES = "places"
    """This key has so many places from now on; idle connections beyond them are closed."""
    CUT = "cut"
    """So many connections of this key may be left: the others are closed now, in use or not."""
    NEWS = "news"
    """Tell whoever reads the log: a word, and what belongs to it."""


class Usage(NamedTuple):
    """What a pool has of one key.

    :ivar open: connections, attempts and what is closing included
    :ivar idle: of these, idle ones
    :ivar waiting: requests for which nothing was opened
    """

    open: int
    idle: int
    waiting: int

    @property
    def busy(self) -> int:
        """How many are in use, or on their way."""
        return self.open - self.idle

    @property
    def need(self) -> int:
        """How many it would have, if it could."""
        return self.open - self.idle + self.waiting


class State(Enum):
    """How a member stands with the store."""

    JOINING = "joining"
    """It has not been answered yet."""
    LEASED = "leased"
    """Its lease runs."""
    FALLBACK = "fallback"
    """Its lease has ended, and its fallback counts."""
    BARE = "bare"
    """Its lease has ended, and it has nothing."""
    LEFT = "left"
    """It has given everything back."""
