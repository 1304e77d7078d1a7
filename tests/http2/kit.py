"""An origin that speaks HTTP/2 by h2's server role, and by raw frames that no server may send."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from h2 import events as told
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError, StreamIDTooLowError
from h2.settings import SettingCodes, Settings

from keepalive import ConnectionManager, http
from keepalive.http.http2.lifecycle import HTTP2Lifecycle
from tests.support import Behaviour, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import ByteStream, TaskGroup

    from tests.support import Peer

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
CANCEL, REFUSED_STREAM = 8, 7


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + body


def goaway(last: int, code: int = 0, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + text)


class Asked:
    """A request as the server has it.

    :ivar open: whether the server counts it as open
    """

    def __init__(self, talk: Talk, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.talk = talk
        self.id = number
        self.fields = fields
        self.headers = dict(fields)
        self.method = self.headers[b":method"].decode()
        self.path = self.headers.get(b":path", b"").decode()
        self.body = b""
        self.ended = self.open = False
        self.reset: int | None = None

    def head(self, status: int = 200, *fields: tuple[bytes, bytes], end: bool = False) -> None:
        with suppress(StreamClosedError, StreamIDTooLowError):  # reset by the client, in the same breath
            self.talk.h2.send_headers(self.id, [(b":status", b"%d" % status), *fields], end_stream=end)
        self.talk.flush()

    def data(self, data: bytes, *, end: bool = False) -> None:
        """Send content, as the windows open."""
        self.talk.queue.append((self, memoryview(data), end))
        self.talk.flush()

    def ok(self, body: bytes = b"hello", status: int = 200, *fields: tuple[bytes, bytes]) -> None:
        self.head(status, *fields)
        self.data(body, end=True)

    def refuse(self, code: int = REFUSED_STREAM) -> None:
        self.talk.h2.reset_stream(self.id, code)
        self.talk.flush()


class Talk:
    """One connection."""

    def __init__(self, peer: Peer, settings: dict[int, int]) -> None:
        self.peer = peer
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        values = {SettingCodes.MAX_CONCURRENT_STREAMS: 100, **settings}
        self.h2.local_settings = Settings(client=False, initial_values=values)  # type: ignore[arg-type]  # by number
        self.asked: dict[int, Asked] = {}
        self.queue: deque[tuple[Asked, memoryview, bool]] = deque()
        self.pings = 0
        self.settled = 0  # how often settings were acknowledged
        self.gone: int | None = None

    def flush(self) -> None:
        for _ in range(len(self.queue)):
            with suppress(StreamClosedError, StreamIDTooLowError):
                self._send(*self.queue.popleft())
        self.peer.send(self.h2.data_to_send())

    def _send(self, asked: Asked, data: memoryview, end: bool) -> None:
        if not data and end:
            self.h2.end_stream(asked.id)
        while data:
            size = min(self.h2.local_flow_control_window(asked.id), 16384, len(data))
            if size <= 0:
                self.queue.append((asked, data, end))
                break
            self.h2.send_data(asked.id, data[:size], end_stream=end and size == len(data))
            data = data[size:]

    def widen(self, size: int) -> None:
        """Open the connection's window."""
        self.h2.increment_flow_control_window(size)
        self.flush()

    @property
    def open(self) -> int:
        """How many streams are open, as the server counts."""
        return self.h2.open_inbound_streams


class Origin(Behaviour):
    """Answers by path; by default "hello"."""

    def __init__(
        self,
        routes: dict[str, Callable[[Asked], None]] | None = None,
        settings: dict[int, int] | None = None,
        *,
        early: bool = False,
        hold: bool = False,
    ) -> None:
        self.routes = routes or {}
        self.settings = settings or {}
        self.early = early
        self.hold = hold
        self.talks: list[Talk] = []
        self.errors: list[str] = []
        self.asked: list[Asked] = []
        self._by_peer: dict[Peer, Talk] = {}

    def opened(self, peer: Peer) -> None:
        talk = self._by_peer[peer] = Talk(peer, self.settings)
        self.talks.append(talk)
        talk.h2.initiate_connection()
        talk.flush()

    def received(self, peer: Peer, data: bytes) -> None:
        talk = self._by_peer[peer]
        try:
            for event in talk.h2.receive_data(data):
                self._heard(talk, event)
            talk.flush()
        except Exception as exc:
            self.errors.append(repr(exc))
            peer.send(talk.h2.data_to_send())
            peer.close()

    def _heard(self, talk: Talk, event: object) -> None:
        if isinstance(event, told.RequestReceived):
            asked = Asked(talk, event.stream_id, list(event.headers or ()))
            talk.asked[asked.id] = asked
            self.asked.append(asked)
            if self.early:
                self._answer(asked)
        elif isinstance(event, told.DataReceived):
            talk.asked[event.stream_id].body += event.data or b""
            if not self.hold:
                talk.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, told.StreamEnded):
            talk.asked[event.stream_id].ended = True
            if not self.early:
                self._answer(talk.asked[event.stream_id])
        elif isinstance(event, told.StreamReset):
            talk.asked[event.stream_id].reset = int(event.error_code or 0)
        elif isinstance(event, told.SettingsAcknowledged):
            talk.settled += 1
        elif isinstance(event, told.PingReceived):
            talk.pings += 1
        elif isinstance(event, told.ConnectionTerminated):
            talk.gone = int(event.error_code or 0)

    def answer(self, count: int) -> None:
        """Answer the first so many requests."""
        for asked in self.asked[:count]:
            asked.ok()

    def _answer(self, asked: Asked) -> None:
        route = self.routes.get(asked.path)
        if route is None:
            asked.ok()
        else:
            route(asked)


class Shares:
    """The shares of one connection, as a manager counts them."""

    def __init__(self) -> None:
        self.capacity = 0
        self.lent = 0
        self.retired = False
        self.most = 0

    def retire(self) -> None:
        self.retired = True


class Handle:
    """A borrowed share."""

    def __init__(self, line: Line, new: bool) -> None:
        self._line = line
        self._link = None
        self.state = line.session
        self.from_cache = None if new else object()
        self.context = None

    def time(self) -> float:
        return anyio.current_time()

    def release(self, keep_for: float | None = None) -> None:
        line, self._line = self._line, None  # type: ignore[assignment]  # given back
        assert line is not None, "given back twice"
        line.shares.lent -= 1

    discard = release


class Line:
    """One connection and its resident."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.shares = Shares()
        self.over = False


class Lending:
    """Lends shares of connections to one server: a manager in small.

    :param room: connections at once
    """

    def __init__(self, server: Server, tasks: TaskGroup, lifecycle: HTTP2Lifecycle, room: int = 4) -> None:
        self.lines: list[Line] = []
        self.server = server
        self._tasks = tasks
        self._lifecycle = lifecycle
        self._room = room
        self._opening = anyio.Lock()

    def time(self) -> float:
        return anyio.current_time()

    async def allocate(self, *args: Any, fresh: bool = False, **options: Any) -> Any:
        while True:
            for line in self.lines:
                shares = line.shares
                if not line.over and not shares.retired and shares.lent < shares.capacity and not fresh:
                    return self._lend(line, new=False)
            async with self._opening:
                alive = [line for line in self.lines if not line.over]
                usable = [line for line in alive if not line.shares.retired]
                if fresh or (not usable and len(alive) < self._room):
                    return self._lend(await self._open(), new=True)
            await anyio.sleep(0.001)

    def _lend(self, line: Line, *, new: bool) -> Handle:
        line.shares.lent += 1
        line.shares.most = max(line.shares.most, line.shares.lent)
        return Handle(line, new)

    async def _open(self) -> Line:
        stream = await anyio.connect_tcp(self.server.host, self.server.port)
        line = Line(await self._lifecycle.opened(stream, None))  # type: ignore[arg-type]  # a key, not looked at
        self.lines.append(line)
        self._tasks.start_soon(self._serve, line, stream)
        while not line.shares.capacity and not line.over:
            await anyio.lowlevel.checkpoint()
        return line

    async def _serve(self, line: Line, stream: ByteStream) -> None:
        async with stream:
            try:
                await self._lifecycle.run(stream, line.session, line.shares)
            finally:
                line.over = True

    def ask(
        self, method: str = "GET", path: str = "/", headers: Any = (), content: Any = None, **options: Any
    ) -> http.Exchange:
        host = f"{self.server.host}:{self.server.port}"
        message = http.compose(method, path.encode(), host.encode(), list(headers), content)
        place = http.Place("http", self.server.host, self.server.port)
        return http.Exchange(self, place, message, **options)  # type: ignore[arg-type]  # enough of a manager

    async def get(self, path: str = "/", **options: Any) -> bytes:
        async with self.ask(path=path, **options) as response:
            return await response.read()


class Managed:
    """A manager whose "http" is HTTP/2, and a client over it."""

    def __init__(self, server: Server, manager: ConnectionManager) -> None:
        self.server = server
        self.manager = manager
        self.client = http.Client(manager, http2=True)

    def ask(self, path: str = "/", method: str = "GET", **options: Any) -> http.Exchange:
        url = f"http://{self.server.host}:{self.server.port}{path}"
        return self.client.request(method, url, **options)

    async def get(self, path: str = "/", **options: Any) -> bytes:
        async with self.ask(path, **options) as response:
            return await response.read()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self.manager.stats().open

    @property
    def idle(self) -> int:
        """How many of them nobody has a share of."""
        return self.manager.stats().idle


@asynccontextmanager
async def managed(
    origin: Origin, two: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Managed]:
    """Run an origin, and a manager for it."""
    with Server(origin) as server:
        lifecycles = {"http": http.HTTP2Lifecycle(prior_knowledge=True, **(two or {}))}
        async with ConnectionManager(lifecycles=lifecycles, **options) as manager:
            yield Managed(server, manager)
    assert not origin.errors, origin.errors


@asynccontextmanager
async def lending(
    origin: Origin, *, room: int = 4, strict: bool = True, **options: Any
) -> AsyncIterator[Lending]:
    """Lend shares of connections to an origin of its own; at the end the server has no stream open."""
    with Server(origin) as server:
        async with anyio.create_task_group() as tasks:
            yield Lending(server, tasks, HTTP2Lifecycle(prior_knowledge=True, **options), room)
            tasks.cancel_scope.cancel()
    assert not (strict and origin.errors), origin.errors
