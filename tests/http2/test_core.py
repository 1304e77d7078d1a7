"""What decides in HTTP/2, without a connection: any cut of the bytes, any frames, turns among senders."""

from __future__ import annotations

import random

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived

from keepalive import http
from keepalive.http.http2.core.connection import Core
from keepalive.http.http2.core.frames import Frame, Scanner
from keepalive.http.http2.core.stream import Stream

from .kit import HEADERS, SETTINGS, frame

LIMITS = http.HeadLimits()
FIELDS = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/")]


def opened(core: Core, count: int = 1) -> list[Stream]:
    """Begin some requests on a connection whose peer has said what it allows."""
    core.receive(frame(SETTINGS, 0, 0), 0.0)
    streams = [Stream(b"GET", LIMITS) for _ in range(count)]
    for stream in streams:
        core.open(stream, FIELDS, b"", 0.0, whole=True)
    core.take()
    return streams


@pytest.mark.parametrize("seed", range(10))
def test_frames_are_the_same_however_they_are_cut(seed: int) -> None:
    dice = random.Random(seed)
    frames = [frame(SETTINGS, 0, 0)]
    frames += [frame(dice.choice([0, 6, 8, 99]), 0, 1, bytes(dice.choice([0, 1, 8, 500]))) for _ in range(50)]
    scanner, found, data = Scanner(1000), [], b"".join(frames)
    while data:
        size = dice.choice([1, 3, 9, 10, 700])
        found += list(scanner.feed(data[:size]))
        data = data[size:]
    assert found == [Frame(raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw) for raw in frames]


@pytest.mark.parametrize("seed", range(150))
def test_nonsense_is_a_bad_answer_and_nothing_else(seed: int) -> None:
    dice = random.Random(seed)
    core = Core(LIMITS, 65535, 100)
    streams = opened(core, 3)
    try:
        for _ in range(40):
            kind = dice.choice([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 77])
            size = dice.choice([0, 1, 2, 4, 5, 6, 8, 9, 30])
            body = bytes(dice.choice([0, 1, 2, 0x40, 0x80, 0x82, 0x88, 255]) for _ in range(size))
            flags = dice.choice([0, 1, 4, 5, 8, 0x20, 0x2D, 255])
            core.receive(frame(kind, flags, dice.choice([0, 1, 1, 3, 5, 2, 7, 2**31 - 1]), body), 0.0)
            for stream in streams:
                if dice.random() < 0.1:
                    core.leave(stream, 0.0)
            core.take()
    except http.BadAnswer:
        core.take()
    core.lost(lambda began: http.ReadError("over"))
    for stream in streams:
        assert stream.left or stream.answer.ended or stream.answer.error is not None


def test_those_who_send_have_their_turns() -> None:
    core = Core(LIMITS, 65535, 100)
    server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    server.update_settings({4: 2**20})
    server.initiate_connection()
    core.receive(server.data_to_send(), 0.0)
    server.increment_flow_control_window(2**20)
    streams = [Stream(b"POST", LIMITS) for _ in range(3)]
    core.receive(server.data_to_send(), 0.0)
    for stream in streams:
        core.open(stream, FIELDS, b"x" * 60_000, 0.0, whole=True)
    order: list[int] = []
    while core.waiting:
        events = server.receive_data(core.take())
        order += [event.stream_id for event in events if isinstance(event, DataReceived)]
    assert order[:6] == [1, 3, 5, 1, 3, 5]
    assert all(stream.sent for stream in streams)


def test_a_request_that_is_left_before_it_is_written_is_cancelled_after_it() -> None:
    """Its block of fields has changed the tables of both sides: it must go out, and the reset after it."""
    core = Core(LIMITS, 65535, 100)
    server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    core.receive(frame(SETTINGS, 0, 0), 0.0)
    for _ in range(50):
        stream = Stream(b"GET", LIMITS)
        core.open(stream, [*FIELDS, (b"x-a", b"value")], b"", 0.0, whole=True)
        core.leave(stream, 0.0)
    stream = Stream(b"GET", LIMITS)
    core.open(stream, [*FIELDS, (b"x-a", b"value")], b"", 0.0, whole=True)
    events = server.receive_data(core.take())
    asked = [event for event in events if isinstance(event, RequestReceived)]
    assert len(asked) == 51
    assert asked[-1].headers is not None
    assert (b"x-a", b"value") in asked[-1].headers
    assert server.open_inbound_streams == len(core.streams) == 1


def test_a_long_silence_before_a_request_is_given_up_ends_the_connection() -> None:
    for waited, retired in ((1.0, False), (6.0, True)):
        core = Core(LIMITS, 65535, 100)
        (stream,) = opened(core)
        core.leave(stream, waited)
        assert core.retired is retired


def test_a_sign_of_life_keeps_the_connection() -> None:
    core = Core(LIMITS, 65535, 100)
    slow, quick = opened(core, 2)
    core.receive(frame(HEADERS, 5, quick.id, b"\x88"), 3.0)
    core.leave(slow, 60.0)
    assert not core.retired
    assert quick.over
