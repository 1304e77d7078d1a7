"""What the tests over real sockets share."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import anyio

from keepalive.multi import MultiClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.multi import Peer

PATIENCE = 15.0
NAMES = (
    "on_initialize", "on_success", "on_failure", "on_input",
    "on_error", "on_timeout", "on_flushed", "on_disconnected",
)  # fmt: skip


class Log:
    """Remember all callbacks, as (name, id, arguments...); run a user's own after that; be waited for."""

    def __init__(self, **own: Callable[..., object]) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._of: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
        self._met: defaultdict[str, set[int]] = defaultdict(set)  # the peers by callback
        self.count: Counter[str] = Counter()
        self._bell = anyio.Event()
        self._own = own
        self.clients: list[MultiClient] = []

    def client(self, **options: Any) -> MultiClient:
        """Make a client that tells everything to this log."""
        callbacks: dict[str, Any] = {name: self._callback(name) for name in NAMES}
        return MultiClient(**callbacks, **options)

    def _callback(self, name: str) -> Callable[..., None]:
        own = self._own.get(name)

        def callback(peer: Peer, *args: Any) -> None:
            self.told.append((name[3:], peer.id, *args))
            self._of[peer.id].append((name[3:], *args))
            self._met[name[3:]].add(peer.id)
            self.count[name[3:]] += 1
            bell, self._bell = self._bell, anyio.Event()
            bell.set()
            if own is not None:
                own(peer, *args)

        return callback

    def of(self, peer: Peer | int) -> list[tuple[Any, ...]]:
        """Return what was told of a peer."""
        number = peer if isinstance(peer, int) else peer.id
        return list(self._of[number])

    def words(self, peer: Peer | int) -> str:
        """Return the same in one line, without arguments."""
        return " ".join(name for name, *_ in self.of(peer))

    def inputs(self, peer: Peer | int) -> list[Any]:
        """Return the units that have come."""
        return [args[0] for name, *args in self.of(peer) if name == "input"]

    async def until(self, predicate: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait for a state; it is looked at after each callback."""
        with anyio.move_on_after(patience):
            while not predicate():
                await self._bell.wait()
        assert predicate(), self.told[-20:]

    async def ended(self, *peers: Peer) -> None:
        """Wait until these have ended."""
        gone = {peer.id for peer in peers}
        await self.until(lambda: gone <= self._met["disconnected"])

    async def connected(self, *peers: Peer) -> None:
        """Wait until these are connected."""
        there = {peer.id for peer in peers}
        await self.until(lambda: there <= self._met["success"])
