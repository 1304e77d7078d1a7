"""The shares of one connection: who may have one, and whether it is offered. See `sharing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

from .states import SHARED

if TYPE_CHECKING:
    from .records import KeyState, Slot


def lends(slot: Slot, now: float) -> bool:
    """Say whether a shared connection's time is not over, nor its uses."""
    shares = slot.shares
    assert shares is not None, "only a shared connection lends shares"
    return slot.retires_at > now and slot.uses + len(shares.unfetched) < slot.per_key.limits.max_uses


def load(slot: Slot) -> float:
    """Return the part of a connection's shares that is lent."""
    shares = slot.shares
    assert shares is not None, "only a shared connection lends shares"
    return shares.lent / shares.capacity if shares.capacity else 1.0


def within(slot: Slot | None, part: float) -> bool:
    """Say whether no more than this part will be lent when one share more is."""
    shares = None if slot is None else slot.shares
    return shares is not None and shares.lent + 1 <= part * shares.capacity


def least_lent(per_key: KeyState, now: float) -> Slot | None:
    """Return the connection of a key with the smallest part lent, of those with free shares."""
    return min((slot for slot in per_key.shared if lends(slot, now)), key=load, default=None)


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
