"""Connectors that do what a test says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from keepalive import TCPConnector

if TYPE_CHECKING:
    from keepalive import Connector, Dial, Link


class FunctionConnector:
    """A connector made of a function."""

    def __init__(self, function: Any) -> None:
        self._function = function

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        link: Link = await self._function(dial)
        return link


class Gate:
    """A connector whose attempts wait until the test opens the gate."""

    def __init__(self, over: Connector | None = None) -> None:
        self.begun = 0
        self.ended = 0
        self._over: Connector = over or TCPConnector()
        self._open = anyio.Event()

    async def connect(self, dial: Dial) -> Link:
        self.begun += 1
        try:
            await self._open.wait()
            return await self._over.connect(dial)
        finally:
            self.ended += 1

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open = anyio.Event()

    @property
    def waiting(self) -> int:
        return self.begun - self.ended
