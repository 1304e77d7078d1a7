"""TLS sessions kept for resumption (RFC 8446 2.2, RFC 5077), and the count of handshakes.

A store belongs to one manager, so all in here happens in one thread. Nothing is done when a connection
is used or closed: the engines of the latest connections are remembered, and asked for their tickets when
the next dial wants one. (A ticket comes after the handshake, with the first bytes that are read; and
CPython copies the whole session whenever it is asked for, at the price of a third of a handshake.)
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Hashable

    from keepalive.base.types import Key

    _Label = tuple[ssl.SSLContext, Hashable, str | None, Key, int]

BURST = 1.0
"""For so many seconds from its first use a TLS 1.3 ticket serves further dials too.

RFC 8446 C.4 wants a ticket used once, lest an onlooker tells that two connections are one client's. Of
connections made within a second, from one address to one name, he knows that anyhow.
"""
PATIENCE = 1.0
"""For so many seconds a peer's engines are not asked again when none had a ticket."""
REFUSAL = 600.0
"""For so many seconds no session is offered to a peer that broke off a handshake because of one."""
PEERS = 128
"""Of so many peers sessions are kept: those dialled last. A peer costs up to 70 KB."""


class Shelf:
    """The newest session of one peer, as far as one way to verify it goes."""

    __slots__ = ("_engines", "_expires", "_known", "_once", "_quiet_until", "_session", "_single", "_used")

    def __init__(self) -> None:
        self._engines: deque[tuple[ssl.SSLObject, bytes]] = deque(maxlen=2)
        self._session: ssl.SSLSession | None = None
        self._expires = 0.0  # by the clock on the wall, as sessions count
        self._once = False  # it is a ticket of TLS 1.3
        self._used = 0.0  # when it was offered first
        self._known = False  # the peer has resumed it
        self._single = False  # the peer refuses tickets that it has resumed before
        self._quiet_until = 0.0

    def offer(self) -> ssl.SSLSession | None:
        """Return the session to offer in a new handshake, if there is one."""
        now = time.monotonic()
        if now < self._quiet_until:
            return None
        again = not self._once or (now - self._used < BURST and not self._single)
        if again and self._session is not None and time.time() < self._expires:
            return self._session
        self._session = self._newest()
        self._used, self._known = now, False
        if self._session is None and self._engines:
            self._quiet_until = now + PATIENCE
        return self._session

    def _newest(self) -> ssl.SSLSession | None:
        for pair in reversed(self._engines):
            engine, offered = pair
            session = engine.session
            if session is None or not session.id or session.id == offered:
                continue  # no ticket has come, or none but the one that it began with
            self._expires = _end_of(session)
            if time.time() < self._expires:
                self._once = engine.version() == "TLSv1.3"
                self._engines.remove(pair)
                return session
        return None

    def shaken(self, engine: ssl.SSLObject, offered: ssl.SSLSession | None) -> None:
        """Note a finished handshake: its engine may have a ticket soon."""
        if offered is not None and offered is self._session:
            if engine.session_reused:
                self._known = True
            else:
                # Either it takes each ticket once, or it has new keys now, and older tickets are no better.
                self._single = self._single or self._known
                self._session = None
                self._engines.clear()
        self._engines.append((engine, b"" if offered is None else offered.id))

    def broken(self) -> None:
        """Note that the peer broke off a handshake in which a session was offered."""
        self._session = None
        self._engines.clear()
        self._quiet_until = time.monotonic() + REFUSAL


def _end_of(session: ssl.SSLSession) -> float:
    seconds = session.timeout
    if session.has_ticket and session.ticket_lifetime_hint:  # in TLS 1.2, 0 says nothing
        seconds = min(seconds, session.ticket_lifetime_hint)
    return session.time + seconds


class Sessions:
    """All that one manager knows of TLS sessions.

    :ivar handshakes: finished handshakes
    :ivar resumed: how many of these resumed a session
    """

    __slots__ = ("_shelves", "handshakes", "resumed")

    def __init__(self) -> None:
        self.handshakes = 0
        self.resumed = 0
        self._shelves: OrderedDict[_Label, Shelf] = OrderedDict()

    def shelf(self, context: ssl.SSLContext, name: str | None, key: Key, layer: int) -> Shelf:
        """Return the place for a peer's sessions; `layer` says how many TLS links lie below.

        A resumed handshake verifies nothing. So a session is offered only where a full handshake would be
        held to the same: under the same name, by the same context, whose rules have not changed since.
        """
        rules = context.verify_mode, context.check_hostname, context.verify_flags
        label = context, rules, name, key, layer
        shelf = self._shelves.get(label)
        if shelf is None:
            shelf = self._shelves[label] = Shelf()
            if len(self._shelves) > PEERS:
                self._shelves.popitem(last=False)
        else:
            self._shelves.move_to_end(label)
        return shelf

    def forget(self, concerned: Callable[[Key], bool] = lambda _: True) -> None:
        """Drop the sessions of the keys concerned, or all; the counts stay."""
        for label in [label for label in self._shelves if concerned(label[3])]:
            del self._shelves[label]
