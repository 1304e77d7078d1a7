"""Asking name servers: messages by dnspython, sockets of our own.

A question goes out from a new socket that is connected to the server, so the kernel picks a random port
and lets through only what comes from the server's address and port. A message counts as the answer if
it parses, has the question's random number, and repeats the question (RFC 5452 9.1); all others are
ignored, and the wait goes on. Of an answer, only records for the name that was asked for are used, and
for the names that its CNAMEs lead to.

dnspython's own asynchronous I/O is not used: on asyncio it makes a transport per question, which is closed
turns later, and it reads on in the background without bound.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

import anyio
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .resolv_conf import Config, Server

PAYLOAD = 1232
"""The biggest answer by UDP, in bytes, that passes nearly every path in one piece (DNS flag day 2020)."""
MOST_LINKS = 12
"""So many CNAMEs are followed; more, or a circle, is an error."""


class Fault(Exception):
    """One server's answer, if it gave any, is of no use; another one may know."""


class Found(NamedTuple):
    """What there is of one type under a name.

    :ivar addresses: in the server's order; none if the name has none
    :ivar ttl: seconds; for no addresses by the zone's SOA record (RFC 2308 5), 0 without it
    :ivar exists: whether there is such a name at all
    :ivar partial: nobody could tell what there is of the other family
    """

    addresses: tuple[str, ...]
    ttl: float
    exists: bool = True
    partial: bool = False


async def ask(name: str, kind: str, servers: Sequence[Server], config: Config) -> Found:
    """Ask for the addresses of one kind, "A" or "AAAA", under a name, and follow CNAMEs. Switches tasks.

    :raises socket.gaierror: no server could tell; the message says what each of them did
    """
    asked = dns.name.Name((*(label.encode() for label in name.split(".")), b""))
    links, ttl = 0, math.inf
    while True:
        found = await _ask_servers(asked, dns.rdatatype.from_text(kind), servers, config)
        ttl = min(ttl, found.ttl)
        links += found.links
        if found.goes_on_at is None:
            return Found(found.addresses, ttl, found.exists)
        if links > MOST_LINKS:
            raise socket.gaierror(socket.EAI_FAIL, f"more than {MOST_LINKS} CNAMEs from {name}")
        asked = found.goes_on_at


class _Reading(NamedTuple):
    addresses: tuple[str, ...]
    ttl: float
    exists: bool
    links: int
    goes_on_at: dns.name.Name | None = None


async def _ask_servers(
    name: dns.name.Name, kind: dns.rdatatype.RdataType, servers: Sequence[Server], config: Config
) -> _Reading:
    faults: dict[Server, str] = {}
    left = list(servers)
    for turn in range(config.attempts):
        for server in tuple(left):
            try:
                with anyio.fail_after(config.timeout * 2**turn):
                    return await _ask_server(name, kind, server, config)
            except Fault as exc:
                faults[server] = str(exc)
                left.remove(server)  # it has said all that it knows
            except TimeoutError:
                faults[server] = "no answer"
            except OSError as exc:
                faults[server] = exc.strerror or type(exc).__name__
    told = ", ".join(f"{host} port {port}: {fault}" for (host, port), fault in faults.items())
    raise socket.gaierror(socket.EAI_AGAIN, f"no name server could tell ({told})")


async def _ask_server(
    name: dns.name.Name, kind: dns.rdatatype.RdataType, server: Server, config: Config
) -> _Reading:
    query = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
    reply = await _exchange(query, server, config)
    if reply.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS):
        query = dns.message.make_query(name, kind)  # the server may be older than EDNS (RFC 6891 6.2.2)
        reply = await _exchange(query, server, config)
    return _read(reply, name, kind)


def _read(reply: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> _Reading:
    """Follow the CNAMEs inside an answer, and say what is at their end."""
    rcode = reply.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise Fault(dns.rcode.to_text(rcode))
    ttl, links = math.inf, 0
    while True:
        records = reply.get_rrset(reply.answer, name, dns.rdataclass.IN, kind)
        if records:
            if rcode == dns.rcode.NXDOMAIN:
                raise Fault("an address of a name that is said not to exist")
            addresses = tuple(dict.fromkeys(record.address for record in records))
            return _Reading(addresses, min(ttl, records.ttl), True, links)
        alias = reply.get_rrset(reply.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if not alias:
            break
        links += 1
        if links > MOST_LINKS:
            raise Fault("CNAMEs in a circle, or too many")
        ttl = min(ttl, alias.ttl)
        name = alias[0].target
    exists = rcode == dns.rcode.NOERROR
    lasts = _negative_ttl(reply, name)
    if links and exists and lasts is None:
        return _Reading((), ttl, True, links, goes_on_at=name)  # a server that does not look further itself
    return _Reading((), min(ttl, lasts or 0.0), exists, links)


def _negative_ttl(reply: dns.message.Message, name: dns.name.Name) -> float | None:
    for records in reply.authority:
        if records.rdtype == dns.rdatatype.SOA and name.is_subdomain(records.name):
            return float(min(records.ttl, records[0].minimum))
    return None


# -- one server --------------------------------------------------------------------------------------


async def _exchange(query: dns.message.Message, server: Server, config: Config) -> dns.message.Message:
    if not config.by_tcp:
        reply = await _by_udp(query, server)
        if not reply.flags & dns.flags.TC:
            return reply
    reply = await _by_tcp(query, server)
    if reply.flags & dns.flags.TC:
        raise Fault("cut short even by TCP")
    return reply


def _answer_in(data: bytes, query: dns.message.Message) -> dns.message.Message | None:
    """Parse what came; None for what is no answer to this question."""
    try:
        try:
            reply = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=True)
        except dns.message.Truncated as exc:
            reply = exc.message()  # type: ignore[no-untyped-call]  # dnspython's
        return reply if query.is_response(reply) else None
    except Exception:  # the parser meets whatever a stranger sends
        return None


def _open(kind: socket.SocketKind, server: Server) -> tuple[socket.socket, tuple[object, ...]]:
    # For literals getaddrinfo asks nobody; it knows about zones.
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    family, _, _, _, address = socket.getaddrinfo(*server, 0, kind, flags=flags)[0]
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock, address


async def _by_udp(query: dns.message.Message, server: Server) -> dns.message.Message:
    sock, address = _open(socket.SOCK_DGRAM, server)
    with sock:
        sock.connect(address)
        sock.send(query.to_wire())
        while True:
            await anyio.wait_readable(sock)
            try:
                reply = _answer_in(sock.recv(65535), query)
            except BlockingIOError:
                continue  # a datagram with a wrong checksum wakes, but is not there
            if reply is not None:
                return reply


async def _by_tcp(query: dns.message.Message, server: Server) -> dns.message.Message:
    sock, address = _open(socket.SOCK_STREAM, server)
    with sock:
        number = sock.connect_ex(address)
        if number == errno.EINPROGRESS:
            await anyio.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        wire = query.to_wire(prepend_length=True)
        while wire:
            await anyio.wait_writable(sock)
            wire = wire[sock.send(wire) :]
        while True:
            length = int.from_bytes(await _exactly(sock, 2), "big")
            reply = _answer_in(await _exactly(sock, length), query)
            if reply is not None:
                return reply


async def _exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        await anyio.wait_readable(sock)
        try:
            chunk = sock.recv(count - len(got))
        except BlockingIOError:
            continue
        if not chunk:
            raise OSError(errno.ECONNRESET, "the connection ended early")
        got += chunk
    return bytes(got)
