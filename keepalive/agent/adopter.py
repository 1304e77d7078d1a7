"""A connector that has some connections already: those of the agent whose place is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive import TCPConnector, UnixConnector

if TYPE_CHECKING:
    import socket
    from collections import deque
    from collections.abc import Iterable, Mapping

    from keepalive import Dial, Key, Link
    from keepalive.abc import Connector


class Adopter:
    """A connector.

    :param below: what opens further ones
    :param ready: those that are there
    """

    def __init__(self, below: Connector, ready: Mapping[Key, deque[socket.socket]]) -> None:
        self._below = below
        self._ready = ready

    async def connect(self, dial: Dial) -> Link:
        """Give out a connection that was taken over, or open one."""
        ready = self._ready.get(dial.key)
        return dial.adopt(ready.popleft()) if ready else await self._below.connect(dial)


def adopters(
    connectors: Mapping[str, Connector],
    schemes: Iterable[str],
    ready: Mapping[Key, deque[socket.socket]],
) -> dict[str, Connector]:
    """Put an adopter before the connector of each of these schemes."""
    found = dict(connectors)
    for scheme in schemes:
        below = found.get(scheme) or (UnixConnector() if scheme == "unix" else TCPConnector())
        found[scheme] = Adopter(below, ready)
    return found
