"""What a client of a protocol needs of a manager, whosever the connections are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from typing import Any

    from keepalive.connect.lifecycle import Lifecycle

    from .connection import Connection


@runtime_checkable
class Manager(Protocol):
    """Lends connections: a `ConnectionManager`, or one whose connections belong to an agent."""

    @property
    def usable(self) -> bool:
        """Whether it serves requests made here: entered in this event loop and process, and not shut down."""

    @property
    def lifecycles(self) -> Mapping[str, Lifecycle[Any]]:
        """What is done with its connections beside their use, by scheme; empty where nothing is."""

    def time(self) -> float:
        """Return the time, in seconds, of the clock by which its connections' deadlines go."""

    def allocate(
        self,
        scheme: str,
        addr: str,
        port: int,
        timeout: float | None = ...,
        *,
        for_scheme: str | None = None,
        for_addr: str | None = None,
        for_port: int | None = None,
        context: object = None,
        fresh: bool = False,
        queue_timeout: float | None = None,
        open_timeout: float | None = None,
    ) -> Awaitable[Connection]:
        """Request a connection; see `ConnectionManager.allocate`."""

    def deallocate(self, req_id: int) -> bool:
        """Cancel a request by its number; see `ConnectionManager.deallocate`."""
