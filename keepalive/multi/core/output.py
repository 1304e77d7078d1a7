"""What goes out to peers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepalive.base.failure import BrokenResourceError

from .states import CLOSED, CONNECTED, FLUSHING, EndReason, OutputFull

if TYPE_CHECKING:
    from .deferred import Deferred
    from .input import Input
    from .lifecycle import Lifecycle
    from .pending import Pending
    from .record import Connection, Record
    from .states import Limits
    from .timers import PeerTimers

SEGMENT = 536
"""Bytes that surely fit into one TCP segment over IPv4 (RFC 9293 3.7.1)."""


class Output:
    """Sends what can be sent, and queues the rest."""

    def __init__(
        self,
        limits: Limits,
        lifecycle: Lifecycle,
        timers: PeerTimers,
        pending: Pending,
        deferred: Deferred,
        input: Input,
    ) -> None:
        self._max_output = limits.max_output
        self._lifecycle = lifecycle
        self._effects = lifecycle.effects
        self._timers = timers
        self._pending = pending
        self._deferred = deferred
        self._input = input

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
            record.stuck = now
            self._deferred.add(self._failed, record, exc)
            return
        if sent == len(data) and not (link.layered and link.unsent):
            if self._lifecycle.on.on_flushed is not None:
                self._tell_later(record)
            return
        record.outbox = bytearray(memoryview(data)[sent:])
        record.stuck = now
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
                record.stuck = now
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
        if not self._pending.emptied:
            self._deferred.add(self._tell_emptied)
        self._pending.emptied[record] = None

    def _tell_emptied(self, now: float) -> None:
        pending = self._pending
        emptied, pending.emptied = pending.emptied, {}
        for record in emptied:
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
            self._input.read_later(record)

    def _failed(self, record: Record, exc: Exception, now: float) -> None:
        """End a peer that takes nothing more; what it said before that is not lost."""
        self._input.read_out(record, now)
        if record.state is not CLOSED:
            self._lifecycle.broken(record, "write", exc, now)
