"""What comes in from connected peers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.failure import MISTAKES, BrokenResourceError

from .filters import Inbox, UnitError
from .lifecycle import text_of
from .states import CONNECTED, EndReason

if TYPE_CHECKING:
    from .deferred import Deferred
    from .filters import Filter
    from .lifecycle import Lifecycle
    from .pending import Pending
    from .places import Places
    from .record import Record

READ = 65536
"""Bytes taken from the kernel at a time."""
FAIR_READS = 4
"""So often one peer is read from before others have their turn."""


class Input:
    """Makes units of the bytes of all peers, and tells them."""

    def __init__(self, lifecycle: Lifecycle, places: Places, pending: Pending, deferred: Deferred) -> None:
        self._lifecycle = lifecycle
        self._places = places
        self._pending = pending
        self._deferred = deferred
        self._busy: Record | None = None  # whose units are being delivered

    def readable(self, record: Record, now: float) -> None:
        """Read what is there, a few times at most; later the rest."""
        pending = self._pending
        if pending.to_read and record in pending.to_read:
            return  # its next turn is set
        if pending.emptied and record in pending.emptied:  # what an answer answers has gone before it came
            del pending.emptied[record]
            if record.state is CONNECTED and record.outbox is None:
                self._lifecycle.call("on_flushed", record, (), now)
        for _ in range(FAIR_READS):
            link = record.link
            if link is None:
                return
            if self._places.paused and record.state is CONNECTED:
                pending.held[record] = None
                return
            try:
                data = link.try_receive(READ)
            except BrokenResourceError as exc:
                self._lifecycle.broken(record, "read", exc, now)
                return
            if data is None:
                return
            if not data:
                self._at_end(record, now)
                return
            if record.state is CONNECTED:
                self._take(record, data, now)
            if not link.readable and not link.layered:
                return
        self.read_later(record)

    def read_later(self, record: Record) -> None:
        """Read in the next turn of the loop."""
        to_read = self._pending.to_read
        if record not in to_read:
            to_read.add(record)
            self._deferred.add(self._read_on, record)

    def _read_on(self, record: Record, now: float) -> None:
        self._pending.to_read.discard(record)
        self.readable(record, now)

    def read_out(self, record: Record, now: float) -> None:
        """Take in all that a peer said before it took nothing more."""
        if record.link is not None:
            record.link.readable = True  # the event that says so may be still to come
        try:
            while (link := record.link) is not None and (data := link.try_receive(READ)):
                if record.state is CONNECTED:
                    self._take(record, data, now)
        except BrokenResourceError:
            pass

    def _take(self, record: Record, data: bytes, now: float) -> None:
        inbox = record.inbox
        if inbox is None:
            record.inbox = Inbox(data)
        else:
            inbox += data
        self._deliver(record, now)

    def _deliver(self, record: Record, now: float) -> None:
        """Make units of what has come. Each one may change everything, its filter included."""
        inbox = record.inbox
        if inbox is None:
            return
        on_input = self._lifecycle.on.on_input
        places = self._places
        self._busy = record
        while inbox and record.state is CONNECTED:
            if places.paused:
                self._pending.held[record] = None
                break
            codec, size = record.input_filter, len(inbox)
            try:
                unit = codec.decode(inbox)
            except Exception as exc:
                self._refuse(record, exc, now)
                break
            if unit is None:
                break
            if len(inbox) >= size:
                msg = f"{codec!r} gave a unit and took nothing from the buffer"
                self._refuse(record, TypeError(msg), now)
                break
            record.since = now
            if on_input is not None:
                try:
                    on_input(record.peer, unit)
                except MISTAKES as exc:
                    self._lifecycle.misbehaved("on_input", record, exc, now)
        self._busy = None
        if not inbox and record.inbox is inbox:
            record.inbox = None

    def set_filter(self, record: Record, codec: Filter) -> None:
        """Exchange the filter; what is there already may be units to the new one."""
        record.input_filter = codec
        if record.inbox and self._busy is not record:
            self._deferred.add(self._deliver, record)

    def resume(self) -> None:
        """Go on with those that were held up."""
        if self._pending.held:
            self._deferred.add(self._go_on)

    def _go_on(self, now: float) -> None:
        """Serve those that were held up, in turn: who fills the queue again stands at the end."""
        held = self._pending.held
        for _ in range(len(held)):
            if self._places.paused or not held:
                return
            record = held.popitem(last=False)[0]
            self._deliver(record, now)
            link = record.link
            if link is not None and (link.readable or link.layered):
                self.readable(record, now)

    def _refuse(self, record: Record, exc: Exception, now: float) -> None:
        number = exc.number if isinstance(exc, UnitError) else 0
        if not isinstance(exc, UnitError):
            self._lifecycle.effects.log_error("decode", record, exc)
        args = "decode", number, text_of(exc)
        self._lifecycle.end(record, EndReason.ERROR, "on_error", args, now)

    def _at_end(self, record: Record, now: float) -> None:
        if record.state is CONNECTED:
            self._lifecycle.end(record, EndReason.ERROR, "on_error", ("read", 0, ""), now)
        elif record.outbox is None:  # else it has closed its direction only, and may still read
            self._lifecycle.finish(record, EndReason.SHUTDOWN, now)
