"""Questions and answers of DNS as bytes. Pure; dnspython reads and writes names, and makes the questions.

An answer is read record by record, and only what a question for addresses needs of it. So one bad record,
or an option of EDNS that nobody asked for, does not cost the good ones beside it.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.wire

PAYLOAD = 1232
"""The biggest answer by UDP, in bytes, that passes nearly every path in one piece (DNS flag day 2020)."""

_WITHOUT_QUESTION = (dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED)
_WANTED = (dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.CNAME, dns.rdatatype.SOA)


class Unreadable(Exception):
    """This is the answer, by its number, but its bytes make no sense."""


class Record(NamedTuple):
    """One record.

    :ivar data: an address, the name that an alias leads to, a SOA's minimum, or None if it is malformed
    """

    name: dns.name.Name
    kind: dns.rdatatype.RdataType
    ttl: int
    data: str | dns.name.Name | int | None


class Reply(NamedTuple):
    """What is of use in an answer."""

    rcode: dns.rcode.Rcode
    cut_short: bool
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()


def question(name: dns.name.Name, kind: dns.rdatatype.RdataType, *, edns: bool) -> dns.message.QueryMessage:
    """Make a question with a random number."""
    if edns:
        return dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
    return dns.message.make_query(name, kind)


def read(data: bytes, asked: dns.message.QueryMessage) -> Reply | None:
    """Read the answer to a question; None for what is none (RFC 5452 9.1).

    :raises Unreadable: it has the question's number, but ends within a record or has impossible names
    """
    parser = dns.wire.Parser(data)
    if parser.remaining() < 12:
        return None
    number, flags, *counts = parser.get_struct("!HHHHHH")
    if number != asked.id or not flags & dns.flags.QR or dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return None
    try:
        return _read(parser, flags, counts, asked)
    except (dns.exception.DNSException, ValueError) as exc:
        raise Unreadable(str(exc) or type(exc).__name__) from exc


def _read(
    parser: dns.wire.Parser, flags: int, counts: list[int], asked: dns.message.QueryMessage
) -> Reply | None:
    rcode = dns.rcode.Rcode(flags & 0xF)
    if counts[0] or rcode not in _WITHOUT_QUESTION:
        if counts[0] != 1:
            return None
        name, (kind, rdclass) = parser.get_name(decompress=True), parser.get_struct("!HH")
        own = asked.question[0]
        if (name, kind, rdclass) != (own.name, own.rdtype, own.rdclass):
            return None
    if flags & dns.flags.TC:
        return Reply(rcode, cut_short=True)
    answer, _ = _section(parser, counts[1])
    authority, _ = _section(parser, counts[2])
    _, high = _section(parser, counts[3])
    return Reply(dns.rcode.Rcode.make(high << 4 | rcode), False, answer, authority)


def _section(parser: dns.wire.Parser, count: int) -> tuple[tuple[Record, ...], int]:
    """Read a section, and the upper bits of the rcode if EDNS has them in it (RFC 6891 6.1.3)."""
    found: list[Record] = []
    high = 0
    for _ in range(count):
        name = parser.get_name(decompress=True)
        number, rdclass, ttl, length = parser.get_struct("!HHIH")
        start = parser.current
        if length > parser.remaining():
            raise Unreadable("it ends within a record")
        if number == dns.rdatatype.OPT:
            high = ttl >> 24
        elif rdclass == dns.rdataclass.IN and number in _WANTED:
            kind = dns.rdatatype.RdataType(number)
            found.append(Record(name, kind, 0 if ttl > 0x7FFFFFFF else ttl, _data(parser, kind, length)))
        parser.seek(start + length)
    return tuple(found), high


def _data(
    parser: dns.wire.Parser, kind: dns.rdatatype.RdataType, length: int
) -> str | dns.name.Name | int | None:
    try:
        with parser.restrict_to(length):
            match kind:
                case dns.rdatatype.A:
                    return socket.inet_ntop(socket.AF_INET, parser.get_remaining())
                case dns.rdatatype.AAAA:
                    return socket.inet_ntop(socket.AF_INET6, parser.get_remaining())
                case dns.rdatatype.CNAME:
                    return parser.get_name(decompress=True)
                case _:
                    parser.get_name(decompress=True)
                    parser.get_name(decompress=True)
                    return int(parser.get_struct("!IIIII")[4])
    except (dns.exception.DNSException, ValueError):
        return None
