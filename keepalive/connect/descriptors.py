"""Attempts in line for descriptors. EMFILE and ENFILE mean "not now", as long as a link of ours can end."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from keepalive.base.failure import DialFailure
from keepalive.base.types import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.poller import Poller
    from keepalive.transport.runtime import Parking

T = TypeVar("T")

SHORT: Final = (errno.EMFILE, errno.ENFILE)
"""No descriptor is free: in the process, or in the system."""
RETRY: Final = 0.1
"""Seconds after which the first in line tries again: others in the process may have closed something."""


def ran_out(exc: BaseException | None) -> bool:
    """Say whether an error, or one behind it, is a lack of descriptors."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in SHORT:
            return True
        if isinstance(exc, DialFailure) and exc.number in SHORT:
            return True
        if isinstance(exc, BaseExceptionGroup) and any(map(ran_out, exc.exceptions)):
            return True
        exc = exc.__cause__
    return False


class DescriptorLine:
    """Who waits for a descriptor, first come first served. A link that closes calls up the first in line."""

    def __init__(self, poller: Poller, *, make_room: Callable[[], bool] | None) -> None:
        """Open the line, one for a poller.

        :param make_room: closes a link that nobody uses, and says whether there was one; without this
            nobody waits, and a lack of descriptors is told at once
        """
        self._poller = poller
        self._make_room = make_room
        self._line: dict[object, Parking] = {}
        if make_room is not None:
            poller.freed = self._call_up

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._line

    async def wait_for(self, begin: Callable[[], T]) -> T:
        """Call what takes a descriptor, and again when one may be free. No checkpoint if one is.

        :raises DialFailure: none is free, and no link is open whose end could help
        """
        ticket = object()
        try:
            while True:
                if self._line and next(iter(self._line)) is not ticket:
                    await self._stand(ticket)
                try:
                    return begin()
                except (OSError, DialFailure) as exc:
                    if not self._may_help(exc):
                        await self._stand(ticket)
        finally:
            self._line.pop(ticket, None)
            self._call_up()  # there may be more of them

    def _may_help(self, exc: OSError | DialFailure) -> bool:
        """Say whether to try again at once. Raises the error if waiting is no use."""
        if self._make_room is None or not ran_out(exc):
            raise exc
        if self._make_room():
            return True
        if not self._poller.links:
            number = exc.errno if isinstance(exc, OSError) else exc.number
            text = exc.strerror if isinstance(exc, OSError) else exc.text
            raise DialFailure(
                Phase.CONNECT, number, f"{text}, and no connection is open here whose end could help"
            ) from exc
        return False

    async def _stand(self, ticket: object) -> None:
        parked = self._line[ticket] = self._poller.park()
        first = next(iter(self._line)) is ticket
        with anyio.move_on_after(RETRY if first else None):
            await parked

    def _call_up(self) -> None:
        first = next(iter(self._line.values()), None)
        if first is not None and not first.done():
            first.set_result(None)
