"""What goes in and out of a connected peer. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import BrokenResourceError

from .filters import Inbox, UnitError
from .lives import Lives, text_of
from .types import CLOSED, CONNECTED, FLUSHING, MISTAKES, EndReason

if TYPE_CHECKING:
    from .peer import Peer
    from .types import Wire

READ = 65536
"""Bytes taken from the kernel at a time."""
SEGMENT = 536
"""Bytes that surely fit into one TCP segment over IPv4 (RFC 9293 3.7.1)."""
FAIR_READS = 4
"""So often one peer is read from before others have their turn."""


class Traffic(Lives):
    """The middle part of the desk; see `_desk`."""

    # -- input --------------------------------------------------------------------------------------

    def readable(self, peer: Peer) -> None:
        """Read what is there, a few times at most; later the rest."""
        if self._hot and peer in self._hot:
            return  # its next turn is set
        if self._emptied and peer in self._emptied:  # an answer is told after what it answers has gone
            del self._emptied[peer]
            if peer._state is CONNECTED and peer._outbox is None:
                self._call("on_flushed", peer)
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
        self._read_later(peer)

    def _read_later(self, peer: Peer) -> None:
        if peer not in self._hot:
            self._hot.add(peer)
            self.do_later(self._read_on, peer)

    def _read_on(self, peer: Peer) -> None:
        self._hot.discard(peer)
        self.readable(peer)

    def _take(self, peer: Peer, data: bytes) -> None:
        inbox = peer._inbox
        if inbox is None:
            peer._inbox = Inbox(data)
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
        while inbox and peer._state is CONNECTED:
            if self.stalled:
                self._held[peer] = None
                break
            codec, size = peer._input, len(inbox)
            try:
                unit = codec.decode(inbox)
            except Exception as exc:
                self._refuse(peer, exc)
                break
            if unit is None:
                break
            if len(inbox) >= size:
                msg = f"{codec!r} gave a unit and took nothing from the buffer"
                self._refuse(peer, TypeError(msg))
                break
            peer._since = peer_since
            if on_input is not None:
                try:
                    on_input(peer, unit)
                except MISTAKES as exc:
                    self._misbehaved("on_input", peer, exc)
        self._busy = None
        if not inbox and peer._inbox is inbox:
            peer._inbox = None

    def _go_on(self) -> None:
        """Serve those that were held up, in turn: who fills the queue again stands at the end."""
        for _ in range(len(self._held)):
            if self.stalled or not self._held:
                return
            peer = self._held.popitem(last=False)[0]
            self._deliver(peer)
            link = peer._link
            if link is not None and (link.readable or link.layered):
                self.readable(peer)

    def _refuse(self, peer: Peer, exc: Exception) -> None:
        number = exc.number if isinstance(exc, UnitError) else 0
        if not isinstance(exc, UnitError):
            self.hands.report("decode", peer, exc)
        self._end(peer, EndReason.ERROR, "on_error", ("decode", number, text_of(exc)))

    def _at_end(self, peer: Peer, link: Wire) -> None:
        if peer._state is CONNECTED:
            self._end(peer, EndReason.ERROR, "on_error", ("read", 0, ""))
        elif peer._outbox is None:  # else it has closed its direction only, and may still read
            self._finish(peer, EndReason.SHUTDOWN)

    # -- output -------------------------------------------------------------------------------------

    def _note_send(self, peer: Peer, size: int) -> None:
        """Spare those that send one small piece, which are many, a system call.

        What is sent first never waits for an acknowledgement, if it fits into a segment (RFC 896).
        """
        if peer._sends or size > SEGMENT:
            peer._sends = 2
            self.hands.hurry(peer)
        else:
            peer._sends = 1

    def writable(self, peer: Peer) -> None:
        """Send what waits."""
        link, outbox = peer._link, peer._outbox
        if link is None or outbox is None:
            return
        moved = False
        if peer._sends < 2:
            self._note_send(peer, len(outbox))
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
            self._write_failed(peer, exc)
            return
        if outbox or (link.layered and link.unsent):
            if moved:
                peer._stuck = self.clock()
            self._timers.arm(peer)
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
            self._read_later(peer)

    def _write_failed(self, peer: Peer, exc: Exception) -> None:
        """End a peer that takes nothing more; what it said before that is not lost."""
        if peer._link is not None:
            peer._link.readable = True  # the event that says so may be still to come
        try:
            while (link := peer._link) is not None and (data := link.try_receive(READ)):
                if peer._state is CONNECTED:
                    self._take(peer, data)
        except BrokenResourceError:
            pass
        if peer._state is not CLOSED:
            self._broken(peer, "write", exc)
