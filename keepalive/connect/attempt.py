"""What an attempt to open a connection is, seen from those who carry it out.

Whoever wants connections (the manager, the multi client, a SIP pool) gives an object of this kind to the
`Opener`. It says what is wanted, lends sockets beyond the first, is told of the phases, and hears the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.failure import DialFailure
    from keepalive.base.types import Key
    from keepalive.transport.link import Link


class ExtraSockets(Protocol):
    """Where an attempt gets places for further sockets; its first one has the attempt's own."""

    def take_extra(self, recall: Callable[[], None]) -> bool:
        """Take one place more, if there is one. `recall` is called when all must come back at once."""

    def give_back_extra(self) -> None:
        """Give one back."""


class Attempt(ExtraSockets, Protocol):
    """One attempt; it ends with exactly one of `opened`, `failed` and `ended`."""

    @property
    def key(self) -> Key:
        """What to connect to."""

    @property
    def phase(self) -> str:
        """What it is doing."""

    def enter_phase(self, phase: str) -> None:
        """Note what it is doing from now on."""

    def set_deadline(self, when: float, timeout: str) -> None:
        """Note when it has taken too long, and the name of the time limit that has run out then."""

    @property
    def wanted(self) -> bool:
        """Whether it has not been given up meanwhile."""

    def opened(self, link: Link) -> None:
        """Take the connection."""

    def failed(self, failure: DialFailure) -> None:
        """Hear why there is none."""

    def ended(self) -> None:
        """Hear that nothing is left of it: it was cancelled, or its event loop came to its end."""
