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
5. At most `max_connecting` attempts are under way, and `max_open` places taken, in order of `enter`. An
   attempt that found no free descriptor is made again; it fails when nobody can make room for too long.
6. A timer belongs to the peer, see `_timers`.

It is in four parts, each built on the one before: `_line`, `_lives`, `_traffic`, and this one, with all
that is called from outside.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from anyio import BrokenResourceError

from .traffic import SEGMENT, Traffic
from .types import CLOSED, CONNECTED, CONNECTING, FLUSHING, MISTAKES, NEVER, EndReason, OutputFull

if TYPE_CHECKING:
    from .filters import Filter
    from .peer import Peer
    from .types import Wire


class Desk(Traffic):
    """The peers of one client."""

    # -- commands -----------------------------------------------------------------------------------

    def enter(self, peer: Peer) -> None:
        """Take a new peer in, and start its attempt when its turn comes."""
        self.peers[peer.id] = peer
        if self.on.on_initialize is not None:
            self._call("on_initialize", peer)
            if peer._state is CLOSED:
                return
        if not self._queue and not self._put_off and self._may_start():
            self._start(peer)
        else:
            self._queue[peer] = None

    def send(self, peer: Peer, units: tuple[Any, ...]) -> bool:
        """Send units, or queue them."""
        if not units:
            msg = "send needs at least one unit"
            raise TypeError(msg)
        state = peer._state
        if state is CLOSED or state is FLUSHING:
            return False
        encode = peer._output.encode
        data = encode(units[0]) if len(units) == 1 else b"".join([encode(unit) for unit in units])
        if type(data) is not bytes:
            msg = f"{peer._output!r} must make bytes of a unit, not {data!r:.80}"
            raise TypeError(msg)
        outbox = peer._outbox
        waiting = len(outbox) if outbox else 0
        if waiting + len(data) > self.limits.max_output:
            msg = (
                f"{peer!r}: {waiting} bytes wait, {len(data)} more exceed max_output={self.limits.max_output}"
            )
            raise OutputFull(msg)
        if outbox is not None:
            outbox += data
            return True
        link = peer._link
        if link is None:
            peer._outbox = bytearray(data)
        else:
            self._transmit(peer, link, data)
        return True

    def _transmit(self, peer: Peer, link: Wire, data: bytes) -> None:
        """Send what can be sent at once, and queue the rest."""
        if not peer._sends and len(data) <= SEGMENT:
            peer._sends = 1  # see `_note_send`
        elif peer._sends < 2:
            self._note_send(peer, len(data))
        try:
            sent = link.try_send(data)
        except BrokenResourceError as exc:
            peer._outbox = bytearray(data)  # it has not gone out, and never will
            peer._stuck = self.clock()
            self.do_later(self._write_failed, peer, exc)
            return
        if sent == len(data) and not (link.layered and link.unsent):
            if self.on.on_flushed is not None:
                self._tell_later(peer)
            return
        peer._outbox = bytearray(memoryview(data)[sent:])
        peer._stuck = self.clock()
        self._timers.arm(peer)
        self.do_later(self.writable, peer)  # TLS takes a part at a time, also when there is room for all

    def shutdown(self, peer: Peer) -> bool:
        """End a peer when all that was given to `send` has gone."""
        state = peer._state
        if state is CLOSED or state is FLUSHING:
            return False
        if peer._link is None and not peer._outbox:
            return self.close(peer, EndReason.SHUTDOWN)
        peer._state = FLUSHING
        peer._since = self.clock()
        self._timers.arm(peer)
        self._held.pop(peer, None)
        link = peer._link
        if link is not None:
            peer._inbox = None
            if peer._outbox is None:
                self._half_close(peer)
            elif link.readable or link.layered:
                self._read_later(peer)  # what comes is thrown away, but must be read
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
        self._put_off.clear()
        for peer in list(self.peers.values()):
            if peer._state is not CLOSED:
                self.close(peer, EndReason.DIE)

    def set_timeout(self, peer: Peer, seconds: float) -> None:
        """Set the time of the current phase, and start it anew."""
        peer._timeout = seconds
        if peer._state is CONNECTING or peer._state is CONNECTED:
            peer._since = self.clock()
            self._timers.arm(peer)

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
        if self._held:
            self.do_later(self._go_on)
        self._start_next()

    # -- what the hands tell ------------------------------------------------------------------------

    def connected(self, peer: Peer, link: Wire) -> None:
        """Note that an attempt has succeeded."""
        self._short_since = NEVER
        peer._attempt = False
        self.connecting -= 1
        peer._link = link
        if peer._state is CONNECTING:
            peer._state = CONNECTED
            peer._timeout = seconds = peer._input_timeout
            peer._since = peer._stuck = now = self.clock()
            if seconds and ((entry := peer.timer) is None or now + seconds < entry[0]):
                self._timers.look_by(peer, now + seconds)
            if (told := self.on.on_success) is not None:
                try:
                    told(peer)
                except MISTAKES as exc:
                    self._misbehaved("on_success", peer, exc)
        if peer._outbox is not None:
            self.writable(peer)
        if self._queue or self._put_off:
            self._start_next()

    def fail_later(self, peer: Peer, operation: str, number: int, text: str) -> None:
        """Note that an attempt has failed, when it may have been made within a command."""
        self.do_later(self.failed, peer, operation, number, text)

    def failed(self, peer: Peer, operation: str, number: int, text: str) -> None:
        """Note that an attempt has failed."""
        if peer._state is not CLOSED:
            self._short_since = NEVER
            self._end(peer, EndReason.FAILURE, "on_failure", (operation, number, text))

    def no_room(self, peer: Peer) -> None:
        """Note that an attempt has found no free descriptor: it is made again when there may be one."""
        if peer._state is not CLOSED:
            self._wait_for_room(peer)
            self._start_next()

    def tick(self, now: float) -> None:
        """Look at the peers whose time has come."""
        for peer in self._timers.due(now):
            self._time_out(peer, now)
        if self._timers.retry <= now and (late := self._look_for_room(now)):
            self._give_up(late)
        self._timers.set()

    def _give_up(self, peers: list[Peer]) -> None:
        """Fail those that have waited for a descriptor for too long."""
        text = "Too many open files, and no connection of this client is there to be closed"
        for peer in peers:
            if peer._state is not CLOSED and not peer._attempt and peer._link is None:
                self._end(peer, EndReason.FAILURE, "on_failure", ("socket", errno.EMFILE, text))
        self._short_since = NEVER
        self._room = self.limits.max_open
        self._start_next()

    def catch_up(self) -> None:
        """Do what was put off."""
        self.later.run()

    def abandon(self) -> None:
        """Forget everything: this is the copy of a forked child."""
        for peer in self.peers.values():
            peer._state = CLOSED
            peer._link = peer._inbox = peer._outbox = None
        self.peers.clear()
        self._queue.clear()
        self._put_off.clear()
        self.later.clear()
        self._held.clear()

    def _time_out(self, peer: Peer, now: float) -> None:
        if peer._ends <= now:
            self._end(peer, EndReason.LIFETIME, "on_timeout", ())
            return
        if peer._state is FLUSHING:
            self._finish(peer, EndReason.CUT)
            return
        reason = EndReason.CONNECT_TIMEOUT
        if peer._state is CONNECTED:
            late = peer._timeout and peer._since + peer._timeout <= now
            if late and peer in self._held:  # it is not the peer who is late
                peer._since = now
                self._timers.arm(peer)
                return
            reason = EndReason.INPUT_TIMEOUT if late else EndReason.WRITE_TIMEOUT
        self._end(peer, reason, "on_timeout", ())
