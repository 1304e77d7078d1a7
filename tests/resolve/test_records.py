"""One bad record, or one bad option, does not cost an answer."""

from __future__ import annotations

import socket
import struct
from itertools import chain
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import DNSResolver
from tests.support.clocks import brisk
from tests.support.nameserver import NameServer, Question, Zone

if TYPE_CHECKING:
    from collections.abc import Iterable

A, AAAA, CNAME, SOA, NS, TXT, OPT, HTTPS = 1, 28, 5, 6, 2, 16, 41, 65
V4 = socket.inet_aton("192.0.2.1")


def record(kind: int, data: bytes, name: bytes = b"\xc0\x0c", rdclass: int = 1, ttl: int = 60) -> bytes:
    return name + struct.pack("!HHIH", kind, rdclass, ttl, len(data)) + data


def message(
    question: Question, answer: Iterable[bytes], authority: Iterable[bytes] = (), more: Iterable[bytes] = ()
) -> bytes:
    """Make an answer of records as bytes, whatever is in them."""
    asked = question.message
    sections = [list(answer), list(authority), list(more)]
    head = struct.pack("!HHHHHH", asked.id, 0x8180, 1, *map(len, sections))
    name = b"".join(bytes([len(label)]) + label for label in asked.question[0].name.labels)
    return head + name + struct.pack("!HH", asked.question[0].rdtype, 1) + b"".join(chain(*sections))


def resolver(*servers: NameServer, **options: object) -> DNSResolver:
    options = {"hosts": None, "timeout": 30.0, **options}
    return DNSResolver([server.address for server in servers], **options)  # type: ignore[arg-type]  # mixed


GOOD = record(A, V4)
OPTION = record(OPT, struct.pack("!HH", 8, 9) + b"\0", b"\0", 1232)  # an option longer than all of them
BAD: dict[str, tuple[list[bytes], list[bytes], list[bytes]]] = {
    "OPT in the answer section": ([record(OPT, b"", b"\0", 1232), GOOD], [], []),
    "an option that is cut": ([GOOD], [], [OPTION]),
    "client subnet of an unknown family": (
        [GOOD], [], [record(OPT, struct.pack("!HHHBB", 8, 4, 9, 200, 0), b"\0", 1232)]
    ),
    "a cookie of three bytes": ([GOOD], [], [record(OPT, struct.pack("!HH", 10, 3) + b"abc", b"\0", 1232)]),
    "an extended error without code": (
        [GOOD], [], [record(OPT, struct.pack("!HH", 15, 1) + b"x", b"\0", 1232)]
    ),
    "two OPTs": ([GOOD], [], [record(OPT, b"", b"\0", 1232)] * 2),
    "a text longer than its record": ([record(TXT, b"\xffx"), GOOD], [], []),
    "HTTPS without end": ([record(HTTPS, b"\0"), GOOD], [], []),
    "a short A beside a good one": ([record(A, b"\1\2\3"), GOOD], [], []),
    "a long A beside a good one": ([GOOD, record(A, V4 + b"\0")], [], []),
    "a SOA that is cut": ([GOOD], [record(SOA, b"\0\0\1")], []),
    "a name server that points nowhere": ([GOOD], [record(NS, b"\xff\xff")], []),
    "an AAAA of four bytes": ([GOOD, record(AAAA, V4)], [], []),
    "another class": ([record(A, b"\0" * 4, rdclass=3), GOOD], [], []),
}  # fmt: skip


@pytest.mark.parametrize("by_tcp", [False, True])
@pytest.mark.parametrize("what", BAD)
async def test_good_records_beside_bad_ones(what: str, by_tcp: bool) -> None:
    def answer(question: Question) -> Iterable[bytes]:
        if question.kind == "AAAA":
            yield question.reply()
        elif by_tcp and not question.by_tcp:
            wire = bytearray(question.reply())
            wire[2] |= 2
            yield bytes(wire)
        else:
            yield message(question, *BAD[what])

    with NameServer(answer) as server, anyio.fail_after(10):
        assert (await resolver(server).resolve("a.test")).addresses == ("192.0.2.1",)


@pytest.mark.parametrize(
    ("bad", "why"), [(record(A, b"\1"), "malformed A"), (record(CNAME, b"\xff\xff"), "malformed CNAME")]
)
async def test_bad_records_alone_are_not_the_same_as_none(bad: bytes, why: str) -> None:
    """The next server may have good ones; and if not, nothing is remembered as if there were none."""

    def answer(question: Question) -> Iterable[bytes]:
        yield question.reply() if question.kind == "AAAA" else message(question, [bad])

    with NameServer(answer) as server, NameServer(Zone({"a.test": ["60 A 192.0.2.9"]})) as other:
        assert (await resolver(server, other).resolve("a.test")).addresses == ("192.0.2.9",)
        with pytest.raises(socket.gaierror, match=why) as caught:
            await resolver(server).resolve("a.test")
        assert caught.value.errno == socket.EAI_AGAIN


@brisk
@pytest.mark.parametrize("by_tcp", [False, True])
async def test_an_answer_that_cannot_be_read_sends_us_to_the_next_server(by_tcp: bool) -> None:
    def answer(question: Question) -> Iterable[bytes]:
        if by_tcp and not question.by_tcp:
            wire = bytearray(question.reply())
            wire[2] |= 2
            yield bytes(wire)
        else:
            yield message(question, [GOOD[:-2]])

    with NameServer(answer) as broken, NameServer(Zone({"a.test": ["60 A 192.0.2.9"]})) as good:
        with anyio.fail_after(10):
            assert (await resolver(broken, good).resolve("a.test")).addresses == ("192.0.2.9",)
        assert broken.names() == ["a.test"] * (2 if by_tcp else 1)
        assert good.names() == ["a.test"]
    with (
        NameServer(answer) as broken,
        anyio.fail_after(10),
        pytest.raises(socket.gaierror, match="no answer that can be read"),
    ):
        await resolver(broken).resolve("a.test")


async def test_negative_answers_with_a_bad_soa_are_hardly_remembered() -> None:
    def answer(question: Question) -> Iterable[bytes]:
        yield message(question, [], [record(SOA, b"\0\0\1", b"\0")])

    with NameServer(answer) as server:
        with pytest.raises(socket.gaierror, match="no address") as caught:
            await resolver(server).resolve("a.test")
        assert getattr(caught.value, "ttl", None) == 1.0
