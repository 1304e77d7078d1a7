# ruff: noqa: E501  # tables are read in lines
"""The reader of answers, without any I/O: how it splits makes no difference, and what it must refuse."""

from __future__ import annotations

import random
import re
from typing import Any

import h11
import pytest

from keepalive.http import BadAnswer, HeadLimits, NoAnswer
from keepalive.http.chunks import MAX_LINE
from keepalive.http.reader import DONE, HEAD, LENGTH, RAW, REMEMBERED, Reader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MAX_HEAD = HeadLimits().size


def read(data: bytes, *, method: bytes = b"GET", cuts: list[int] | None = None, end: bool = False) -> Reader:
    return feed(data, method, cuts or [], end)[0]


def feed(data: bytes, method: bytes, cuts: list[int], end: bool) -> tuple[Reader, bytes]:
    reader, content, last = Reader(method, upgrades=method == b"UP"), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        if cut > last:
            content += reader.receive(data[last:cut])
            last = cut
    if end and reader.state is not DONE and reader.failure is None:
        reader.end()
    return reader, content


# raw answer, method, does its end end the connection, status, content, keep
GOOD = [
    (OK + b"Content-Length: 3\r\n\r\nabc", b"GET", False, 200, b"abc", True),
    (OK + b"Content-Length:3\r\nConnection: Close\r\n\r\nabc", b"GET", False, 200, b"abc", False),
    (OK + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n", b"GET", False, 200, b"abc", False),
    (OK + b"Content-Length: 3\r\n\r\nabc\r\n", b"GET", False, 200, b"abc", False),
    (OK + b"Content-Length: 3\r\n\r\n", b"HEAD", False, 200, b"", True),
    (OK + b"Content-Length: 3\r\n\r\nabc", b"HEAD", False, 200, b"", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"HEAD", False, 200, b"", True),
    (OK + b"\r\nabc", b"GET", True, 200, b"abc", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"GET", False, 200, b"abc", False),
    (b"HTTP/1.0 200 \r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", b"GET", False, 200, b"", True),
    (b"HTTP/1.1 204\r\n\r\n", b"GET", False, 204, b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"GET", False, 304, b"", True),
    (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET", False, 204, b"", False),
    (b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", b"GET", False, 204, b"", True),
    (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", b"GET", False, 204, b"", False),
    (OK + b"Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n1;a=b\r\nd\r\n0\r\n\r\n", b"GET", False, 200, b"abcd", True),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n", b"GET", False, 200, b"abc", True),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\n", b"GET", False, 200, b"", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\n", b"GET", False, 200, b"", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"GET", False, 200, b"", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + OK + b"\r\nevil", b"GET", False, 200, b"", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\x00", b"GET", False, 200, b"", False),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     b"GET", False, 200, b"", False),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
     b"GET", False, 200, b"a", True),
    (OK + b"Keep-Alive: timeout=5, max=0\r\nContent-Length: 0\r\n\r\n", b"GET", False, 200, b"", False),
    (OK + b"Connection: keep-alive\r\nConnection: x, close\r\nContent-Length: 0\r\n\r\n",
     b"GET", False, 200, b"", False),
    (OK + b"X: a\r\n b\r\n\tc\r\nContent-Length:\r\n 3\r\n\r\nabc", b"GET", False, 200, b"abc", True),
    (OK + b"Transfer-Encoding:\r\n\tchunked\r\n \r\n\r\n0\r\n\r\n", b"GET", False, 200, b"", True),
    (b"HTTP/1.1 103 Early\r\nLink: x,\r\n y\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
     b"GET", False, 200, b"", True),
    (CHUNKED + b"3 \t \r\nabc\r\n0  \r\n\r\n", b"GET", False, 200, b"abc", True),
    (CHUNKED + b"3 ; a = \"b;\xe4\" \t; c\r\nabc\r\n0 ;\td\r\n\r\n", b"GET", False, 200, b"abc", True),
    (CHUNKED + b"0000000000000000003\r\nabc\r\n00\r\nX: y\r\n z\r\n\r\n", b"GET", False, 200, b"abc", True),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "method", "end", "status", "content", "keep"), GOOD)
def test_good_answers_however_they_are_cut(
    raw: bytes, method: bytes, end: bool, status: int, content: bytes, keep: bool
) -> None:
    rng = random.Random(raw)
    ways = [[], list(range(len(raw))), *([n] for n in range(1, len(raw)))]
    ways += [rng.sample(range(len(raw)), min(5, len(raw))) for _ in range(20)]
    for cuts in ways:
        reader, found = feed(raw, method, cuts, end)
        assert reader.state is DONE
        assert reader.head is not None
        assert (reader.head.status, found, reader.keep) == (status, content, keep), cuts


def test_what_else_a_reader_tells() -> None:
    reader = read(
        OK
        + b"Set-Cookie: a\r\nset-cookie: \xe4 \t\r\nX:\r\nKeep-Alive: timeout=7\r\nContent-Length: 9\r\n\r\n"
    )
    assert reader.head is not None
    assert (reader.state, reader.left, reader.head.keep_for) == (LENGTH, 9, 7.0)
    assert reader.head.headers.get_all("Set-Cookie") == ["a", "\xe4"]
    assert reader.head.headers.get("set-COOKIE") == "a, \xe4"
    assert reader.head.headers.get("x") == ""
    assert reader.head.headers.get("nothing") is None
    assert reader.head.headers.get("nothing", "x") == "x"
    reader = read(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y \r\nZ:\r\n\r\n")
    assert reader.trailers == ((b"X", b"y"), (b"Z", b""))
    reader = read(OK + b"X: a \r\n \tb\r\nY:\r\n z\r\n\r\n")
    assert reader.head is not None
    assert [value.split() for _, value in reader.head.headers] == [[b"a", b"b"], [b"z"]]
    assert read(CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n").trailers == ((b"X", b"y z"),)
    reader = read(b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n")
    assert (reader.state, reader.interim) == (HEAD, ((102, ()), (103, ((b"Link", b"x"),))))


def test_a_length_may_begin_with_any_number_of_zeros() -> None:
    for zeros in (1, 5000):
        reader = read(OK + b"Content-Length: " + b"0" * zeros + b"3\r\n\r\nabc")
        assert (reader.state, reader.keep) == (DONE, True)
        assert read(OK + b"Content-Length: " + b"0" * zeros + b"\r\n\r\n").state is DONE


@pytest.mark.parametrize(
    ("raw", "method"),
    [
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw\x00", b"UP"),
        (b"HTTP/1.1 101 Switching\r\n\r\nraw\x00", b"UP"),
        (b"HTTP/1.1 200 Established\r\n\r\nraw\x00", b"CONNECT"),
        (b"HTTP/1.1 200 Established\r\nContent-Length: 1\r\n\r\nraw\x00", b"CONNECT"),
        (b"HTTP/1.1 200 Established\r\nTransfer-Encoding: chunked\r\n\r\nraw\x00", b"CONNECT"),
    ],
)
def test_other_protocols_bytes_are_left_alone(raw: bytes, method: bytes) -> None:
    for cuts in ([], list(range(len(raw))), [len(raw) - 4], [len(raw) - 2]):
        reader, content = feed(raw, method, cuts, False)
        assert (reader.state, content, reader.surplus, reader.keep) == (RAW, b"", b"raw\x00", False)


def test_connect_refused_is_a_plain_answer() -> None:
    reader = read(b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno", method=b"CONNECT")
    assert (reader.state, reader.keep) == (DONE, True)


BAD_HEADS = [
    b"220 mail.example ESMTP\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"RTSP/1.0 200 OK\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/0.9 200 OK\r\n\r\n",
    b"HTTP/1.2 200 OK\r\n\r\n",
    b"http/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 \r\n\r\n",
    b"HTTP/1.1 000 No\r\n\r\n",
    b"HTTP/1.1 099 No\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 2x0 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/1.1 200 O\x00K\r\n\r\n",
    b"HTTP/1.1 200 O\rK\r\n\r\n",
    b"HTTP/1.1 200 O\x1bK\r\n\r\n",
    b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    OK + b"X: y\n\r\n",
    OK + b"X: y\n\n",
    OK + b" X: y\r\n\r\n",
    b"HTTP/1.1 200\r\n OK\r\n\r\n",
    OK + b"X\r\n : y\r\n\r\n",
    OK + b"X: a\n b\r\n\r\n",
    OK + b"X: a\r\r\n b\r\n\r\n",
    OK + b"Content-Length: 1\r\n 2\r\n\r\n" + bytes(12),
    OK + b"Content-Length: 3\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: gzip,\r\n chunked\r\n\r\n0\r\n\r\n",
    OK + b"X : y\r\n\r\n",
    OK + b"X y\r\n\r\n",
    OK + b": y\r\n\r\n",
    OK + b"X\x00: y\r\n\r\n",
    OK + b"X: a\x00b\r\n\r\n",
    OK + b"X: a\rb\r\n\r\n",
    OK + b"X: a\x7fb\r\n\r\n",
    OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    OK + b"Content-Length: 3, 4\r\n\r\nabcd",
    OK + b"Content-Length: +3\r\n\r\nabc",
    OK + b"Content-Length: -3\r\n\r\nabc",
    OK + b"Content-Length: 0x3\r\n\r\nabc",
    OK + b"Content-Length: \r\n\r\nabc",
    OK + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("raw", BAD_HEADS)
def test_bad_heads_however_they_are_cut(raw: bytes) -> None:
    for cuts in ([], list(range(len(raw))), [len(raw) // 2]):
        with pytest.raises(BadAnswer):
            feed(raw, b"GET", cuts, False)


@pytest.mark.parametrize(
    "chunks",
    [
        b"3\nabc\r\n", b"3 \nabc\r\n", b" 3\r\nabc\r\n", b"3 4\r\nabc\r\n", b"3\r \nabc", b"3;a\nabc\r\n", b"-3\r\n", b"0x3\r\nabc\r\n", b"\r\n", b"3\r\nabcX", b"3\r\nabc\n0\r\n",
        b"g\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"3;\x00\r\n", b"3;a\rb\r\n", b"g",
        b"3\r\nabc3\r\n", b"0\r\nX: y\n", b"0\r\n\n",
        b"0\r\nX y\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX: a\x00\r\n\r\n",
    ],
)  # fmt: skip
def test_bad_chunks(chunks: bytes) -> None:
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    for cuts in ([], list(range(len(head + chunks)))):
        with pytest.raises(BadAnswer):
            reader, _ = feed(head + chunks, b"GET", cuts, False)
            if reader.failure is not None:  # told later, since the head came in the same piece
                raise reader.failure


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP", OK, OK + b"Content-Length: 3\r\n\r\nab", OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_cut_short_is_no_answer(raw: bytes) -> None:
    with pytest.raises(BadAnswer, match="in the middle of the answer"):
        read(raw, end=True)
    with pytest.raises(NoAnswer):
        read(b"", end=True)


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"X" * 100, b"X: a\r\n b\r\n c"])
def test_endless_heads(piece: bytes) -> None:
    reader, fed = Reader(b"GET"), 0
    with pytest.raises(BadAnswer, match="longer than"):
        reader.receive(OK)
        while True:
            reader.receive(piece)
            fed += len(piece)
            assert fed < 2 * MAX_HEAD


@pytest.mark.parametrize(
    ("first", "piece"), [(b"3;x=", b"y" * 50), (b"0\r\nX: ", b"y" * 50), (b"0\r\n", b"X: y\r\n")]
)
def test_endless_trailers_and_extensions(first: bytes, piece: bytes) -> None:
    reader, fed = Reader(b"GET"), 0
    with pytest.raises(BadAnswer, match="longer than"):
        reader.receive(CHUNKED + first)
        while True:
            reader.receive(piece)
            fed += len(piece)
            assert fed < 2 * max(MAX_HEAD, MAX_LINE)


def test_heads_may_be_as_great_as_with_h11() -> None:
    """Any number of fields, 100 KB; each interim answer has its own."""
    fields = b"X: y\r\n" * 16_000
    reader = read(OK + fields + b"Content-Length: 0\r\n\r\n")
    assert reader.head is not None
    assert (reader.state, len(reader.head.headers)) == (DONE, 16_001)
    early = b"HTTP/1.1 103 Early Hints\r\n" + fields + b"\r\n"
    reader = read(early * 3 + b"HTTP/1.1 100 Continue\r\n\r\n" * 5000 + OK + b"Content-Length: 0\r\n\r\n")
    assert (reader.state, len(reader.interim)) == (DONE, REMEMBERED)
    assert len(read(CHUNKED + b"0\r\n" + fields + b"\r\n").trailers) == 16_000


@pytest.mark.parametrize(
    ("limits", "raw"),
    [
        (HeadLimits(size=30), OK + b"X: 0123456789\r\n\r\n"),
        (HeadLimits(size=30), b"HTTP/1.1 103 E\r\nX: 0123456789\r\n\r\n"),
        (HeadLimits(size=50), CHUNKED + b"0\r\nX: " + b"y" * 50 + b"\r\n\r\n"),
        (HeadLimits(fields=2), OK + b"X: y\r\n" * 3 + b"\r\n"),
        (HeadLimits(fields=2), CHUNKED + b"0\r\n" + b"X: y\r\n" * 3 + b"\r\n"),
        (HeadLimits(interim=2), b"HTTP/1.1 100 Continue\r\n\r\n" * 3),
    ],
)
def test_limits_of_heads_are_options(limits: HeadLimits, raw: bytes) -> None:
    for cuts in ([], list(range(len(raw)))):
        reader = Reader(b"GET", limits=limits)
        with pytest.raises(BadAnswer, match=r"longer than|more than"):
            for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                reader.receive(raw[start:end])
            if reader.failure is not None:
                raise reader.failure


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"fields": -1}, {"interim": -1}, {"size": 1.5}, {"fields": "1"}]
)
def test_wrong_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        HeadLimits(**wrong)


def test_many_small_chunks_are_no_endless_ones() -> None:
    reader = read(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n")
    assert (reader.state, reader.keep) == (DONE, True)


# h11 takes no blanks between a chunk's size and its extensions; RFC 9112 7.1.1 does.
_BLANKS = re.compile(rb"(\r\n[0-9A-Fa-f]+)[ \t]+(?=;)").sub


def by_h11(raw: bytes, chunked: bool) -> tuple[int, bytes, bool] | None:
    """What h11 makes of an answer and the end of the connection; None if it refuses it."""
    conn = h11.Connection(h11.CLIENT)
    conn.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    conn.send(h11.EndOfMessage())
    conn.receive_data(_BLANKS(rb"\1", raw) if chunked else raw)
    conn.receive_data(b"")
    status, content = 0, b""
    try:
        while True:
            event = conn.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, content, True
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


def test_mutations_mean_what_h11_says_or_nothing() -> None:
    """Whatever is accepted here is accepted by h11 too, and means the same to both."""
    rng = random.Random(5)
    seeds = [raw for raw, method, *_ in GOOD if method == b"GET"]
    spice = [
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\x00",
        b":",
        b"0",
        b"Content-Length: 1\r\n",
        b"\t",
        b"HTTP/1.1 ",
        b";",
    ]
    accepted = 0
    for _ in range(20_000):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(raw))
            how = rng.randrange(3)
            if how == 0:
                raw[at : at + rng.randrange(1, 4)] = b""
            elif how == 1:
                raw[at:at] = rng.choice(spice)
            else:
                raw[at] = rng.randrange(256)
            if not raw:
                raw += b"x"
        data = bytes(raw)
        try:
            reader, content = feed(data, b"GET", [rng.randrange(len(data))], True)
        except BadAnswer:
            continue
        if reader.failure is not None:
            continue
        assert reader.head is not None
        accepted += 1
        theirs = by_h11(data, reader.head.chunked)
        assert theirs is not None, data
        assert theirs[:2] == (reader.head.status, content), data
    assert accepted > 3000
