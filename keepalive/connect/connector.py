"""What opens connections of a scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from keepalive.base import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def checked_connectors(value: Mapping[str, Connector] | None) -> dict[str, Connector]:
    """Check a mapping of schemes to connectors."""
    if value is None:
        return {}
    if not hasattr(value, "items"):
        msg = f"connectors must map schemes to connectors, not {value!r}"
        raise TypeError(msg)
    for scheme, connector in value.items():
        arguments.text("connectors' scheme", scheme)
        if isinstance(connector, type) or not isinstance(connector, Connector):
            msg = f"connectors[{scheme!r}] must be a Connector, not {connector!r}"
            raise TypeError(msg)
    return dict(value)
