"""Which connection a message goes out on. Pure.

Three tables: connections by the peer's address and port; connections by the address and port that a verified
peer asked to be called back at (RFC 5923, "alias"); and transactions, by the key of each request (its
`transaction_key`), with the connections it came in on. A connection's entries go with it, and only its own;
and its transactions when none of them has been open for `TRANSACTION_MEMORY` seconds: an idle connection
shall cost little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from keepalive.base.types import NEVER

from .flow import F

if TYPE_CHECKING:
    from .flow import HostPort

TRANSACTION_MEMORY: Final = 32.0
"""Seconds for which an answered transaction is remembered: its answer may be repeated (RFC 3261: 64*T1)."""


class Routes(Generic[F]):
    """The tables of one pool."""

    def __init__(self, max_tid: float) -> None:
        self._max_tid = max_tid
        self._by_peer: dict[HostPort, list[F]] = {}
        self._by_key: dict[bytes, tuple[F, ...]] = {}
        self._all_answered: dict[F, float] = {}  # all they remember is answered, since then; the first first
        self.per_address: dict[str, int] = {}
        """How many connections there are to or from each address."""

    def add(self, flow: F) -> None:
        """Enter a connection."""
        address = flow.peer[0]
        self.per_address[address] = self.per_address.get(address, 0) + 1
        self._by_peer.setdefault(flow.peer, []).append(flow)

    def alias(self, flow: F, place: HostPort) -> None:
        """Note that requests for this place may go out on it; it has been verified."""
        if place != flow.peer and place not in flow.aliases:
            flow.aliases = (*flow.aliases, place)
            self._by_peer.setdefault(place, []).append(flow)

    def remove(self, flow: F) -> None:
        """Forget a connection and all that is its own."""
        address = flow.peer[0]
        self.per_address[address] -= 1
        if not self.per_address[address]:
            del self.per_address[address]
        for place in (flow.peer, *flow.aliases):
            known = self._by_peer[place]
            known.remove(flow)
            if not known:
                del self._by_peer[place]
        self._forget_all(flow)
        flow.aliases = ()

    def add_transaction(self, flow: F, key: bytes, *, awaits: bool) -> None:
        """Bind a request to the connection it came in on.

        :param awaits: whether it will have a final response
        """
        keys = flow.transaction_keys = flow.transaction_keys or []
        known = self._by_key.get(key, ())
        if flow in known:
            keys.remove(key)  # a repeated one becomes the latest
        else:
            self._by_key[key] = (*known, flow)
        keys.append(key)
        if awaits:
            flow.unanswered = flow.unanswered or set()
            flow.unanswered.add(key)
        if len(keys) > self._max_tid:
            oldest = keys.pop(0)
            self._forget(oldest, flow)
            self._mark_answered(flow, oldest)
        self._update_all_answered(flow)

    def _mark_answered(self, flow: F, key: bytes) -> None:
        if flow.unanswered is not None:
            flow.unanswered.discard(key)
            if not flow.unanswered:
                flow.unanswered = None

    def _update_all_answered(self, flow: F) -> None:
        self._all_answered.pop(flow, None)
        if flow.unanswered is None:
            self._all_answered[flow] = flow.last_used

    def next(self) -> float:
        """Return when `forget_old` will find something, or `NEVER`."""
        return next(iter(self._all_answered.values()), NEVER) + TRANSACTION_MEMORY

    def forget_old(self, now: float) -> None:
        """Forget the transactions of connections where none has been open for so long."""
        while self.next() <= now:
            self._forget_all(next(iter(self._all_answered)))

    def _forget_all(self, flow: F) -> None:
        self._all_answered.pop(flow, None)
        for key in flow.transaction_keys or ():
            self._forget(key, flow)
        flow.transaction_keys = flow.unanswered = None

    def for_response(self, key: bytes, place: HostPort | None, address: str | None = None) -> F | None:
        """Return where a request came in: if on several connections, the one of that place, or the latest.

        Peers may use the same key. So of connections from several addresses none is taken of which the place
        says nothing.

        :param address: where the request is known to have come from
        """
        found = self._by_key.get(key, ())
        if address is not None:
            found = tuple(flow for flow in found if flow.peer[0] == address)
        elif place is not None and len(found) > 1:
            found = tuple(flow for flow in found if flow.peer[0] == place[0]) or found
            if len({flow.peer[0] for flow in found}) > 1:
                return None  # it would be a guess
        found = tuple(flow for flow in found if flow.peer == place) or found
        return found[-1] if found else None

    def _forget(self, key: bytes, flow: F) -> None:
        known = tuple(other for other in self._by_key.pop(key, ()) if other is not flow)
        if known:
            self._by_key[key] = known

    def transaction_answered(self, flow: F, key: bytes) -> None:
        """Note that a request has had its final response."""
        if flow.unanswered is not None and key in flow.unanswered:
            self._mark_answered(flow, key)
            self._update_all_answered(flow)

    def for_request(self, place: HostPort, name: str | None) -> F | None:
        """Return the most recently used connection that leads there, if there is one."""
        found = (flow for flow in self._by_peer.get(place, ()) if flow.serves(name))
        return max(found, key=lambda flow: flow.last_used, default=None)
