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

    def __init__(self, poller: Poller, *, patient: bool) -> None:
        """Open the line, one for a poller; unless `patient`, a lack of descriptors is told at once."""
        self._poller = poller
        self._patient = patient
        self._line: dict[object, Parking] = {}
        if patient:
            poller.freed = self._call_up

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._line

    async def wait_for(self, begin: Callable[[], T]) -> T:
        """Call what takes a descriptor, and again when one may be free. No checkpoint if one is.

        :raises DialFailure: none is free, and no link is open whose end could help
        """
        if not self._line:
            try:
                return begin()
            except (OSError, DialFailure) as exc:
                self._check_hope(exc)
        ticket = object()
        try:
            while True:
                await self._stand(ticket)
                try:
                    return begin()
                except (OSError, DialFailure) as exc:
                    self._check_hope(exc)
        finally:
            self._line.pop(ticket, None)
            self._call_up()  # there may be more of them

    def _check_hope(self, exc: OSError | DialFailure) -> None:
        if not self._patient or not ran_out(exc):
            raise exc
        if not self._poller.links:
            number = exc.errno if isinstance(exc, OSError) else exc.number
            text = exc.strerror if isinstance(exc, OSError) else exc.text
            raise DialFailure(
                Phase.CONNECT, number, f"{text}, and no connection is open here whose end could help"
            ) from exc

    async def _stand(self, ticket: object) -> None:
        parked = self._line[ticket] = self._poller.park()
        first = next(iter(self._line)) is ticket
        with anyio.move_on_after(RETRY if first else None):
            await parked

    def _call_up(self) -> None:
        first = next(iter(self._line.values()), None)
        if first is not None and not first.done():
            first.set_result(None)
