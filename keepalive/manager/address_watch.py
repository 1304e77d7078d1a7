"""Connections whose address has left what its name stands for.

Names in use are asked for again when their answers have become old, so that a fail-over by DNS is seen
even where warm connections spare all look-ups. Only a positive answer retires anything: a name server that
fails, or says that there is nothing, says nothing against the connections there are; and an answer of one
family, where nobody could tell of the other, says nothing against that one's.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    from keepalive.pool.pool import Pool
    from keepalive.pool.records import Slot
    from keepalive.resolve.service import Names
    from keepalive.transport.reactor import Reactor

SOONEST = 1.0
"""Seconds from one answer to the next question, at least; for answers that may not be remembered."""
AGAIN = 30.0
"""Seconds until the next question when there was no answer, or none that says how long it holds."""


class AddressWatch:
    """Retires such connections of one manager."""

    def __init__(
        self, pool: Pool, reactor: Reactor, names: Names, retire: Callable[[list[Slot]], int]
    ) -> None:
        self._pool = pool
        self._reactor = reactor
        self._names = names
        self._retire = retire
        self._timer = reactor.timer(self._ring)
        self._due: dict[str, float] = {}  # names in use, and when to ask again
        self._rings = float("inf")
        names.answered = self._answered

    def cancel(self) -> None:
        """Stop asking."""
        self._timer.cancel()

    def _answered(self, name: str, addresses: tuple[str, ...] | None, ttl: float, partial: bool) -> None:
        """Take an answer in; None means that there was none, or only a part of one."""
        if self._pool.closed:
            return
        if addresses is not None:
            known = {ip_address(address.partition("%")[0]) for address in addresses}
            families = {address.version for address in known} if partial else {4, 6}
            addressed = ((slot, _address(slot)) for slot in self._slots(name))
            self._retire(
                [slot for slot, it in addressed if it is None or (it.version in families and it not in known)]
            )
        self._ask_at(name, self._reactor.clock() + (max(ttl, SOONEST) if ttl else AGAIN))

    def _slots(self, name: str) -> list[Slot]:
        links = self._reactor.poller.links.values()
        return [link.slot for link in links if link.name == name and link.slot is not None]

    def _ask_at(self, name: str, when: float) -> None:
        self._due[name] = when
        if when < self._rings:
            self._rings = when
            self._timer.move(when - self._reactor.clock())

    def _ring(self) -> None:
        self._rings = float("inf")
        if self._pool.closed:
            return
        now = self._reactor.clock()
        due = [name for name, when in self._due.items() if when <= now]
        for name in due:
            del self._due[name]
            if self._slots(name):
                self._due[name] = now + AGAIN  # if no answer sets another time: a look-up may be given up
                self._names.refresh(name)
        if self._due:
            name, when = min(self._due.items(), key=lambda item: item[1])
            self._ask_at(name, when)


def _address(slot: Slot) -> IPv4Address | IPv6Address | None:
    """Return the address that a connection leads to; None if it is broken."""
    try:
        address: str = slot.link.sock.getpeername()[0]
    except OSError:
        return None
    return ip_address(address.partition("%")[0])
