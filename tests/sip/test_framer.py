"""The framing rules of streams, one by one, and each cut at every position."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keepalive.sip import core
from keepalive.sip.core.framer import Framer
from keepalive.sip.core.head import bad_request
from tests.sip.kit import request, response

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_HEADER, MAX_BODY = 16384, 65536
FIRST = b"OPTIONS sip:bob@192.0.2.1 SIP/2.0\r\n"
REST = b"Call-ID: a@b\r\nCSeq: 1 OPTIONS\r\n"


IMPURE = {
    "time",
    "random",
    "asyncio",
    "anyio",
    "trio",
    "logging",
    "socket",
    "select",
    "ssl",
    "threading",
    "os",
}


def test_what_is_called_pure_is_pure() -> None:
    files = sorted(Path(core.__file__).parent.glob("*.py"))
    assert len(files) > 8
    for file in files:
        name = file.stem
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & IMPURE, name
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] not in IMPURE, name
            assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await)), name


def feed(
    pieces: Iterable[bytes], max_header: int = MAX_HEADER, max_body: int = MAX_BODY
) -> tuple[list[bytes], str | None, int]:
    """Give messages, flaw and pings that a stream in these pieces makes."""
    framer = Framer(max_header, max_body)
    found = [head.raw for piece in pieces for head in framer.feed(piece)]
    return found, None if framer.flaw is None else framer.flaw.reason, framer.pings


def check(stream: bytes, messages: list[bytes], flaw: str | None = None, pings: int = 0) -> None:
    """Check a stream whole, byte by byte, and cut in two at every position."""
    expected = messages, flaw, pings
    for pieces in every_cut(stream):
        assert feed(pieces) == expected, pieces


def every_cut(stream: bytes) -> Iterator[list[bytes]]:
    """Give a stream whole, byte by byte, and cut in two at every position."""
    yield [stream]
    yield [stream[n : n + 1] for n in range(len(stream))]
    for cut in range(1, len(stream)):
        yield [stream[:cut], stream[cut:]]


def check_flaws(stream: bytes, expected: list[tuple[bytes, str]]) -> None:
    """Check that a stream is read on after flawed messages: each with its flaw, "" for a good one."""
    for pieces in every_cut(stream):
        framer = Framer(MAX_HEADER, MAX_BODY)
        assert [(head.raw, head.flaw) for piece in pieces for head in framer.feed(piece)] == expected, pieces
        assert framer.flaw is None
        assert not framer.started


def made(*lengths: bytes, body: bytes = b"") -> bytes:
    return FIRST + REST + b"".join(line + b"\r\n" for line in lengths) + b"\r\n" + body


GOOD = made(b"Content-Length: 5", body=b"\r\n\r\n!")


def test_messages_come_out_as_they_went_in() -> None:
    # heritage sip 1.37.
    one, two = request(body=b"v=0\r\n\r\nOPTIONS"), response(request())
    check(one + two + one, [one, two, one])


def test_incomplete_ones_wait() -> None:
    # heritage sip 2.4, 2.9.
    for cut in range(len(GOOD)):
        assert feed([GOOD[:cut]]) == ([], None, 0)


# Rule 1
def test_line_ends_before_a_message_are_skipped() -> None:
    # heritage sip 2.1.
    for many in range(6):
        check(b"\r\n" * many + GOOD + b"\r\n" * many, [GOOD], pings=2 * (many // 2))


def test_signs_of_life_are_counted() -> None:
    check(b"\r\n\r\n", [], pings=1)
    check(b"\r\n\r\n" * 3, [], pings=3)
    check(b"\r\n" + GOOD + b"\r\n", [GOOD])  # the message is between them


def test_other_signs_of_life_are_skipped() -> None:
    # heritage sip 2.13, 6.H.
    for sign in (b"\n", b"\r\n\0", b"\0\0\0\0", b"\r\n\0\r\n\0", b"\r\n\n"):
        check(sign + GOOD + sign * 2 + GOOD + sign, [GOOD, GOOD])


def test_answers_to_our_pings_are_no_pings() -> None:
    for pieces in every_cut(b"\r\n" + GOOD + b"\r\n\r\n\r\n" + GOOD + b"\r\n\r\n"):
        framer = Framer(MAX_HEADER, MAX_BODY)
        framer.pongs_due = 2
        assert sum(len(framer.feed(piece)) for piece in pieces) == 2
        assert (framer.pongs, framer.pongs_due, framer.pings) == (2, 0, 2)


# Rule 2
def test_line_feeds_alone_end_no_header() -> None:
    # heritage sip 2.2.
    check(GOOD[:-5].replace(b"\r\n", b"\n") * 3, [])


# Rule 3
def filled(size: int) -> bytes:
    """A message whose header ends at this offset."""
    start = FIRST + REST + b"Content-Length: 0\r\nX: "
    return start + b"x" * (size - len(start)) + b"\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 7, 4096, 100_000])
def test_biggest_header(piece: int) -> None:
    for size, expected in ((MAX_HEADER, None), (MAX_HEADER + 1, "header too big")):
        stream = filled(size)
        messages, flaw, _ = feed(stream[n : n + piece] for n in range(0, len(stream), piece))
        assert (messages, flaw) == ([] if expected else [stream], expected)


def test_endless_header_is_found_out_at_the_limit() -> None:
    # heritage sip 2.3.
    header = b"OPTIONS sip:x SIP/2.0\r\nX: ".ljust(100, b"x")
    assert feed([header], 100) == ([], None, 0)
    assert feed([header, b"x"], 100) == ([], "header too big", 0)
    for tail in (b"\r", b"\r\n", b"\r\n\r"):  # what may be the end does not count
        assert feed([header, tail], 100) == ([], None, 0)


# Rules 5 to 7
@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 5", b"content-length:5", b"CONTENT-LENGTH:\t 5 \t", b"l: 5", b"L:5",
        b"Content-Length: 005", b"Content-Length:\r\n 5", b"Content-Length: \r\n\t5",
        b"Content-Length: 5\r\nl: 5", b"l: 5\r\nX: y\r\nL:  5 ", b"Content-Length : 5", b"l \t: 5\r\nL: 5",
    ],
)  # fmt: skip
def test_length(line: bytes) -> None:
    # heritage sip 2.5.
    message = made(line, body=b"hello")
    check(message + GOOD, [message, GOOD])


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        (b"X: y", "no content-length"),
        (b"X: y\nContent-Length: 6\r\nl: 5", "conflicting content-length"),
        (b"X: y\rContent-Length: 5\r\nl: 6", "conflicting content-length"),
        (b"Content-Length\x0b: 6\r\nl: 5", "conflicting content-length"),
        (b"X: y\n\nZ: a\r\nl: 5", "line end"),
        (b"X: y\r\n\nl: 5", "line end"),
        (b"X: y\r\n Content-Length: 5", "no content-length"),
        (b"X-Content-Length: 5", "no content-length"),
        (b"Content-Length: -5", "content-length"),
        (b"Content-Length: +5", "content-length"),
        (b"Content-Length: 5 5", "content-length"),
        (b"Content-Length: 5\r\n 5", "content-length"),
        (b"Content-Length: 0x5", "content-length"),
        (b"Content-Length: five", "content-length"),
        (b"Content-Length:", "content-length"),
        (b"Content-Length: \xb2", "content-length"),
        (b"Content-Length: 5\r\nContent-Length: 6", "conflicting content-length"),
        (b"Content-Length: 5\r\nX: y\r\nl: 4", "conflicting content-length"),
        (b"Content-Length: 0\r\nl: 00", "conflicting content-length"),
        (b"Content-Length: 5\r\nContent-Length: -1", "conflicting content-length"),
        (b"Content-Length: 5\r\nContent-Length : 6", "conflicting content-length"),
        (b"Content-Length: 5\nContent-Length: 6", "conflicting content-length"),
    ],
)
def test_bad_length(line: bytes, flaw: str) -> None:
    # heritage sip 2.6, 2.7, 6.B.
    check(GOOD + made(line, body=b"hello") + GOOD, [GOOD], flaw)


# Rule 8
@pytest.mark.parametrize("digits", [b"65537", b"99999999999999999999", b"9" * 5000])
def test_body_too_big_is_known_by_the_header(digits: bytes) -> None:
    # heritage sip 2.8.
    assert feed([made(b"Content-Length: " + digits)]) == ([], "body too big", 0)


def test_biggest_body() -> None:
    message = made(b"Content-Length: 65536", body=b"\n" * 65536)
    assert feed([message]) == ([message], None, 0)
    assert feed(message[n : n + 1000] for n in range(0, len(message), 1000)) == ([message], None, 0)


# Rules 10 to 13
@pytest.mark.parametrize(
    ("message", "flaw"),
    [
        (b"\rOPTIONS sip:x SIP/2.0", "start line"),
        (b"hello", "start line"),
        (b"OPTIONS sip:x", "start line"),
        (b"OPTIONS sip:x SIP/3.0", "start line"),
        (b"OPTIONS  sip:x SIP/2.0", "start line"),
        (b"OPTIONS sip:x SIP/2.0 ", "start line"),
        (b"OPTIONS sip:x y SIP/2.0", "start line"),
        (b"OP[TIONS sip:x SIP/2.0", "start line"),
        (b"GET / HTTP/1.1", "start line"),
        (b"SIP/2.0 200", "start line"),
        (b"\xff\xfe\0\x01", "start line"),
        (b"SIP/2.0 2000 OK", "start line"),
        (b"SIP/2.0 700 OK", "start line"),
        (b"OPTIONS sip:x SIP/2.0\r\n X: y", "header line"),
        (b"OPTIONS sip:x SIP/2.0\r\nno colon", "header line"),
        (b"OPTIONS sip:x SIP/2.0\r\ntwo words: y", "header line"),
        (b"OPTIONS sip:x SIP/2.0\r\n: y", "header line"),
        (b"OPTIONS sip:x SIP/2.0\r\nX: a\nY: b", "line end"),
        (b"OPTIONS sip:x SIP/2.0\r\nX: a\rY: b", "line end"),
        (b"OPTIONS sip:x SIP/2.0\r\nMax-Forwards: many", "number"),
        (b"OPTIONS sip:x SIP/2.0\r\nExpires: -1", "number"),
        (b"OPTIONS sip:x SIP/2.0\r\nFrom: a\r\nf: b", "conflicting from"),
        (b"OPTIONS sip:x SIP/2.0\r\nTo: a\r\nX: y\r\nTO: b", "conflicting to"),
        (b"OPTIONS sip:x SIP/2.0\r\nCall-ID: other", "conflicting call-id"),
        (b"OPTIONS sip:x SIP/2.0\r\nCSeq: 2 OPTIONS", "conflicting cseq"),
        (b"OPTIONS sip:x SIP/2.0\r\nContent-Type: a/b\r\nc: a/c", "conflicting content-type"),
        (b'OPTIONS sip:x SIP/2.0\r\nContact: "x <sip:y>', "quote"),
        (b"OPTIONS sip:x SIP/2.0\r\nVia: <x", "quote"),
        (b"INVITE sip:x SIP/2.0", "cseq"),
    ],
)
def test_broken_message_is_alone(message: bytes, flaw: str) -> None:
    # heritage sip 2.10, 2.11.
    message += b"\r\n" + REST + b"l: 5\r\n\r\n\r\n\r\n!"
    check_flaws(GOOD + message + GOOD, [(GOOD, ""), (message, flaw), (GOOD, "")])


@pytest.mark.parametrize(
    ("fields", "flaw"),
    [
        (b"CSeq: 1 OPTIONS", "call-id"),
        (b"Call-ID:\r\nCSeq: 1 OPTIONS", "call-id"),
        (b"Call-ID: two words\r\nCSeq: 1 OPTIONS", "call-id"),
        (b"Call-ID: a", "cseq"),
        (b"Call-ID: a\r\nCSeq: OPTIONS 1", "cseq"),
        (b"Call-ID: a\r\nCSeq: 1", "cseq"),
        (b"Call-ID: a\r\nCSeq: x OPTIONS", "cseq"),
        (b"Call-ID: a\r\nCSeq: 1 BYE", "cseq"),
    ],
)
def test_call_id_and_cseq_must_be_there(fields: bytes, flaw: str) -> None:
    # heritage sip 2.12.
    message = FIRST + fields + b"\r\nl: 0\r\n\r\n"
    check_flaws(message + GOOD, [(message, flaw), (GOOD, "")])  # heritage sip 5.24


@pytest.mark.parametrize(
    "fields",
    [
        b"Contact: <sip:a>\r\nContact: <sip:b>", b"From: a\r\nf: a",
        b'Contact: "\\"<" <sip:a;b,c>, "d" <sip:e>',
        b"Via : SIP/2.0/TCP a\r\n  ;branch=b , SIP/2.0/UDP c", b"X:",
        b"!%'*+-.0_`~: y", b"Max-Forwards: 0070",
    ],
)  # fmt: skip
def test_what_is_allowed(fields: bytes) -> None:
    message = made(fields, b"l: 0")
    check(message, [message])


def key(via: bytes, *more: bytes, method: bytes = b"OPTIONS") -> bytes:
    message = made(via, *more, b"l: 0").replace(b"OPTIONS", method)
    [head] = Framer(MAX_HEADER, MAX_BODY).feed(message)
    assert not head.flaw
    return head.key


def test_key_is_branch_sent_by_and_method() -> None:
    # heritage sip 3.1, 6.C.
    mine = key(b"Via: SIP/2.0/TCP a:5060;branch=z9hG4bKx;rport")
    for same in (
        b"v: SIP / 2.0 / UDP  A : 5060\r\n ; BRANCH = z9hG4bKx\r\n ;rport=5;received=192.0.2.1",
        b"Via: SIP/2.0/TCP a:5060;branch=z9hG4bKx, SIP/2.0/TCP c;branch=z9hG4bKd",
        b"Via: SIP/2.0/TCP a:5060;rport;branch=z9hG4bKx\r\nVia: SIP/2.0/TCP c;branch=z9hG4bKd",
    ):
        assert key(same) == mine
    assert key(b"Via: SIP/2.0/TCP a:5060;branch=z9hG4bKx", b"f: <sip:x>;tag=1") == mine
    for other in (
        b"Via: SIP/2.0/TCP a:5061;branch=z9hG4bKx",
        b"Via: SIP/2.0/TCP b:5060;branch=z9hG4bKx",
        b"Via: SIP/2.0/TCP a:5060;branch=z9hG4bKX",
        b"X: y",
    ):
        assert key(other) != mine
    via = b"Via: SIP/2.0/TCP a:5060;branch=z9hG4bKx"
    assert key(via, method=b"INVITE") == key(via, method=b"ACK")
    assert len({key(via, method=method) for method in (b"INVITE", b"CANCEL", b"OPTIONS")}) == 3


@pytest.mark.parametrize(
    "branch", [b"", b";branch=0", b";branch=z9hG4bK", b";branch=x, SIP/2.0/TCP c;branch=d"]
)
def test_key_without_the_magic_cookie(branch: bytes) -> None:
    # heritage sip 6.C.
    def of(call: bytes = b"c@d", number: bytes = b"1", tag: bytes = b"t", via: bytes = b"a:5060") -> bytes:
        message = (
            FIRST + b"Via: SIP/2.0/UDP " + via + branch + b"\r\nFrom: <sip:x;tag=no>;tag=" + tag +
            b"\r\nCall-ID: " + call + b"\r\nCSeq: " + number + b" OPTIONS\r\nl: 0\r\n\r\n"
        )  # fmt: skip
        [head] = Framer(MAX_HEADER, MAX_BODY).feed(message)
        return head.key

    assert of() == of(number=b"01") == of(via=b"A:5060;received=192.0.2.1;rport=7")
    assert len({of(), of(call=b"e@d"), of(number=b"2"), of(tag=b"u"), of(via=b"b:5060")}) == 5


def test_key_has_a_limit() -> None:
    long = [key(b"Via: SIP/2.0/TCP a;branch=z9hG4bK" + b"x" * 9000 + end) for end in (b"1", b"2")]
    assert long[0] != long[1]
    assert len(long[0]) <= 128


def test_answer_to_what_cannot_be_read() -> None:
    # heritage sip 2.14.
    broken = request(branch="z9hG4bKbroken").replace(b"Content-Length: 0\r\n", b"")
    answer = bad_request(broken.partition(b"\r\n\r\n")[0] + b"\r\n", "no content-length")
    assert answer is not None
    lines = answer.split(b"\r\n")
    assert lines[0] == b"SIP/2.0 400 Bad Request (no content-length)"
    assert b"Via: SIP/2.0/TCP 127.0.0.1:5062;branch=z9hG4bKbroken" in lines
    assert any(line.startswith(b"To: <sip:bob@127.0.0.1>;tag=") for line in lines)
    assert feed([answer]) == ([answer], None, 0)
    lacking = bad_request(b"OPTIONS sip:x SIP/2.0\r\nv: SIP/2.0/TCP a\r\n", "call-id")  # RFC 4475 3.3.1
    assert lacking is not None
    assert lacking.split(b"\r\n")[1:] == [b"Via: SIP/2.0/TCP a", b"Content-Length: 0", b"", b""]
    assert bad_request(b"OPTIONS sip:x SIP/2.0\r\nf: a\r\n", "call-id") is None
    for other in (b"ACK sip:x SIP/2.0\r\n", b"SIP/2.0 200 OK\r\n", b"garbage\r\n", b"", b"OPTIONS x"):
        assert bad_request(other + broken.partition(b"\r\n")[2], "x") is None
