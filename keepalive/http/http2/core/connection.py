"""A whole HTTP/2 connection, as a client sees it: bytes in, bytes out, streams in between. No I/O."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from h2 import events as told
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.exceptions import NoAvailableStreamIDError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from keepalive.http.errors import BadAnswer, Refused

from .frames import (
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_FRAME,
    PADDED,
    Budget,
    Frame,
    Scanner,
)
from .tables import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.events import Event

    from keepalive.http.head import HeadLimits

    from .fields import Pair
    from .stream import Stream, Telling

CONNECTION_WINDOW = 2**24
"""Bytes of content that may be on their way to us. What has arrived counts against its stream only, or one
reader who takes his time would stop all others."""
AT_ONCE = 65536
"""Bytes that are written at a time."""
UNANSWERED = 65536
"""Bytes of our answers to its frames that a peer may leave unread."""
_WINDOW_UPDATE = b"\x00\x00\x04\x08" + bytes(5)
SILENCE = 5.0
"""Seconds after which a request that is given up, and nothing at all was heard since it began, is a sign."""

_CONFIG = H2Configuration(
    client_side=True,
    header_encoding=None,
    # What we send was checked when it was composed; what comes is checked in `fields`, stream by stream.
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)


class Core:
    """The connection.

    :param limits: what heads may come to
    :param window: bytes of an answer's content that may wait for their reader
    :param most: streams at once, whatever the peer allows
    :ivar capacity: how many streams there may be at once
    :ivar retired: whether it takes no new streams any more
    :ivar settled: whether the peer has said how many streams it allows
    :ivar streams: those that are open, by number
    :ivar heard: frames that have come
    :ivar goaway: what GOAWAY said, in brackets for errors; "" before
    :ivar woken: streams for which something has happened; whoever runs this takes them out
    """

    def __init__(self, limits: HeadLimits, window: int, most: int) -> None:
        self.streams: dict[int, Stream] = {}
        self.woken: list[Stream] = []
        self.retired = self.settled = False
        self.heard = 0
        self.end: Telling | None = None
        self._most = most
        self._allowed = 0  # until it says more: what is more, some peers punish by the connection's end
        self._window = window
        self._scanner = Scanner(limits.size)
        self._budget = Budget()
        self._out = bytearray()
        self._unanswered = 0
        self._senders: deque[Stream] = deque()
        self._received = 0  # bytes of content since the connection's window was last opened
        self._late = 0  # bytes of content that may still come for streams that were reset
        self._last = 0  # the newest stream's number
        self.goaway = ""
        h2 = self._h2 = Connection(_CONFIG, limits.size)
        h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.size,
            },
        )
        # A request of another protocol, which some servers refuse to hear of (RFC 8441).
        del h2.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        h2.initiate_connection()
        h2.increment_flow_control_window(CONNECTION_WINDOW - 65535)
        self._flush()

    @property
    def capacity(self) -> int:
        """How many streams there may be at once."""
        return min(self._most, self._allowed)

    # -- requests -----------------------------------------------------------------------------------

    def open(self, stream: Stream, fields: list[Pair], content: bytes, now: float, *, whole: bool) -> None:
        """Begin a request.

        :param whole: whether `content` is all of it
        :raises Refused: this connection takes none; nothing was sent
        """
        if self.end is not None or self.retired:
            raise Refused(f"the connection takes no more requests{self.goaway}")
        if len(self.streams) >= self._allowed:
            raise Refused("the peer allows no more requests at once")
        h2 = self._h2
        ends = whole and not content
        try:
            number = h2.get_next_available_stream_id()
            h2.send_headers(number, fields, end_stream=ends)
        except NoAvailableStreamIDError:
            self.retired = True
            raise Refused("the connection has used up its numbers for requests") from None
        self._flush()
        stream.id = self._last = number
        stream.window = self._window
        stream.heard, stream.since = self.heard, now
        self.streams[number] = stream
        self._budget.earn(8)
        if ends:
            stream.sent = True
        elif whole:
            stream.closing = True
            self.write(stream, content)
        elif content:
            self.write(stream, content)

    def write(self, stream: Stream, data: bytes) -> None:
        """Give content of a request, after all that was given before has been taken."""
        stream.pending = memoryview(data)
        self._queue(stream)

    def close(self, stream: Stream) -> None:
        """Say that the request has no more content."""
        if not stream.closing:
            stream.closing = True
            self._queue(stream)

    def _queue(self, stream: Stream) -> None:
        if not stream.queued and not stream.left and not stream.sent:
            stream.queued = True
            self._senders.append(stream)

    def read(self, stream: Stream, most: int = 0) -> bytes:
        """Take content of an answer, and allow the peer to send as much again.

        :raises HTTPError: what ended the answer
        """
        data = stream.answer.take(most)
        if data and not stream.answer.ended and not stream.left:
            self._read(stream, len(data))
        return data

    def _read(self, stream: Stream, size: int) -> None:
        stream.unread += size
        if stream.unread * 2 >= self._window and stream.id in self.streams:
            self._h2.increment_flow_control_window(stream.unread, stream.id)
            stream.window += stream.unread
            stream.unread = 0
            self._flush()

    def leave(self, stream: Stream, now: float) -> None:
        """Have no more to do with a request; what is not complete of it is cancelled. Idempotent."""
        if stream.left:
            return
        stream.left = True
        if not stream.over:
            silent = self.heard == stream.heard and now - stream.since >= SILENCE
            self.retired = self.retired or silent
        self._reset(stream, ErrorCodes.CANCEL)

    def _reset(self, stream: Stream, code: ErrorCodes) -> None:
        if self.streams.pop(stream.id, None) is None or stream.over:
            return
        self._late += stream.window
        if self.end is None:
            with suppress(StreamClosedError):  # by what came with its end
                self._h2.reset_stream(stream.id, code)
            self._flush()

    def _done(self, stream: Stream) -> None:
        if stream.over:
            self.streams.pop(stream.id, None)

    # -- what goes out ------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether there is something to write."""
        return bool(self._out or self._senders)

    def take(self) -> bytes:
        """Return what is to be written next. All streams that can send have their turn, frame by frame."""
        h2, senders = self._h2, self._senders
        while senders and len(self._out) < AT_ONCE:
            stream = senders.popleft()
            stream.queued = False
            if stream.left or stream.sent or stream.id not in self.streams:
                continue
            size = len(stream.pending)
            if size:
                size = min(size, h2.local_flow_control_window(stream.id), MAX_FRAME)
                if size <= 0:
                    continue  # queued again when a window opens
            piece = stream.next_piece(size)
            left = len(stream.pending)
            if piece or stream.closing:
                h2.send_data(stream.id, piece, end_stream=stream.closing and not left)
                self._budget.earn(1 + size / 256)
            self._flush()
            if left:
                self._queue(stream)
                continue
            stream.sent = stream.closing
            self._done(stream)
            self.woken.append(stream)
        data = bytes(self._out)
        self._out.clear()
        self._unanswered = 0
        return data

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._h2.ping(b"keepaliv")
        self._flush()

    def _flush(self) -> None:
        self._out += self._h2.data_to_send()

    # -- what comes ---------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take what has come.

        :raises BadAnswer: the peer breaks the rules, or a limit; the connection is at its end, and what is
            still to be written says so to the peer
        """
        try:
            for frame in self._scanner.feed(data):
                self.heard += 1
                self._frame(frame, now)
        except BadAnswer:
            self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self._flush()
            raise
        except ProtocolError as exc:
            self._flush()
            raise BadAnswer(f"the peer breaks the rules of HTTP/2: {exc}") from exc

    def _frame(self, frame: Frame, now: float) -> None:
        kind = frame.kind
        if not self._scanner.within or kind == HEADERS:
            if kind == GOAWAY:
                self._go_away(frame.raw[9:])
                return
            if kind == DATA:
                stream = self.streams.get(frame.stream_id)
                if stream is not None and frame.size <= stream.window and stream.answer.misfits(frame):
                    self._reset(stream, ErrorCodes.PROTOCOL_ERROR)  # h2 would end the connection
                    self.woken.append(stream)
                    stream = None
                if stream is None and 0 < frame.stream_id <= self._last:
                    self._too_late(frame, now)
                    return
                if frame.size and not frame.flags & PADDED:
                    self._budget.earn(1)
                elif not frame.flags & END_STREAM:
                    self._budget.spend(now)
            elif kind != HEADERS:
                self._budget.spend(now)
        elif kind == CONTINUATION:
            self._budget.spend(now)
        for event in self._h2.receive_data(frame.raw):
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)
        answered = len(self._out)
        self._flush()
        self._unanswered += len(self._out) - answered
        if self._unanswered > UNANSWERED:
            raise BadAnswer("the peer floods the connection and does not read our answers")

    def _too_late(self, frame: Frame, now: float) -> None:
        """Take content of a stream that was reset: it was on its way."""
        if not frame.size:
            self._budget.spend(now)
            return
        self._late -= frame.size
        if self._late < 0:
            raise BadAnswer("the peer goes on sending answers that were reset")
        # The connection's window is opened again at once, without h2, which has not seen the frame.
        self._out += _WINDOW_UPDATE + frame.size.to_bytes(4, "big")

    def _arrived(self, size: int) -> None:
        """Open the connection's window again by what has come, when that is much."""
        self._received += size
        if self._received * 4 >= CONNECTION_WINDOW:
            self._h2.increment_flow_control_window(self._received)
            self._received = 0

    def _go_away(self, body: bytes) -> None:
        """Take note of GOAWAY (RFC 9113 6.8): no new streams, and those above its number were not begun."""
        if len(body) < 8:
            raise BadAnswer("the peer breaks the rules of HTTP/2: a GOAWAY frame is too short")
        last, code = int.from_bytes(body[:4], "big") & 0x7FFFFFFF, int.from_bytes(body[4:8], "big")
        why = "" if code == 0 else f": {_name(code)} {body[8:80].decode('latin-1')}".rstrip()
        self.goaway = f" (GOAWAY{why})"
        self.retired = True
        text = f"the peer has not begun the request{self.goaway}"
        for stream in list(self.streams.values()):
            if stream.id > last:
                self._fail(stream, lambda _: Refused(text))

    def _fail(self, stream: Stream, error: Telling) -> None:
        self.streams.pop(stream.id, None)
        stream.answer.fail(error)
        self.woken.append(stream)

    def _headers(self, event: told.ResponseReceived | told.InformationalResponseReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None and event.headers is not None:
            if type(event) is told.ResponseReceived:
                self._budget.earn(8)
            self._tell(stream, lambda: stream.answer.take_head(event.headers or []))

    def _trailers(self, event: told.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None and event.headers is not None:
            self._tell(stream, lambda: stream.answer.take_trailers(event.headers or []))

    def _tell(self, stream: Stream, tell: Callable[[], None]) -> None:
        """Tell a stream; what is wrong with its answer ends it, and nothing else."""
        try:
            tell()
        except BadAnswer as exc:
            text = str(exc)
            stream.answer.fail(lambda _: BadAnswer(text))
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR)
        self.woken.append(stream)

    def _data(self, event: told.DataReceived) -> None:
        size = event.flow_controlled_length or 0
        self._arrived(size)
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        data = event.data or b""
        stream.window -= size
        if data:
            stream.answer.take_content(data)
            self.woken.append(stream)
        if size > len(data) and event.stream_ended is None:
            self._read(stream, size - len(data))  # padding is read at once

    def _ended(self, event: told.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.answer.take_end()
            self._done(stream)
            self.woken.append(stream)

    def _was_reset(self, event: told.StreamReset) -> None:
        stream = self.streams.pop(event.stream_id, None)
        if stream is None:
            return
        code = int(event.error_code or 0)
        if stream.answer.ended:  # the rest of the request is not wanted (RFC 9113 8.1)
            stream.left = True
        elif code == ErrorCodes.REFUSED_STREAM:
            stream.answer.fail(lambda _: Refused("the peer refused the request, and did nothing"))
        elif not event.remote_reset:
            stream.answer.fail(lambda _: BadAnswer("the peer opened the request's window too far"))
        else:
            stream.answer.fail(lambda _: BadAnswer(f"the peer reset the request: {_name(code)}"))
        self.woken.append(stream)

    def _settings(self, event: told.RemoteSettingsChanged) -> None:
        allowed = event.changed_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS)
        if allowed is not None:
            self._allowed = allowed.new_value
        elif not self.settled:
            self._allowed = self._most
        self.settled = True
        self._windows(None)

    def _windows(self, event: told.WindowUpdated | None) -> None:
        """Let streams send again whose windows, or the connection's, may have opened."""
        number = 0 if event is None else event.stream_id
        streams = self.streams.values() if not number else filter(None, (self.streams.get(number),))
        for stream in streams:
            if stream.pending:
                self._queue(stream)

    # -- the end ------------------------------------------------------------------------------------

    def lost(self, error: Telling) -> None:
        """Take note that the connection is at its end: all who use it are told. Idempotent."""
        if self.end is None:
            self.end = error
            self.retired = True
            for stream in list(self.streams.values()):
                self._fail(stream, error)
            self._senders.clear()


def _name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error {code}"


_HANDLERS: dict[type[Event], Callable[[Core, Any], None]] = {
    told.ResponseReceived: Core._headers,
    told.InformationalResponseReceived: Core._headers,
    told.TrailersReceived: Core._trailers,
    told.DataReceived: Core._data,
    told.StreamEnded: Core._ended,
    told.StreamReset: Core._was_reset,
    told.RemoteSettingsChanged: Core._settings,
    told.WindowUpdated: Core._windows,
}
