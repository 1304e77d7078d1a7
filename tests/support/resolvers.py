"""Resolvers that do what a test says."""

from __future__ import annotations

import anyio

from keepalive import Resolution

HOST = "127.0.0.1"


class TableResolver:
    """A resolver with a fixed table; a name that is not in it does not exist."""

    def __init__(self, **table: str) -> None:
        self.table = table
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Resolution:
        self.asked.append(host)
        if host not in self.table:
            raise OSError(f"no such name: {host}")
        return Resolution(tuple(self.table[host].split()))


class GatedResolver:
    """A resolver that answers when it is told to, always the loopback address unless told to fail.

    :param stubborn: when cancelled, answer all the same
    """

    def __init__(self, *, stubborn: bool = False) -> None:
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.cancelled: list[str] = []
        self.failure: Exception | None = None
        self.gate = anyio.Event()
        self._stubborn = stubborn

    async def resolve(self, host: str) -> Resolution:
        self.asked.append(host)
        try:
            await self.gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(host)
            if not self._stubborn:
                raise
        self.answered.append(host)
        if self.failure is not None:
            raise self.failure
        return Resolution((HOST,))

    def open(self, failure: Exception | None = None) -> None:
        """Let all who have asked go on, and who will."""
        self.failure = failure
        self.gate.set()
