"""What becomes of the peers of a client: every decision, and nothing else. Pure.

No socket, no clock of its own, no task: `Hands` does what is decided here, and tells what happened by
`connected`, `failed`, `readable`, `writable`, `tick` and `catch_up`. The tests drive it without a loop.

Rules, which the walk in the tests holds it to:

1. A peer moves through `PeerState` in one direction only. Exactly one ``on_disconnected`` is the last
   that is heard of it.
2. ``on_failure`` comes only before ``on_success``, ``on_error`` only after; neither, and no
   ``on_input``, after a shutdown has begun. (A callback that raised is told by ``on_error`` in any case.)
3. A peer is closed, its socket too, before anybody is told of its end.
4. Commands call no callback, ``on_initialize`` of `enter` apart: what they lead to is told in the next
   `catch_up`. So user code is never called in the middle of user code.
5. At most `max_connecting` attempts are under way, in order of `enter`.
6. A timer belongs to the peer: `Peer._since` is all that an incoming unit sets. The agenda has one entry
   per peer, for a time not later than the true one, and is corrected when that surfaces.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from anyio import BrokenResourceError

from keepalive._core._agenda import Agenda

from ._filters import UnitError
from ._types import (
    CLOSED,
    CONNECTED,
    CONNECTING,
    FLUSHING,
    INITIALISING,
    NEVER,
    ClientClosed,
    EndReason,
    OutputFull,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._filters import Filter
    from ._peer import Peer
    from ._types import Callbacks, Hands, Limits, Wire

READ = 65536
"""Bytes taken from the kernel at a time."""
FAIR_READS = 4
"""So often one peer is read from before others have their turn."""


class Desk:
    """The peers of one client."""

    def __init__(
        self, callbacks: Callbacks, limits: Limits, hands: Hands, clock: Callable[[], float]
    ) -> None:
        self.on = callbacks
        self.limits = limits
        self.clock = clock
        self.peers: dict[int, Peer] = {}
        self.connecting = 0
        self.last_id = 0
        self.hands = hands
        self._queue: OrderedDict[Peer, None] = OrderedDict()
        self._agenda: Agenda[Peer] = Agenda()
        self._armed = NEVER  # when the hands call `tick`
        self._later: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._asked = False  # the hands will call `catch_up`
        self._emptied: dict[Peer, None] = {}  # to be told that all was sent
        self._busy: Peer | None = None  # whose units are being delivered
        self.stalled = False  # nobody can take further input
        self._held: dict[Peer, None] = {}  # have input, which nobody can take
        self.empty: Any = None  # an event, set when the last peer has gone

    # -- commands -----------------------------------------------------------------------------------

    def enter(self, peer: Peer) -> None:
        """Take a new peer in, and start its attempt when its turn comes."""
        self.peers[peer.id] = peer
        if self.on.on_initialize is not None:
            self._call("on_initialize", peer)
            if peer._state is CLOSED:
                return
        if self.connecting < self.limits.max_connecting and not self._queue and not self.stalled:
            self._start(peer)
        else:
            self._queue[peer] = None

    def send(self, peer: Peer, units: tuple[Any, ...]) -> bool:
        """Send units, or queue them."""
        state = peer._state
        if state is CLOSED or state is FLUSHING:
            return False
        encode = peer._output.encode
        data = encode(units[0]) if len(units) == 1 else b"".join([encode(unit) for unit in units])
        outbox = peer._outbox
        waiting = len(outbox) if outbox else 0
        if waiting + len(data) > self.limits.max_output:
            msg = f"{peer!r}: {waiting} bytes wait, {len(data)} more exceed max_output={self.limits.max_output}"
            raise OutputFull(msg)
        if outbox is not None:
            outbox += data
            return True
        link = peer._link
        if link is None:
            peer._outbox = bytearray(data)
            return True
        try:
            sent = link.try_send(data)
        except BrokenResourceError as exc:
            self.do_later(self._write_failed, peer, exc)
            return True
        if sent == len(data) and not (link.layered and link.unsent):
            if self.on.on_flushed is not None:
                self._tell_later(peer)
            return True
        peer._outbox = bytearray(memoryview(data)[sent:])
        self._wait_for_room(peer)
        return True

    def shutdown(self, peer: Peer) -> bool:
        """End a peer when all that was given to `send` has gone."""
        state = peer._state
        if state is CLOSED or state is FLUSHING:
            return False
        if peer._link is None and not peer._outbox:
            return self.close(peer, EndReason.SHUTDOWN)
        peer._state = FLUSHING
        peer._since = self.clock()
        self._arm(peer)
        self._held.pop(peer, None)
        link = peer._link
        if link is not None:
            peer._inbox = None
            if peer._outbox is None:
                self._half_close(peer)
            elif link.readable or link.layered:
                self.do_later(self.readable, peer)  # what comes is thrown away, but must be read
        return True

    def close(self, peer: Peer, reason: EndReason) -> bool:
        """End a peer at once."""
        if peer._state is CLOSED:
            return False
        self._close(peer, reason)
        self.do_later(self._disconnected, peer)
        self._start_next()
        return True

    def die(self) -> None:
        """End all peers at once."""
        self._queue.clear()
        for peer in list(self.peers.values()):
            if peer._state is not CLOSED:
                self.close(peer, EndReason.DIE)

    def set_timeout(self, peer: Peer, seconds: float) -> None:
        """Set the time of the current phase, and start it anew."""
        peer._timeout = seconds
        if peer._state is CONNECTING or peer._state is CONNECTED:
            peer._since = self.clock()
            self._arm(peer)

    def set_input_filter(self, peer: Peer, codec: Filter) -> None:
        """Exchange the filter for what comes; what is there already may be units to the new one."""
        peer._input = codec
        if peer._inbox and self._busy is not peer:
            self.do_later(self._deliver, peer)

    def stall(self) -> None:
        """Read nothing more, and start nothing, until `resume`."""
        self.stalled = True

    def resume(self) -> None:
        """Go on reading."""
        self.stalled = False
        for peer in self._held:
            self.do_later(self._go_on, peer)
        self._held.clear()
        self._start_next()

    # -- attempts -----------------------------------------------------------------------------------

    def _start(self, peer: Peer) -> None:
        if peer._state is INITIALISING:
            peer._state = CONNECTING
            peer._since = self.clock()
            self._arm(peer)
        peer._attempt = True
        self.connecting += 1
        self.hands.open(peer)

    def _start_next(self) -> None:
        queue = self._queue
        while queue and self.connecting < self.limits.max_connecting and not self.stalled:
            self._start(queue.popitem(last=False)[0])

    def connected(self, peer: Peer, link: Wire) -> None:
        """Note that an attempt has succeeded."""
        peer._attempt = False
        self.connecting -= 1
        peer._link = link
        if peer._state is CONNECTING:
            peer._state = CONNECTED
            peer._timeout = peer._input_timeout
            peer._since = self.clock()
            self._arm(peer)
            if self.on.on_success is not None:
                self._call("on_success", peer)
        if peer._outbox is not None:
            peer._stuck = self.clock()
            self.writable(peer)
        if self._queue:
            self._start_next()

    def fail_later(self, peer: Peer, operation: str, number: int, text: str) -> None:
        """Note that an attempt has failed, when it may have been made within a command."""
        self.do_later(self.failed, peer, operation, number, text)

    def failed(self, peer: Peer, operation: str, number: int, text: str) -> None:
        """Note that an attempt has failed."""
        if peer._state is not CLOSED:
            self._end(peer, EndReason.FAILURE, "on_failure", (operation, number, text))

    # -- input --------------------------------------------------------------------------------------

    def readable(self, peer: Peer) -> None:
        """Read what is there, a few times at most; later the rest."""
        for _ in range(FAIR_READS):
            link = peer._link
            if link is None:
                return
            if self.stalled and peer._state is CONNECTED:
                self._held[peer] = None
                return
            try:
                data = link.try_receive(READ)
            except BrokenResourceError as exc:
                self._broken(peer, "read", exc)
                return
            if data is None:
                return
            if not data:
                self._at_end(peer, link)
                return
            if peer._state is CONNECTED:
                self._take(peer, data)
            if not link.readable and not link.layered:
                return
        self.do_later(self.readable, peer)

    def _take(self, peer: Peer, data: bytes) -> None:
        inbox = peer._inbox
        if inbox is None:
            peer._inbox = bytearray(data)
        else:
            inbox += data
        self._deliver(peer)

    def _deliver(self, peer: Peer) -> None:
        """Make units of what has come. Each one may change everything, its filter included."""
        inbox = peer._inbox
        if inbox is None:
            return
        peer_since = self.clock()
        on_input = self.on.on_input
        self._busy = peer
        while peer._state is CONNECTED:
            if self.stalled:
                self._held[peer] = None
                break
            try:
                unit = peer._input.decode(inbox)
            except Exception as exc:
                self._refuse(peer, exc)
                break
            if unit is None:
                break
            peer._since = peer_since
            if on_input is not None:
                try:
                    on_input(peer, unit)
                except Exception as exc:
                    self._misbehaved("on_input", peer, exc)
        self._busy = None
        if not inbox and peer._inbox is inbox:
            peer._inbox = None

    def _go_on(self, peer: Peer) -> None:
        self._deliver(peer)
        link = peer._link
        if link is not None and (link.readable or link.layered):
            self.readable(peer)

    def _refuse(self, peer: Peer, exc: Exception) -> None:
        number = exc.number if isinstance(exc, UnitError) else 0
        if not isinstance(exc, UnitError):
            self.hands.report("decode", peer, exc)
        self._end(peer, EndReason.ERROR, "on_error", ("decode", number, _text(exc)))

    def _at_end(self, peer: Peer, link: Wire) -> None:
        if peer._state is CONNECTED:
            self._end(peer, EndReason.ERROR, "on_error", ("read", 0, ""))
        elif peer._outbox is None:  # else it has closed its direction only, and may still read
            self._finish(peer, EndReason.SHUTDOWN)

    # -- output -------------------------------------------------------------------------------------

    def _wait_for_room(self, peer: Peer) -> None:
        peer._stuck = self.clock()
        self._arm(peer)
        self.hands.want_room(peer)

    def writable(self, peer: Peer) -> None:
        """Send what waits."""
        link, outbox = peer._link, peer._outbox
        if link is None or outbox is None:
            return
        moved = False
        try:
            while outbox:
                sent = link.try_send(outbox)
                if not sent:
                    break
                moved = True
                del outbox[:sent]
            if link.layered and link.unsent:
                link.try_send(b"")
        except BrokenResourceError as exc:
            self._write_failed(peer, exc)
            return
        if outbox or (link.layered and link.unsent):
            if moved:
                peer._stuck = self.clock()
            self._arm(peer)
            self.hands.want_room(peer)
            return
        peer._outbox = None
        self._wake(peer)
        if peer._state is FLUSHING:
            self._half_close(peer)
        elif self.on.on_flushed is not None:
            self._call("on_flushed", peer)

    def _tell_later(self, peer: Peer) -> None:
        if not self._emptied:
            self.do_later(self._tell_emptied)
        self._emptied[peer] = None

    def _tell_emptied(self) -> None:
        emptied, self._emptied = self._emptied, {}
        for peer in emptied:
            if peer._state is CONNECTED and peer._outbox is None:
                self._call("on_flushed", peer)

    def _half_close(self, peer: Peer) -> None:
        """Tell the peer that no more will come; it closes when it has read everything."""
        link = peer._link
        assert link is not None, "only a connection is flushed"
        try:
            if not link.eof and not link.eof_sent:
                link.send_eof()
                if link.layered and link.unsent:
                    peer._outbox = bytearray()  # so that `writable` goes on with it
                    self.hands.want_room(peer)
        except BrokenResourceError:
            self.do_later(self._finish, peer, EndReason.SHUTDOWN)
            return
        if link.eof:
            self.do_later(self._finish, peer, EndReason.SHUTDOWN)
        elif link.readable or link.layered:
            self.do_later(self.readable, peer)

    # -- time ---------------------------------------------------------------------------------------

    def _due(self, peer: Peer) -> float:
        """Return when a peer's patience ends, as things are now."""
        state = peer._state
        limits = self.limits
        due = NEVER
        if state is FLUSHING:
            return peer._since + limits.shutdown_timeout if limits.shutdown_timeout else due
        if (state is CONNECTING or state is CONNECTED) and peer._timeout:
            due = peer._since + peer._timeout
        if state is CONNECTED and peer._outbox is not None and limits.write_timeout:
            due = min(due, peer._stuck + limits.write_timeout)
        return due

    def _arm(self, peer: Peer) -> None:
        due = self._due(peer)
        entry = peer.entry
        if due < (NEVER if entry is None else entry[0]):
            self._agenda.enter(peer, due)
            if due < self._armed:
                self._armed = due
                self.hands.wake_at(due)

    def tick(self, now: float) -> None:
        """Look at the peers whose time has come."""
        self._armed = NEVER
        for peer in self._agenda.pop_due(now):
            due = self._due(peer)
            if due <= now:
                self._time_out(peer, now)
            else:
                self._agenda.enter(peer, due)
        first = self._agenda.next()
        if first < self._armed:
            self._armed = first
            self.hands.wake_at(first)

    def _time_out(self, peer: Peer, now: float) -> None:
        if peer._state is FLUSHING:
            self._finish(peer, EndReason.CUT)
            return
        reason = EndReason.CONNECT_TIMEOUT
        if peer._state is CONNECTED:
            late = peer._timeout and peer._since + peer._timeout <= now
            reason = EndReason.INPUT_TIMEOUT if late else EndReason.WRITE_TIMEOUT
        self._end(peer, reason, "on_timeout", ())

    # -- the end of a peer --------------------------------------------------------------------------

    def _close(self, peer: Peer, reason: EndReason) -> None:
        peer._state = CLOSED
        peer.reason = reason
        del self.peers[peer.id]
        if not self.peers and self.empty is not None:
            self.empty.set()
        if peer._attempt:
            peer._attempt = False
            self.connecting -= 1
        elif peer._link is None:
            self._queue.pop(peer, None)
        self._agenda.withdraw(peer)
        self._held.pop(peer, None)
        self._emptied.pop(peer, None)
        self.hands.shut(peer)
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
        text = (cause.strerror if cause else None) or _text(exc.__cause__ or exc)
        self._end(peer, EndReason.ERROR, "on_error", (operation, number, text))

    def _write_failed(self, peer: Peer, exc: Exception) -> None:
        """End a peer that takes nothing more; what it said before that is not lost."""
        try:
            while (link := peer._link) is not None and (data := link.try_receive(READ)):
                if peer._state is CONNECTED:
                    self._take(peer, data)
        except BrokenResourceError:
            pass
        if peer._state is not CLOSED:
            self._broken(peer, "write", exc)

    def _disconnected(self, peer: Peer) -> None:
        if self.on.on_disconnected is not None:
            self._call("on_disconnected", peer)

    # -- callbacks ----------------------------------------------------------------------------------

    def _call(self, name: str, peer: Peer, *args: Any) -> None:
        callback = getattr(self.on, name)
        if callback is not None:
            try:
                callback(peer, *args)
            except Exception as exc:
                self._misbehaved(name, peer, exc)

    def _misbehaved(self, name: str, peer: Peer, exc: Exception) -> None:
        """Deal with a callback that raised: it ends its own peer, and nobody else notices."""
        if not isinstance(exc, ClientClosed):  # who opens the next connection when one ends need not ask
            self.hands.report(name, peer, exc)
        if name in ("on_error", "on_disconnected"):
            return
        was_open = peer._state is not CLOSED
        if was_open:
            self._close(peer, EndReason.ERROR)
        self._call("on_error", peer, name, 0, _text(exc))
        if was_open:
            self._disconnected(peer)
            self._start_next()

    def do_later(self, what: Callable[..., None], *args: Any) -> None:
        """Have something done when no user code is running."""
        self._later.append((what, args))
        if not self._asked:
            self._asked = True
            self.hands.soon()

    def catch_up(self) -> None:
        """Do what was put off; what comes up meanwhile is for the next time."""
        later = self._later
        try:
            for _ in range(len(later)):
                what, args = later.popleft()
                what(*args)
        finally:
            self._asked = bool(later)
            if later:
                self.hands.soon()

    def abandon(self) -> None:
        """Forget everything: this is the copy of a forked child."""
        for peer in self.peers.values():
            peer._state = CLOSED
            peer._link = peer._inbox = peer._outbox = None
        self.peers.clear()
        self._queue.clear()
        self._later.clear()
        self._held.clear()

    def _wake(self, peer: Peer) -> None:
        drainers = peer._drainers
        if drainers is not None:
            for parked in drainers:
                if not parked.done():
                    parked.set_result(None)


def _text(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
