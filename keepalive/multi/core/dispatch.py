"""All that is called from outside, and goes to the parts of the core. Pure.

No socket, no clock, no task: `Effects` does what is decided here, time is an argument, and what happens is
told by `connected`, `failed`, `readable`, `writable`, `tick` and `run_deferred`. The tests drive it without
a loop.

Rules, which the walk in the tests holds it to:

1. A peer moves through `PeerState` in one direction only. Exactly one ``on_disconnected`` is the last
   that is heard of it.
2. ``on_failure`` comes only before ``on_success``, ``on_error`` only after; neither, and no
   ``on_input``, after a shutdown has begun. (A callback that raised is told by ``on_error`` in any case.)
3. A peer is closed, its socket too, before anybody is told of its end.
4. Commands call no callback, ``on_initialize`` of `enter` apart: what they lead to is told in the next
   `run_deferred`. So user code is never called in the middle of user code.
5. At most `max_connecting` attempts are under way, and `max_open` places taken, in order of `enter`. An
   attempt that found no free descriptor is made again; it fails when nobody can make room for too long.
6. A timer belongs to the peer, see `timers`.

The parts: `places` (whose turn it is to connect), `lifecycle` (ends, callbacks, calls for the next turn),
`traffic` (input and output) and `timers`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from keepalive.base.failure import MISTAKES

from .lifecycle import Lifecycle
from .states import CLOSED, CONNECTED, CONNECTING, FLUSHING, EndReason
from .traffic import Traffic

if TYPE_CHECKING:
    from .states import Callbacks, Connection, Effects, Limits, Record

NO_ROOM = "Too many open files, and no connection of this client is there to be closed"


class Dispatch:
    """The core of one client."""

    def __init__(self, callbacks: Callbacks, limits: Limits, effects: Effects) -> None:
        self.lifecycle = lifecycle = Lifecycle(callbacks, limits, effects)
        self.records = lifecycle.records
        self.places = lifecycle.places
        self.timers = lifecycle.timers
        self.deferred = lifecycle.deferred
        self._traffic = traffic = Traffic(lifecycle, limits.max_output)
        # These are called for each unit, so they go to their parts directly.
        self.readable = traffic.readable
        self.writable = traffic.writable
        self.send = traffic.send
        self.set_input_filter = traffic.set_filter
        self.run_deferred = self.deferred.run
        self.freed = self.places.freed
        self.borrow = self.places.borrow

    # -- commands -----------------------------------------------------------------------------------

    def enter(self, record: Record, now: float) -> None:
        """Take a new peer in, and start its attempt when its turn comes."""
        self.records[record.id] = record
        self.lifecycle.call("on_initialize", record, (), now)
        if record.state is not CLOSED:
            self.places.enter(record, now)

    def shutdown(self, record: Record, now: float) -> bool:
        """End a peer when all that was given to `send` has gone."""
        state = record.state
        if state is CLOSED or state is FLUSHING:
            return False
        if record.link is None and not record.outbox:
            return self.close(record, EndReason.SHUTDOWN, now)
        record.state = FLUSHING
        record.since = now
        self.timers.arm(record)
        self.lifecycle.held.pop(record, None)
        link = record.link
        if link is not None:
            record.inbox = None
            if record.outbox is None:
                self._traffic.half_close(record)
            elif link.readable or link.layered:
                self._traffic.read_later(record)  # what comes is thrown away, but must be read
        return True

    def close(self, record: Record, reason: EndReason, now: float) -> bool:
        """End a peer at once."""
        if record.state is CLOSED:
            return False
        self.lifecycle.close(record, reason)
        self.deferred.add(self.lifecycle.disconnected, record)
        self.places.start_next(now)
        return True

    def die(self, now: float) -> None:
        """End all peers at once."""
        self.places.clear()
        for record in list(self.records.values()):
            if record.state is not CLOSED:
                self.close(record, EndReason.DIE, now)

    def set_timeout(self, record: Record, seconds: float, now: float) -> None:
        """Set the time of the current phase, and start it anew."""
        record.timeout = seconds
        if record.state is CONNECTING or record.state is CONNECTED:
            record.since = now
            self.timers.arm(record)

    def pause(self) -> None:
        """Read nothing more, and start nothing, until `resume`."""
        self.places.paused = True

    def resume(self, now: float) -> None:
        """Go on reading."""
        self.places.paused = False
        self._traffic.resume()
        self.places.start_next(now)

    # -- what is told -------------------------------------------------------------------------------

    def connected(self, record: Record, link: Connection, now: float) -> None:
        """Note that an attempt has succeeded."""
        places = self.places
        places.shortage_over()
        places.attempt_ended(record)
        record.link = link
        if record.state is CONNECTING:
            record.state = CONNECTED
            record.timeout = seconds = record.input_timeout
            record.since = record.progress_at = now
            if seconds and ((entry := record.timer) is None or now + seconds < entry[0]):
                self.timers.look_by(record, now + seconds)
            if (told := self.lifecycle.on.on_success) is not None:
                try:
                    told(record.peer)
                except MISTAKES as exc:
                    self.lifecycle.misbehaved("on_success", record, exc, now)
        if record.outbox is not None:
            self.writable(record, now)
        if places.queue or places.put_off:
            places.start_next(now)

    def fail_later(self, record: Record, operation: str, number: int, text: str) -> None:
        """Note that an attempt has failed, when it may have been made within a command."""
        self.deferred.add(self.failed, record, operation, number, text)

    def failed(self, record: Record, operation: str, number: int, text: str, now: float) -> None:
        """Note that an attempt has failed."""
        if record.state is not CLOSED:
            self.places.shortage_over()
            self.lifecycle.end(record, EndReason.FAILURE, "on_failure", (operation, number, text), now)

    def no_room(self, record: Record, now: float) -> None:
        """Note that an attempt has found no free descriptor: it is made again when there may be one."""
        if record.state is not CLOSED:
            self.places.no_room(record, now)

    def tick(self, now: float) -> None:
        """Look at the peers whose time has come, after what was put off: it may be in time."""
        self.deferred.run(now)
        for record in self.timers.due(now):
            self._time_out(record, now)
        if self.timers.retry <= now and (late := self.places.look_for_room(now)):
            self._give_up(late, now)
        self.timers.set()

    def _give_up(self, records: list[Record], now: float) -> None:
        """Fail those that have waited for a descriptor for too long."""
        args = "socket", errno.EMFILE, NO_ROOM
        for record in records:
            if record.state is not CLOSED and not record.attempting and record.link is None:
                self.lifecycle.end(record, EndReason.FAILURE, "on_failure", args, now)
        self.places.given_up(now)

    def _time_out(self, record: Record, now: float) -> None:
        end = self.lifecycle.end
        if record.ends <= now:
            end(record, EndReason.LIFETIME, "on_timeout", (), now)
            return
        if record.state is FLUSHING:
            self.lifecycle.finish(record, EndReason.CUT, now)
            return
        reason = EndReason.CONNECT_TIMEOUT
        if record.state is CONNECTED:
            late = record.timeout and record.since + record.timeout <= now
            if late and record in self.lifecycle.held:  # it is not the peer who is late
                record.since = now
                self.timers.arm(record)
                return
            reason = EndReason.INPUT_TIMEOUT if late else EndReason.WRITE_TIMEOUT
        end(record, reason, "on_timeout", (), now)

    def abandon(self) -> None:
        """Forget everything: this is the copy of a forked child."""
        for record in self.records.values():
            record.state = CLOSED
            record.link = record.inbox = record.outbox = None
        self.records.clear()
        self.places.clear()
        self.deferred.clear()
        self.lifecycle.held.clear()
