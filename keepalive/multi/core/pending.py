"""Peers that something is pending for. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .record import Record


class Pending:
    """What waits for its turn, by peer.

    :ivar held: have input, which nobody can take
    :ivar to_read: will be read from in the next turn
    :ivar emptied: are to be told that all was sent
    """

    __slots__ = ("emptied", "held", "to_read")

    def __init__(self) -> None:
        self.held: OrderedDict[Record, None] = OrderedDict()
        self.to_read: set[Record] = set()
        self.emptied: dict[Record, None] = {}

    def forget(self, record: Record) -> None:
        """Forget a peer."""
        self.held.pop(record, None)
        self.emptied.pop(record, None)
        self.to_read.discard(record)
