"""What is left of an attempt's time: one purse for names, one for the rest, one for TLS. No clock in here."""

from __future__ import annotations

from keepalive.base.types import NEVER, Phase
from keepalive.pool.states import Failure, Limits


class Budget:
    """The deadlines of one attempt. Time is an argument.

    A name that is looked up costs nothing of `connect_timeout`, wherever in the attempt that happens;
    and each purse is one for the whole attempt, however often it is opened.
    """

    __slots__ = ("_connect", "_phase", "_resolve", "_since", "_tls")

    def __init__(self, limits: Limits) -> None:
        self._connect = limits.connect_timeout
        self._resolve = limits.resolve_timeout
        self._tls = limits.tls_timeout
        self._phase: Phase | None = None
        self._since = 0.0

    def enter(self, phase: Phase, now: float) -> tuple[float, Failure]:
        """Begin with RESOLVE, CONNECT or TLS; return when the time for it ends, and what has run out then."""
        spent = now - self._since
        if self._phase is Phase.RESOLVE:
            self._resolve -= spent
        elif self._phase is not None:
            self._connect -= spent
            if self._phase is Phase.TLS:
                self._tls -= spent
        self._phase, self._since = phase, now
        if phase is Phase.RESOLVE:
            return now + self._resolve, Failure.RESOLVE_TIMEOUT
        if phase is Phase.TLS and self._tls < self._connect:
            return now + self._tls, Failure.TLS_TIMEOUT
        return now + self._connect, Failure.CONNECT_TIMEOUT

    def share(self, parts: int) -> float:
        """Return the time of one of so many addresses that are tried one after the other."""
        return self._connect / max(parts, 1) if self._connect != NEVER else NEVER
