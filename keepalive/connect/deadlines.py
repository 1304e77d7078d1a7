"""What is left of an attempt's time: one purse for names, one for the rest, one for TLS. No clock in here."""

from __future__ import annotations

from typing import NamedTuple

from keepalive.base.types import NEVER, Phase


class Timeouts(NamedTuple):
    """What one attempt may take, in seconds; `NEVER` means no limit."""

    connect: float = NEVER
    resolve: float = NEVER
    tls: float = NEVER
    setup: float = NEVER


class Budget:
    """The deadlines of one attempt. Time is an argument.

    A name that is looked up costs nothing of `connect_timeout`, wherever in the attempt that happens;
    and each purse is one for the whole attempt, however often it is opened.
    """

    __slots__ = ("_connect", "_phase", "_resolve", "_setup", "_since", "_tls")

    def __init__(self, timeouts: Timeouts) -> None:
        self._connect = timeouts.connect
        self._resolve = timeouts.resolve
        self._tls = timeouts.tls
        self._setup = timeouts.setup
        self._phase: Phase | None = None
        self._since = 0.0

    def enter(self, phase: Phase, now: float) -> tuple[float, str]:
        """Begin with a phase; return when the time for it ends, and what has run out then."""
        spent = now - self._since
        if self._phase is Phase.RESOLVE:
            self._resolve -= spent
        elif self._phase is not None:
            self._connect -= spent
            if self._phase is Phase.TLS:
                self._tls -= spent
        self._phase, self._since = phase, now
        if phase is Phase.RESOLVE:
            return now + self._resolve, "resolve_timeout"
        if phase is Phase.TLS and self._tls < self._connect:
            return now + self._tls, "tls_timeout"
        if phase is Phase.SETUP and self._setup < self._connect:
            return now + self._setup, "setup_timeout"
        return now + self._connect, "connect_timeout"

    def share(self, parts: int) -> float:
        """Return the time of one of so many addresses that are tried one after the other."""
        return self._connect / max(parts, 1) if self._connect != NEVER else NEVER
