"""How long a connection may take to stand, to complete a message and to answer, and how long be quiet."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .alarms import Alarms
    from .config import SipConfig
    from .engine import Engine
    from .flow import Flow


class Limits:
    """The deadlines of a pool's connections. One that is over ends its connection."""

    def __init__(self, engine: Engine, config: SipConfig, alarms: Alarms) -> None:
        self._engine = engine
        self._config = config
        self._alarms = alarms
        self._clock = engine.clock

    def drop(self, flow: Flow) -> None:
        """Withdraw a connection's deadline."""
        if flow.deadline is not None:
            self._alarms.withdraw(flow.deadline)
            flow.deadline = None

    def drop_all(self, flow: Flow) -> None:
        """Withdraw all of a connection's deadlines."""
        self.drop(flow)
        if flow.patience is not None:
            self._alarms.withdraw(flow.patience)
            flow.patience = None

    # -- to stand ---------------------------------------------------------------------------------------

    def opening(self, flow: Flow) -> None:
        """Start `connect_timeout`."""
        limit = self._config.connect_timeout

        def too_late() -> None:
            flow.deadline = None
            self._engine.end(flow, "timeout", errno.ETIMEDOUT, f"not open within {limit:g} s")

        flow.deadline = self._alarms.later(limit, too_late)

    def refusal(self, flow: Flow) -> None:
        """Give a TLS 1.3 server its time for refusing our certificate; it is the one it has for a handshake.

        Of a client's certificate it knows only after the client's end of the handshake, and it need not say
        that it is content. Most servers give tickets then, or answer; only a silent one has all this time.
        """
        flow.deadline = self._alarms.later(self._config.connect_timeout, flow.not_refused)

    # -- to complete a message --------------------------------------------------------------------------

    def message(self, flow: Flow, started: bool, fresh: bool) -> None:
        """Give a message that has begun its time, or forget it when it is complete.

        :param fresh: whether another one has been completed before it just now
        """
        if not started:
            if flow.taken is None:
                self.drop(flow)
        elif flow.deadline is None:
            flow.deadline = self._alarms.later(self._config.message_timeout, lambda: self._message_due(flow))
            flow.deadline.since = flow.heard
        elif fresh:
            flow.deadline.since = flow.heard

    def _message_due(self, flow: Flow) -> None:
        deadline = flow.deadline
        if deadline is not None and deadline.since + self._config.message_timeout > self._clock():
            self._alarms.put_off(deadline, deadline.since + self._config.message_timeout)
        else:
            self._engine.end(flow, "deadline", errno.ETIMEDOUT, "a message was not completed in time")

    # -- to be quiet -----------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """End the connections that were quiet for too long."""
        for flow in self._engine.expiry.due(now):
            if flow.pending or not self._speaks(flow):
                self._engine.end(flow, "expired", errno.ETIMEDOUT, "the connection was quiet for too long")

    def _speaks(self, flow: Flow) -> bool:
        """Look once more before a connection ends for its silence; say whether there is something.

        After a turn that took long the kernel has what the poller has not told yet.
        """
        if flow.link is None or flow.ended:
            return False
        before = flow.heard
        flow.link.readable = True
        self._engine.read_now(flow)
        return flow.heard > before or self._engine.holds_back(flow)

    # -- to answer --------------------------------------------------------------------------------------

    def asked(self, flow: Flow) -> None:
        """Note that the peer of an open connection owes something: it has `response_timeout` for any byte.

        The time runs from the first such message since something came: those after it do not prolong it.
        """
        limit = self._config.response_timeout
        if flow.asked is not None or limit is None:
            return
        flow.asked = self._clock()
        if flow.patience is None:  # else it rings too early, and is put off then: cheaper than moving it
            flow.patience = self._alarms.later(limit, lambda: self._silent(flow))

    def _silent(self, flow: Flow) -> None:
        """End a connection whose peer has said nothing, unless something of it waits to be read."""
        engine, limit = self._engine, self._config.response_timeout
        patience = flow.patience
        assert limit is not None, "checked when it was asked"
        if flow.asked is not None and flow.asked + limit <= self._clock() and self._speaks(flow):
            flow.asked = None  # even if it is we who do not read
        if flow.ended or patience is None:
            return
        if flow.asked is None:
            flow.patience = None
        elif flow.asked + limit > self._clock():
            self._alarms.put_off(patience, flow.asked + limit)
        else:
            flow.patience = None
            engine.end(flow, "silent", errno.ETIMEDOUT, f"nothing came for {limit:g} s, though it was asked")
