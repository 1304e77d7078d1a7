"""Any bytes at all: the framer never crashes, hangs or grows, and never depends on how the stream was cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from keepalive.sip.framer import Framer
from keepalive.sip.reply import bad_request
from tests.sip.test_framer import FIRST, GOOD, REST, feed

PARTS = st.sampled_from(
    [
        GOOD, FIRST, REST, b"\r\n", b"\r", b"\n", b" ", b":", b"Content-Length: ", b"l:", b"5", b"0",
        b"Via: ", b"SIP/2.0 200 OK\r\n", b";branch=", b"CSeq: 1 ", b"Call-ID: x\r\n", b'"', b"<", b"\\",
        b",", b"\x00", b"\xff",
    ]
)  # fmt: skip
STREAMS = st.lists(PARTS | st.binary(max_size=20), max_size=40).map(b"".join)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(STREAMS, st.lists(st.integers(1, 40), max_size=60))
def test_any_stream_any_cut(stream: bytes, cuts: list[int]) -> None:
    """Nothing crashes, however cut it is the same, and no byte is delivered that was not there."""
    pieces, rest = [], stream
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    whole = feed([stream], 200, 100)
    assert feed([*pieces, rest], 200, 100) == whole
    left = stream
    for message in whole[0]:
        before, found, left = left.partition(message)
        assert found
        assert before.strip(b"\r\n") == b""


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=30) | PARTS, max_size=200))
def test_never_grows(pieces: list[bytes]) -> None:
    framer = Framer(200, 100)
    for piece in pieces:
        framer.feed(piece)
        held = framer._buffer
        assert held is None or len(held) <= 200 + 3 + 4 + 100 + len(GOOD)
        if framer.flaw is not None:
            assert held is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(STREAMS)
def test_answers_to_anything_are_messages(header: bytes) -> None:
    answer = bad_request(header, "x")
    if answer is not None:
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"\r\n\r\n") == 1
