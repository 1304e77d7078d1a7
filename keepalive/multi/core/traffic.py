"""What comes in from connected peers, and what goes out to them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepalive.base.failure import MISTAKES, BrokenResourceError

from .filters import Inbox, UnitError
from .lifecycle import text_of
from .states import CLOSED, CONNECTED, FLUSHING, EndReason, OutputFull

if TYPE_CHECKING:
    from .filters import Filter
    from .lifecycle import Lifecycle
    from .states import Connection, Record

READ = 65536
"""Bytes taken from the kernel at a time."""
FAIR_READS = 4
"""So often one peer is read from before others have their turn."""
SEGMENT = 536
"""Bytes that surely fit into one TCP segment over IPv4 (RFC 9293 3.7.1)."""


class Traffic:
    """Makes units of the bytes of all peers, and tells them; sends what can be sent, and queues the rest."""

    def __init__(self, lifecycle: Lifecycle, max_output: float) -> None:
        self._lifecycle = lifecycle
        self._max_output = max_output
        self._effects = lifecycle.effects
        self._deferred = lifecycle.deferred
        self._timers = lifecycle.timers
        self._places = lifecycle.places
        self._busy: Record | None = None  # whose units are being delivered

    # -- input --------------------------------------------------------------------------------------

    def readable(self, record: Record, now: float) -> None:
        """Read what is there, a few times at most; later the rest."""
        lifecycle = self._lifecycle
        if lifecycle.to_read and record in lifecycle.to_read:
            return  # its next turn is set
        if lifecycle.emptied and record in lifecycle.emptied:
            del lifecycle.emptied[record]  # what an answer answers has gone before it came
            self._tell_flushed(record, now)
        for _ in range(FAIR_READS):
            link = record.link
            if link is None:
                return
            if self._places.paused and record.state is CONNECTED:
                lifecycle.held[record] = None
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
        to_read = self._lifecycle.to_read
        if record not in to_read:
            to_read.add(record)
            self._deferred.add(self._read_on, record)

    def _read_on(self, record: Record, now: float) -> None:
        self._lifecycle.to_read.discard(record)
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
                self._lifecycle.held[record] = None
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
        if self._lifecycle.held:
            self._deferred.add(self._go_on)

    def _go_on(self, now: float) -> None:
        """Serve those that were held up, in turn: who fills the queue again stands at the end."""
        held = self._lifecycle.held
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

    # -- output -------------------------------------------------------------------------------------

    def send(self, record: Record, units: tuple[Any, ...], now: float) -> bool:
        """Send units, or queue them."""
        if not units:
            msg = "send needs at least one unit"
            raise TypeError(msg)
        state = record.state
        if state is CLOSED or state is FLUSHING:
            return False
        encode = record.output_filter.encode
        data = encode(units[0]) if len(units) == 1 else b"".join([encode(unit) for unit in units])
        if type(data) is not bytes:
            msg = f"{record.output_filter!r} must make bytes of a unit, not {data!r:.80}"
            raise TypeError(msg)
        outbox = record.outbox
        waiting = len(outbox) if outbox else 0
        if waiting + len(data) > self._max_output:
            numbers = f"{waiting} bytes wait, {len(data)} more exceed max_output={self._max_output}"
            msg = f"{record.peer!r}: {numbers}"
            raise OutputFull(msg)
        if outbox is not None:
            outbox += data
            return True
        link = record.link
        if link is None:
            record.outbox = bytearray(data)
        else:
            self._transmit(record, link, data, now)
        return True

    def _transmit(self, record: Record, link: Connection, data: bytes, now: float) -> None:
        """Send what can be sent at once, and queue the rest."""
        if not record.sends and len(data) <= SEGMENT:
            record.sends = 1  # see `_note_send`
        elif record.sends < 2:
            self._note_send(record, len(data))
        try:
            sent = link.try_send(data)
        except BrokenResourceError as exc:
            record.outbox = bytearray(data)  # it has not gone out, and never will
            record.progress_at = now
            self._deferred.add(self._failed, record, exc)
            return
        if sent == len(data) and not (link.layered and link.unsent):
            if self._lifecycle.on.on_flushed is not None:
                self._tell_later(record)
            return
        record.outbox = bytearray(memoryview(data)[sent:])
        record.progress_at = now
        self._timers.arm(record)
        self._deferred.add(self.writable, record)  # TLS takes a part at a time, also when all has room

    def _note_send(self, record: Record, size: int) -> None:
        """Spare those that send one small piece, which are many, a system call.

        What is sent first never waits for an acknowledgement, if it fits into a segment (RFC 896).
        """
        if record.sends or size > SEGMENT:
            record.sends = 2
            self._effects.set_no_delay(record)
        else:
            record.sends = 1

    def writable(self, record: Record, now: float) -> None:
        """Send what waits."""
        link, outbox = record.link, record.outbox
        if link is None or outbox is None:
            return
        moved = False
        if record.sends < 2:
            self._note_send(record, len(outbox))
        try:
            while outbox:
                sent = link.try_send(outbox)  # type: ignore[arg-type]  # a bytearray is as good to a socket
                if not sent:
                    break
                moved = True
                del outbox[:sent]
            if link.layered and link.unsent:
                link.try_send(b"")
        except BrokenResourceError as exc:
            self._failed(record, exc, now)
            return
        if outbox or (link.layered and link.unsent):
            if moved:
                record.progress_at = now
            self._timers.arm(record)
            self._effects.watch_writable(record)
            return
        record.outbox = None
        self._lifecycle.wake(record)
        if record.state is FLUSHING:
            self.half_close(record)
        elif self._lifecycle.on.on_flushed is not None:
            self._lifecycle.call("on_flushed", record, (), now)

    def _tell_later(self, record: Record) -> None:
        if not self._lifecycle.emptied:
            self._deferred.add(self._tell_emptied)
        self._lifecycle.emptied[record] = None

    def _tell_emptied(self, now: float) -> None:
        emptied, self._lifecycle.emptied = self._lifecycle.emptied, {}
        for record in emptied:
            self._tell_flushed(record, now)

    def _tell_flushed(self, record: Record, now: float) -> None:
        if record.state is CONNECTED and record.outbox is None:
            self._lifecycle.call("on_flushed", record, (), now)

    def half_close(self, record: Record) -> None:
        """Tell the peer that no more will come; it closes when it has read everything."""
        link = record.link
        assert link is not None, "only a connection is flushed"
        try:
            if not link.eof and not link.eof_sent:
                link.send_eof()
                if link.layered and link.unsent:
                    record.outbox = bytearray()  # so that `writable` goes on with it
                    self._effects.watch_writable(record)
        except BrokenResourceError:
            self._deferred.add(self._lifecycle.finish, record, EndReason.SHUTDOWN)
            return
        if link.eof:
            self._deferred.add(self._lifecycle.finish, record, EndReason.SHUTDOWN)
        elif link.readable or link.layered:
            self.read_later(record)

    def _failed(self, record: Record, exc: Exception, now: float) -> None:
        """End a peer that takes nothing more; what it said before that is not lost."""
        self.read_out(record, now)
        if record.state is not CLOSED:
            self._lifecycle.broken(record, "write", exc, now)
