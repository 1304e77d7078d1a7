"""The shares of one connection: who may have one, and whether it is offered. See `sharing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

from .states import SHARED

if TYPE_CHECKING:
    from .records import Slot


def lends(slot: Slot, now: float) -> bool:
    """Say whether a shared connection's time is not over, nor its uses."""
    shares = slot.shares
    assert shares is not None, "only a shared connection lends shares"
    return slot.retires_at > now and slot.uses + len(shares.unfetched) < slot.per_key.limits.max_uses


def offer(slot: Slot) -> None:
    """Offer a connection to the requests of its key, or not, as its free shares are."""
    shares, offered = slot.shares, slot.per_key.shared
    assert shares is not None, "only a shared connection has shares"
    if slot.state is SHARED and 0 < shares.lent < shares.capacity and slot.retires_at != -NEVER:
        offered[slot] = None
    else:
        offered.pop(slot, None)


def return_share(slot: Slot) -> None:
    """Count one share less as lent."""
    shares = slot.shares
    assert shares is not None, "only a shared connection has shares"
    shares.lent -= 1
    offer(slot)


def stop_lending(slot: Slot) -> None:
    """Let a connection end with its last share."""
    slot.retires_at = slot.expires = slot.trusted_until = -NEVER
    slot.per_key.shared.pop(slot, None)
