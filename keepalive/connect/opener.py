"""Opens connections: the one way that the manager, the multi client and SIP pools share.

An attempt is a task that runs a connector, but for the commonest kind: plain TCP to a literal address has
one socket, and the poller itself tells its end. That saves a task, and two turns of the loop.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from anyio import BrokenResourceError, EndOfStream

from keepalive.base.addresses import is_literal
from keepalive.base.failure import DialFailure, text_of
from keepalive.base.types import NEVER, Phase
from keepalive.resolve.service import Callback
from keepalive.transport.link import Link

from .deadlines import Budget
from .dial import Dial
from .sockets import NoSocket
from .tcp import TCPConnector

if TYPE_CHECKING:
    from keepalive.resolve.service import Names
    from keepalive.transport.reactor import Reactor
    from keepalive.transport.runtime import Cancellable
    from keepalive.transport.sessions import Sessions

    from .attempt import Attempt
    from .connector import Connector
    from .deadlines import Timeouts
    from .sockets import Connecting, Net

logger = logging.getLogger("keepalive")


class Opener:
    """Carries attempts out.

    :param timeouts: what one attempt may take; None for no limit but the caller's own
    :param at_once: whether what fails at once is told at once, within `open`, and not by a task
    :ivar ready: connections that were made at once, and wait to be taken in
    """

    def __init__(
        self,
        reactor: Reactor,
        net: Net,
        names: Names,
        sessions: Sessions,
        timeouts: Timeouts | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        self.ready = 0
        self.net = net
        self._reactor = reactor
        self._names = names
        self._sessions = sessions
        self._timeouts = timeouts
        self._at_once = at_once

    def open(self, attempt: Attempt, connector: Connector, net: Net | None = None) -> Cancellable:
        """Start an attempt. It may end before this returns only by `failed`.

        :param net: instead of the opener's own, for an attempt with a local address of its own
        :return: what gives it up; `ended` is called when nothing is left of it
        """
        key = attempt.key
        if type(connector) is TCPConnector and "%" not in key.addr and is_literal(key.addr):
            direct = self.open_address(attempt, connector, net or self.net, key.addr, key.port)
            if direct is not None:
                return direct
        return self._start(attempt, connector, net or self.net)

    def open_by_name(self, attempt: Attempt, connector: TCPConnector, net: Net | None = None) -> Cancellable:
        """Do the same for a name, without a task while it is looked up, nor later if it has one address."""
        return NamedAttempt(self, self._names, attempt, connector, net or self.net)

    def _start(self, attempt: Attempt, connector: Connector, net: Net) -> Cancellable:
        budget = None if self._timeouts is None else Budget(self._timeouts)
        dial = Dial(attempt, net, self._names, budget, self._sessions)
        told = False

        async def carry_out() -> None:
            nonlocal told
            try:
                link = await connector.connect(dial)
                check_link(link)
                if attempt.wanted:  # else it was given up in the last moment, and the dial closes the link
                    dial.keep(link)
                    told = True
                    attempt.opened(link)
            except Exception as exc:
                failure = _explained(attempt, dial, exc)
                dial.close()
                told = True
                attempt.failed(failure)
            finally:
                dial.close()

        def done() -> None:
            if not told:
                attempt.ended()

        try:
            return self._reactor.spawn(carry_out, done, f"keepalive attempt for {attempt.key}")
        except Exception as exc:  # the loop is at its end, or has a task factory of its own that fails
            attempt.failed(_explained(attempt, dial, exc))
            return NOTHING

    def open_address(
        self, attempt: Attempt, connector: TCPConnector, net: Net, address: str, port: int
    ) -> Cancellable | None:
        """Begin to connect to a literal address; None if that failed at once and a task shall tell it."""
        if not net.line.empty:
            return None  # others were first
        try:
            if net.bind_addresses is not None:
                net.reachable((address,))
            connecting = net.begin(address, port, connector.options, eager=not self._at_once)
        except Exception as exc:
            if not self._at_once:
                return None  # a task will fail in the same way: not before the caller has had his turn
            attempt.failed(_at_once(exc))
            return NOTHING
        attempt.enter_phase(Phase.CONNECT)
        if self._timeouts is not None and self._timeouts.connect != NEVER:
            attempt.set_deadline(self._reactor.clock() + self._timeouts.connect, "connect_timeout")
        return DirectAttempt(self, attempt, connecting, address)

    def go_on(
        self, attempt: Attempt, connector: TCPConnector, net: Net, addresses: tuple[str, ...]
    ) -> Cancellable:
        """Connect to what a name stands for. Several addresses are raced, which takes a task."""
        fitting = net.fitting(addresses) or addresses[:1]
        if len(fitting) == 1 and "%" not in fitting[0]:
            direct = self.open_address(attempt, connector, net, fitting[0], attempt.key.port)
            if direct is not None:
                return direct
        return self._start(attempt, connector, net)

    def missed(self, attempt: Attempt, address: str, number: int) -> None:
        """Tell a direct attempt's failure."""
        self.net.failures.note(address, attempt.key.port, self._reactor.clock())
        failure = DialFailure(Phase.CONNECT, number, os.strerror(number))
        failure.__cause__ = OSError(number, os.strerror(number))
        attempt.failed(failure)


class DirectAttempt:
    """An attempt without a task: it stands in the place of its link's writer, and the poller wakes it."""

    __slots__ = ("_address", "_attempt", "_connecting", "_opener")

    def __init__(self, opener: Opener, attempt: Attempt, connecting: Connecting, address: str) -> None:
        self._opener = opener
        self._attempt = attempt
        self._address = address
        self._connecting = connecting
        opener.ready += connecting.ready
        connecting.link.writer = self

    def done(self) -> bool:
        """Say whether it need not be woken any more; see `Wakeable`."""
        return False

    def set_result(self, _: None) -> None:
        """Look how it is going. Called by the poller, and by the end of the link."""
        link = self._connecting.link
        if link.closed or not self._attempt.wanted:
            return  # `cancel` is next, if it has not been
        link.writer = None
        number = self._connecting.look()
        if number is None:
            link.writer = self
            return
        self._opener.ready -= self._connecting.ready
        if number == 0:
            self._attempt.opened(link)
        else:
            link.close()
            self._opener.missed(self._attempt, self._address, number)

    def cancel(self) -> None:
        """End it; nothing is left of it when this returns."""
        link = self._connecting.link
        if not link.closed:
            self._opener.ready -= self._connecting.ready
            link.close()
            self._attempt.ended()


class NamedAttempt:
    """An attempt that first waits for its name, called back like a direct one."""

    __slots__ = ("_attempt", "_connector", "_net", "_opener", "_stage")

    def __init__(
        self, opener: Opener, names: Names, attempt: Attempt, connector: TCPConnector, net: Net
    ) -> None:
        self._opener = opener
        self._attempt = attempt
        self._connector = connector
        self._net = net
        attempt.enter_phase(Phase.RESOLVE)
        self._stage: Cancellable = NOTHING
        try:
            found = names.call_back(attempt.key.addr, self._answered)
        except DialFailure as exc:
            attempt.failed(exc)
            return
        self._stage = opener.go_on(attempt, connector, net, found) if isinstance(found, tuple) else found

    def _answered(self, answer: tuple[str, ...] | DialFailure) -> None:
        if isinstance(answer, DialFailure):
            self._attempt.failed(answer)
        else:
            self._stage = self._opener.go_on(self._attempt, self._connector, self._net, answer)

    def cancel(self) -> None:
        """End it; see the stage it is in."""
        looking_up = isinstance(self._stage, Callback)
        self._stage.cancel()
        if looking_up:
            self._attempt.ended()


class Nothing:
    """An attempt that could not even be started."""

    def cancel(self) -> None:
        """Do nothing."""


NOTHING = Nothing()


def check_link(link: object) -> None:
    """Refuse what a connector may not return."""
    if not isinstance(link, Link):
        msg = f"the connector returned {link!r}, which is not a Link"
        raise TypeError(msg)


def _at_once(exc: Exception) -> DialFailure:
    if isinstance(exc, DialFailure):
        return exc
    phase = "socket" if isinstance(exc, NoSocket) else Phase.CONNECT
    failure = DialFailure(phase, exc.errno if isinstance(exc, OSError) else None, text_of(exc))
    failure.__cause__ = exc
    return failure


def _explained(attempt: Attempt, dial: Dial, exc: Exception) -> DialFailure:
    if not isinstance(exc, (OSError, DialFailure, BrokenResourceError, EndOfStream)):
        logger.error("the connector for %s raised", attempt.key, exc_info=exc)
    return dial.failure(exc)
