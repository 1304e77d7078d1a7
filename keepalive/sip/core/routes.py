"""Which connection a message goes out on. Pure.

Three tables: connections by the peer's address and port; connections by the address and port that a verified
peer asked to be called back at (RFC 5923, "alias"); and transactions, by the key of each request (its
`transaction_key`), with the connections it came in on. A connection's entries go with it, and only its own;
and its transactions when none of them has been open for `TRANSACTION_MEMORY` seconds: an idle connection
shall cost little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from keepalive.base.types import NEVER

from .flow import Flow

if TYPE_CHECKING:
    from .flow import HostPort

TRANSACTION_MEMORY: Final = 32.0
"""Seconds for which an answered transaction is remembered: its answer may be repeated (RFC 3261: 64*T1)."""

R = TypeVar("R", bound=Flow)


class Routes(Generic[R]):
    """The tables of one pool."""

    def __init__(self, max_tid: float) -> None:
        self._max_tid = max_tid
        self._by_peer: dict[HostPort, list[R]] = {}
        self._by_key: dict[bytes, tuple[R, ...]] = {}
        self._all_answered: dict[R, float] = {}  # all they remember is answered, since then; the first first
        self.per_address: dict[str, int] = {}
        """How many connections there are to or from each address."""

    def add(self, one: R) -> None:
        """Enter a connection."""
        address = one.peer[0]
        self.per_address[address] = self.per_address.get(address, 0) + 1
        self._by_peer.setdefault(one.peer, []).append(one)

    def alias(self, one: R, place: HostPort) -> None:
        """Note that requests for this place may go out on it; it has been verified."""
        if place != one.peer and place not in one.aliases:
            one.aliases = (*one.aliases, place)
            self._by_peer.setdefault(place, []).append(one)

    def remove(self, one: R) -> None:
        """Forget a connection and all that is its own."""
        address = one.peer[0]
        self.per_address[address] -= 1
        if not self.per_address[address]:
            del self.per_address[address]
        for place in (one.peer, *one.aliases):
            on = self._by_peer[place]
            on.remove(one)
            if not on:
                del self._by_peer[place]
        self._forget_all(one)
        one.aliases = ()

    def add_transaction(self, one: R, key: bytes, *, awaits: bool) -> None:
        """Bind a request to the connection it came in on.

        :param awaits: whether it will have a final response
        """
        tids = one.transaction_keys = one.transaction_keys or []
        on = self._by_key.get(key, ())
        if one in on:
            tids.remove(key)  # a repeated one becomes the latest
        else:
            self._by_key[key] = (*on, one)
        tids.append(key)
        if awaits:
            one.unanswered = one.unanswered or set()
            one.unanswered.add(key)
        if len(tids) > self._max_tid:
            oldest = tids.pop(0)
            self._forget(oldest, one)
            self._mark_answered(one, oldest)
        self._update_all_answered(one)

    def _mark_answered(self, one: R, key: bytes) -> None:
        if one.unanswered is not None:
            one.unanswered.discard(key)
            if not one.unanswered:
                one.unanswered = None

    def _update_all_answered(self, one: R) -> None:
        self._all_answered.pop(one, None)
        if one.unanswered is None:
            self._all_answered[one] = one.last_used

    def next(self) -> float:
        """Return when `forget_old` will find something, or `NEVER`."""
        return next(iter(self._all_answered.values()), NEVER) + TRANSACTION_MEMORY

    def forget_old(self, now: float) -> None:
        """Forget the transactions of connections where none has been open for so long."""
        while self.next() <= now:
            self._forget_all(next(iter(self._all_answered)))

    def _forget_all(self, one: R) -> None:
        self._all_answered.pop(one, None)
        for key in one.transaction_keys or ():
            self._forget(key, one)
        one.transaction_keys = one.unanswered = None

    def for_response(self, key: bytes, place: HostPort | None, address: str | None = None) -> R | None:
        """Return where a request came in: if on several connections, the one of that place, or the latest.

        Peers may use the same key. So of connections from several addresses none is taken of which the place
        says nothing.

        :param address: where the request is known to have come from
        """
        found = self._by_key.get(key, ())
        if address is not None:
            found = tuple(one for one in found if one.peer[0] == address)
        elif place is not None and len(found) > 1:
            found = tuple(one for one in found if one.peer[0] == place[0]) or found
            if len({one.peer[0] for one in found}) > 1:
                return None  # it would be a guess
        found = tuple(one for one in found if one.peer == place) or found
        return found[-1] if found else None

    def _forget(self, key: bytes, one: R) -> None:
        on = tuple(other for other in self._by_key.pop(key, ()) if other is not one)
        if on:
            self._by_key[key] = on

    def transaction_answered(self, one: R, key: bytes) -> None:
        """Note that a request has had its final response."""
        if one.unanswered is not None and key in one.unanswered:
            self._mark_answered(one, key)
            self._update_all_answered(one)

    def for_request(self, place: HostPort, name: str | None) -> R | None:
        """Return the most recently used connection that leads there, if there is one."""
        found = (one for one in self._by_peer.get(place, ()) if one.serves(name))
        return max(found, key=lambda one: one.last_used, default=None)
