"""Any bytes at all: the framer never crashes, hangs or grows, and never depends on how the stream was cut."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from keepalive.sip.core.framer import Framer
from keepalive.sip.core.head import bad_request
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
        assert before.strip(b"\r\n\0") == b""


LINES = st.sampled_from(
    [
        b"Content-Length: 5", b"content-length : 5", b"l: 5", b"l: 6", b"Content-Length\x0b: 7", b"X: y",
        b" l: 9",
        b"nothing", b"", b"Call-ID: a@b@c", b"CSeq: x", b"l", b"l 8", b"Content-Length: -1",
    ]
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.tuples(LINES, ENDS), max_size=6))
def test_who_reads_line_ends_otherwise_finds_the_same_messages(fields: list[tuple[bytes, bytes]]) -> None:
    """Or none is delivered: else a message could be hidden in another's body."""
    header = FIRST + b"".join(line + end for line, end in fields)
    stream = header.rstrip(b"\r\n") + b"\r\n\r\n" + b"12345"
    found = Framer(16384, 65536).feed(stream)
    if not found or found[0].raw != stream:
        return
    lines = re.split(rb"\r\n|\r|\n", stream.removesuffix(b"12345"))
    assert lines.index(b"") == len(lines) - 2
    lengths = [
        line.partition(b":")[2].strip()
        for line in lines
        if line[:1] != b" " and re.match(rb"(?i)(content-length|l)\s*:", line)
    ]
    assert set(lengths) == {b"5"}


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
