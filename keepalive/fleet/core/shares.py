"""Who gets how many of too few places: max-min fair by need, in proportion to weights.

Theory. Nobody gets more than it needs. What the modest leave is divided among the others in proportion to
their weights ("progressive filling", Bertsekas and Gallager, Data Networks, 6.5.2). Places are whole; of
those that the division leaves over each goes to one member. Where everybody has a place of its own they stay
where they are. Where there are fewer places than members they go round: to those without one, who waits
longest first; who has one keeps it for an interval at least.
"""

from __future__ import annotations

from typing import NamedTuple


class Need(NamedTuple):
    """One member's part of a contended key.

    :ivar turn: when it began to wait, or got its last place
    """

    member: str
    held: int
    need: int
    weight: int
    turn: float


def shares(needs: list[Need], places: float, now: float, interval: float) -> dict[str, int]:
    """Divide the places; each member's share is at most its need."""
    found: dict[str, int] = {}
    left, weight = max(0.0, places), sum(one.weight for one in needs)
    rest: list[Need] = []
    for one in sorted(needs, key=lambda one: (one.need / one.weight, one.member)):
        if not rest and one.need * weight <= left * one.weight:
            found[one.member] = one.need
            left -= one.need
            weight -= one.weight
        else:
            rest.append(one)
    if rest:
        spare = int(left)
        for one in rest:
            found[one.member] = share = int(left * one.weight // weight)
            spare -= share
        settled = min(found[one.member] for one in rest) > 0
        rest.sort(key=lambda one: _rank(one, found[one.member], settled or now - one.turn < interval))
        for one in rest[:spare]:
            found[one.member] += 1
    return found


def _rank(one: Need, share: int, keeps: bool) -> tuple[int, float, str]:
    """Say who comes first for one of the places that are left over."""
    if one.held <= share:
        return 1, one.turn, one.member
    return 0 if keeps else 2, one.turn, one.member
