"""The lives of peers: how they end, and what user code is told. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from keepalive.base.text import printable

from .line import Line
from .types import CLOSED, FLUSHING, MISTAKES, NEVER, ClientClosed, EndReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from .peer import Peer
    from .types import Callbacks, Hands, Limits


class Lives(Line):
    """The second part of the desk; see `_desk`."""

    def __init__(
        self, callbacks: Callbacks, limits: Limits, hands: Hands, clock: Callable[[], float]
    ) -> None:
        super().__init__(limits, hands, clock)
        self.on = callbacks
        self.peers: dict[int, Peer] = {}
        self.last_id = 0
        self._emptied: dict[Peer, None] = {}  # to be told that all was sent
        self._hot: set[Peer] = set()  # will be read from in the next turn
        self._busy: Peer | None = None  # whose units are being delivered
        self._held: OrderedDict[Peer, None] = OrderedDict()  # have input, which nobody can take
        self.empty: Any = None  # an event, set when the last peer has gone

    # -- the end of a peer --------------------------------------------------------------------------

    def _close(self, peer: Peer, reason: EndReason) -> None:
        peer._state = CLOSED
        peer.reason = reason
        del self.peers[peer.id]
        if not self.peers and self.empty is not None:
            self.empty.set()
        held = peer._attempt or peer._link is not None
        if peer._attempt:
            peer._attempt = False
            self.connecting -= 1
        elif peer._link is None:
            self._leave(peer)
        self._timers.withdraw(peer)
        self._held.pop(peer, None)
        self._emptied.pop(peer, None)
        self._hot.discard(peer)
        if held:
            self._short_since = NEVER
        if self.hands.shut(peer) and held:
            self.holding -= 1
        if peer._inbox:
            peer._inbox.clear()  # a filter may remember it
        peer._link = peer._inbox = peer._outbox = None
        self._wake(peer)

    def _end(self, peer: Peer, reason: EndReason, name: str, args: tuple[Any, ...]) -> None:
        """Close a peer and tell why, but for one that was being shut down, which just ends."""
        quiet = peer._state is FLUSHING
        self._close(peer, reason)
        if not quiet:
            self._call(name, peer, *args)
        self._disconnected(peer)
        self._start_next()

    def _finish(self, peer: Peer, reason: EndReason) -> None:
        if peer._state is not CLOSED:
            self._close(peer, reason)
            self._disconnected(peer)
            self._start_next()

    def _broken(self, peer: Peer, operation: str, exc: Exception) -> None:
        cause = exc.__cause__ if isinstance(exc.__cause__, OSError) else None
        number = (cause.errno if cause else None) or 0
        text = (cause.strerror if cause else None) or text_of(exc.__cause__ or exc)
        self._end(peer, EndReason.ERROR, "on_error", (operation, number, text))

    def _disconnected(self, peer: Peer) -> None:
        if self.on.on_disconnected is not None:
            self._call("on_disconnected", peer)

    # -- callbacks ----------------------------------------------------------------------------------

    def _call(self, name: str, peer: Peer, *args: Any) -> None:
        callback = getattr(self.on, name)
        if callback is not None:
            try:
                callback(peer, *args)
            except MISTAKES as exc:
                self._misbehaved(name, peer, exc)

    def _misbehaved(self, name: str, peer: Peer, exc: BaseException) -> None:
        """Deal with a callback that raised: it ends its own peer, and nobody else notices."""
        if not isinstance(exc, ClientClosed):  # who opens the next connection when one ends need not ask
            self.hands.report(name, peer, exc)
        if name in ("on_error", "on_disconnected"):
            return
        was_open = peer._state is not CLOSED
        if was_open:
            self._close(peer, EndReason.ERROR)
        if name == "on_initialize":  # within a command: nothing is told before that has ended
            if was_open:
                self.do_later(self._call, "on_error", peer, name, 0, text_of(exc))
                self.do_later(self._disconnected, peer)
            return
        self._call("on_error", peer, name, 0, text_of(exc))
        if was_open:
            self._disconnected(peer)
            self._start_next()

    def _wake(self, peer: Peer) -> None:
        drainers = peer._drainers
        if drainers is not None:
            for parked in drainers:
                if not parked.done():
                    parked.set_result(None)


def text_of(exc: BaseException) -> str:
    """Say for people what went wrong."""
    return printable(str(exc)) or type(exc).__name__
