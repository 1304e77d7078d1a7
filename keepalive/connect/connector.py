"""What opens connections of a scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from keepalive.transport.link import Link

    from .dial import Dial


@runtime_checkable
class Connector(Protocol):
    """Opens connections of a scheme."""

    async def connect(self, dial: Dial) -> Link:
        """Open one connection for ``dial.key`` and return its link.

        Called in a task of the manager's own, inside the limits and timeouts; the methods of the
        `Dial` do the work, and whatever they have opened is closed by the manager if this raises or
        is cancelled. An `OSError` or `ssl.SSLError` that is raised becomes the failure of the
        request, in the phase the dial was in; any other exception does too, and is logged.
        """
