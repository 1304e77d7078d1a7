"""Peers that break the rules, or keep them and do harm: each is bounded, and told clearly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectionManager, SetupError, http
from keepalive.http.http2.core.connection import Core
from tests.support import Behaviour, Server
from tests.support.waiting import until

from .kit import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Asked,
    Origin,
    frame,
    lending,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Peer

MANY = 20_000
STATUS_200 = b"\x88"  # in HPACK's static table


def raw(*frames: bytes, status: bool = True) -> Callable[[Asked], None]:
    """Send frames after a good head, for stream 1."""

    def answer(asked: Asked) -> None:
        if status:
            asked.head(200)
        asked.talk.peer.send(b"".join(frames))

    return answer


# What ends the connection, and what the error says.
FATAL = {
    "PING flood": ([frame(PING, 0, 0, bytes(8)) * MANY], "floods"),
    "SETTINGS flood": ([frame(SETTINGS, 0, 0) * MANY], "floods"),
    "RST_STREAM flood": ([frame(RST_STREAM, 0, 99, bytes(4)) * MANY], "rules|floods"),
    "PRIORITY flood": ([frame(PRIORITY, 0, 1, bytes(4) + b"\x01") * MANY], "rules|floods"),
    "WINDOW_UPDATE flood": ([frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * MANY], "floods"),
    "empty DATA flood": ([frame(DATA, 0, 1) * MANY], "floods"),
    "padding flood": ([frame(DATA, 8, 1, b"\x00") * MANY], "floods"),
    "flood of unknown frames": ([frame(0xBB, 0, 0) * MANY], "floods"),
    "CONTINUATION flood": (
        [frame(HEADERS, 0, 1, STATUS_200), frame(CONTINUATION, 0, 1, b"") * MANY],
        "floods|continuation",
    ),
    "endless block of fields": (
        [frame(HEADERS, 0, 1, STATUS_200), frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3000) * 50],
        "longer than",
    ),
    # A field of 4000 bytes goes into the table once, and one byte each brings it back.
    "header bomb": (
        [frame(HEADERS, 4, 1, b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 10_000)],
        "header",
    ),
    "broken HPACK": ([frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\x0f")], "rules"),
    "window of the connection too wide": ([frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2], "rules"),
    "WINDOW_UPDATE by nothing": ([frame(WINDOW_UPDATE, 0, 0, bytes(4))], "rules"),
    "a frame too long": ([frame(DATA, 0, 1, bytes(16385))], "16385 bytes"),
    "an answer to nothing": ([frame(HEADERS, 4, 77, STATUS_200)], "rules"),
    "a push": ([frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2\x82")], "rules"),
    "a wrong setting": ([frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff")], "rules"),
    "a frame in the midst of a head": (
        [frame(HEADERS, 0, 1, STATUS_200), frame(7, 0, 0, bytes(8))],
        "rules",
    ),
    "GOAWAY too short": ([frame(7, 0, 0, bytes(7))], "rules"),
}


@pytest.mark.parametrize("name", FATAL)
async def test_a_peer_that_does_harm_is_left(name: str) -> None:
    frames, text = FATAL[name]
    status = frames[0][3] not in (HEADERS, PUSH_PROMISE)
    origin = Origin({"/": raw(*frames, status=status)})
    async with lending(origin, strict=False) as lines:
        with anyio.fail_after(10), pytest.raises(http.BadAnswer, match=text):
            async with lines.ask() as response:
                await response.read()
        await until(lambda: lines.lines[0].over)
        assert lines.lines[0].shares.lent == 0


async def test_more_content_than_was_allowed_ends_the_connection() -> None:
    origin = Origin({"/": raw(frame(DATA, 0, 1, bytes(16384)) * 20)})
    async with lending(origin, window=65535) as lines:
        async with lines.ask() as response:
            await until(lambda: lines.lines[0].over)
            with pytest.raises(http.BadAnswer, match="rules"):
                await response.read()
        assert lines.lines[0].shares.lent == 0


def test_a_peer_that_asks_slowly_and_reads_nothing_is_left() -> None:
    core = Core(http.HeadLimits(), 65535, 100)
    core.receive(frame(SETTINGS, 0, 0), 0.0)
    core.take()
    with pytest.raises(http.BadAnswer, match="does not read"):
        for second in range(100):
            core.receive(frame(PING, 0, 0, bytes(8)) * 100, float(second))


def test_a_peer_may_ask_slowly_for_ever() -> None:
    core = Core(http.HeadLimits(), 65535, 100)
    core.receive(frame(SETTINGS, 0, 0), 0.0)
    for second in range(100):
        core.receive(frame(PING, 0, 0, bytes(8)) * 100, float(second))
        assert core.take().count(frame(PING, 1, 0, bytes(8))) == 100


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH", frame(PING, 0, 0, bytes(8))])
async def test_what_does_not_speak_http2_is_told(first: bytes) -> None:
    class Other(Behaviour):
        def opened(self, peer: Peer) -> None:
            peer.send(first)

    with Server(Other()) as server:
        lifecycles = {"http": http.HTTP2Lifecycle(prior_knowledge=True)}
        async with ConnectionManager(lifecycles=lifecycles) as mgr:
            with pytest.raises(SetupError, match="does not speak HTTP/2"):
                await http.request(mgr, "GET", f"http://{server.host}:{server.port}/")


# What ends the one answer, and nothing else.
MALFORMED = {
    "no status": [(b"server", b"x")],
    "a status that is none": [(b":status", b"2x0")],
    "two statuses": [(b":status", b"200"), (b":status", b"200")],
    "a pseudo-field that is none": [(b":status", b"200"), (b":path", b"/")],
    "upper case": [(b":status", b"200"), (b"Server", b"x")],
    "a line break": [(b":status", b"200"), (b"server", b"x\r\ny: z")],
    "outer space": [(b":status", b"200"), (b"server", b" x")],
    "a field of HTTP/1.1": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "101": [(b":status", b"101")],
    "too many fields": [(b":status", b"200"), *[(b"a", b"b")] * 21],
    "too long": [(b":status", b"200"), (b"a", b"b" * 5000)],
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_answer_ends_only_itself(name: str) -> None:
    def answer(asked: Asked) -> None:
        block = asked.talk.h2.encoder.encode(MALFORMED[name])
        asked.talk.peer.send(frame(HEADERS, 4, asked.id, block))

    origin = Origin({"/bad": answer})
    limits = http.HeadLimits(size=4000, fields=20)
    async with lending(origin) as lines:
        async with lines.ask(path="/") as other:
            with anyio.fail_after(5), pytest.raises(http.BadAnswer):
                await lines.get("/bad", head_limits=limits)
            assert await other.read() == b"hello"
        await until(lambda: origin.asked[1].reset == 1)  # PROTOCOL_ERROR
        assert await lines.get() == b"hello"
        assert len(lines.lines) == 1
        assert lines.lines[0].shares.lent == 0


@pytest.mark.parametrize("body", [b"short", b"too long by far", b""])
@pytest.mark.parametrize("padding", [None, 7])
async def test_content_of_another_length_than_announced_ends_only_its_answer(
    body: bytes, padding: int | None
) -> None:
    def answer(asked: Asked) -> None:
        asked.head(200, (b"content-length", b"10"))
        asked.talk.h2.send_data(asked.id, body, end_stream=True, pad_length=padding)
        asked.talk.flush()

    async with lending(Origin({"/bad": answer})) as lines:
        async with lines.ask() as other:
            with anyio.fail_after(5), pytest.raises(http.BadAnswer, match="not as long"):
                await lines.get("/bad")
            assert await other.read() == b"hello"
        assert await lines.get() == b"hello"
        assert len(lines.lines) == 1
        assert lines.lines[0].shares.lent == 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_announced_length_without_content_is_for_head_only(method: str) -> None:
    origin = Origin({"/": lambda asked: asked.head(200, (b"content-length", b"10"), end=True)})
    async with lending(origin) as lines, lines.ask(method) as response:
        if method == "HEAD":
            assert await response.read() == b""
        else:
            with pytest.raises(http.BadAnswer, match="not as long"):
                await response.read()


async def test_malformed_trailers_end_only_their_answer() -> None:
    def answer(asked: Asked) -> None:
        asked.head(200)
        asked.data(b"content")
        block = asked.talk.h2.encoder.encode([(b"connection", b"close")])
        asked.talk.peer.send(frame(HEADERS, 5, asked.id, block))

    async with lending(Origin({"/": answer})) as lines:
        async with lines.ask() as response:
            assert await response.__anext__() == b"content"
            with pytest.raises(http.BadAnswer, match="malformed"):
                await response.read()
        assert lines.lines[0].shares.lent == 0


async def test_interim_answers_without_end_are_bounded() -> None:
    def answer(asked: Asked) -> None:
        block = asked.talk.h2.encoder.encode([(b":status", b"103")])
        asked.talk.peer.send(frame(HEADERS, 4, asked.id, block) * 3000)

    origin = Origin({"/": answer})
    async with lending(origin) as lines:
        with anyio.fail_after(5), pytest.raises(http.BadAnswer, match="1000 interim"):
            await lines.get(head_limits=http.HeadLimits(interim=1000))
        assert lines.lines[0].shares.lent == 0


async def test_a_window_of_a_stream_that_is_too_wide_ends_only_that() -> None:
    def answer(asked: Asked) -> None:
        asked.talk.peer.send(frame(WINDOW_UPDATE, 0, asked.id, b"\x7f\xff\xff\xff") * 2)

    async with lending(Origin({"/bad": answer})) as lines:
        with anyio.fail_after(5), pytest.raises(http.BadAnswer, match="window"):
            await lines.get("/bad")
        assert await lines.get() == b"hello"
        assert len(lines.lines) == 1


async def test_a_peer_that_goes_on_with_answers_that_were_reset_is_left() -> None:
    def answer(asked: Asked) -> None:
        asked.head(200)
        asked.talk.peer.send(frame(DATA, 0, asked.id, bytes(1000)))

    origin = Origin({"/endless": answer})
    async with lending(origin, window=65535) as lines:
        async with lines.ask(path="/endless") as response:
            await response.__anext__()
        await until(lambda: origin.asked[0].reset is not None)
        late = frame(DATA, 0, 1, bytes(16000))
        lines.server.do(
            lambda: origin.talks[0].peer.send(late * 4)
        )  # was on its way, as far as anybody knows
        assert await lines.get() == b"hello"
        assert len(lines.lines) == 1
        lines.server.do(lambda: origin.talks[0].peer.send(late))
        await until(lambda: lines.lines[0].over)
        await until(lambda: origin.talks[0].gone is not None)
