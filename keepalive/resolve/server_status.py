"""What one resolver remembers of its name servers. Pure: time comes in as an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .resolv_conf import Server

DEAD_FOR = 30.0
"""Seconds for which a server that did not answer is asked last."""
PLAIN_FOR = 900.0
"""Seconds for which a server that does not know EDNS is asked without (RFC 6891 6.2.2)."""


class ServerStatus:
    """Which servers are silent, and which do not know EDNS.

    A silent server costs its time once. Then it is asked after the others, until it answers, or until one
    question tries it again.
    """

    def __init__(self) -> None:
        self._dead: dict[Server, float] = {}  # and until when
        self._plain: dict[Server, float] = {}
        self._answered: dict[Server, float] = {}

    def order(self, servers: Sequence[Server], now: float) -> list[Server]:
        """Return whom to ask in turn: those that are known to be silent last."""
        dead: set[Server] = set()
        for server in servers:
            until = self._dead.get(server)
            if until is None:
                continue
            if now < until:
                dead.add(server)
            else:
                self._dead[server] = now + DEAD_FOR  # this question tries it; the others need not
        return sorted(servers, key=dead.__contains__)

    def silent(self, server: Server, asked_at: float, now: float) -> None:
        """Note that a question went without answer; that means nothing if others had theirs meanwhile."""
        if self._answered.get(server, -1e9) < asked_at:
            self._dead[server] = now + DEAD_FOR

    def answered(self, server: Server, now: float) -> None:
        """Note that a server said something."""
        self._answered[server] = now
        self._dead.pop(server, None)

    def no_edns(self, server: Server, now: float) -> None:
        """Note that a server answers only what comes without EDNS."""
        self._plain[server] = now + PLAIN_FOR

    def knows_edns(self, server: Server, now: float) -> bool:
        """Say whether to ask a server with EDNS."""
        return now >= self._plain.get(server, -1e9)
