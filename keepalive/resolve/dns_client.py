"""Asking name servers: whom, how often, and what their answers mean.

A message counts as the answer if it has the question's random number and repeats the question (RFC 5452
9.1); all others are ignored, and the wait goes on. Of an answer, only records for the name that was asked
for are used, and for the names that its CNAMEs lead to.

dnspython's own asynchronous I/O is not used: on asyncio it makes a transport per question, which is closed
turns later, and it reads on in the background without bound.
"""

from __future__ import annotations

import math
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import dns.name
import dns.rcode
import dns.rdatatype

from .message import Unreadable, question
from .ports import NO_ROOM, by_tcp, ports
from .server_status import ServerStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .message import Record, Reply
    from .resolv_conf import Config, Server

MOST_LINKS = 12
"""So many CNAMEs are followed; more, or a circle, is an error."""
OLDER_THAN_EDNS = (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS)


class Fault(Exception):
    """One server's answer is of no use; another one may know."""


class NobodyKnows(socket.gaierror):
    """No name server could tell.

    :ivar retry_after: nobody should be asked again for so many seconds (RFC 9520 3.2)
    :ivar told: at least one of them said so itself
    """

    retry_after = 1.0

    def __init__(self, faults: dict[Server, str], *, told: bool) -> None:
        text = ", ".join(f"{host} port {port}: {fault}" for (host, port), fault in faults.items())
        super().__init__(socket.EAI_AGAIN, f"no name server could tell ({text})")
        self.told = told


class Found(NamedTuple):
    """What there is of one type under a name."""

    addresses: tuple[str, ...]  # in the server's order; none if the name has none
    ttl: float  # seconds; for no addresses by the zone's SOA record (RFC 2308 5), 0 without it
    exists: bool = True  # whether there is such a name at all
    partial: bool = False  # nobody could tell what there is of the other family


async def ask(
    name: str, kind: str, servers: Sequence[Server], config: Config, status: ServerStatus | None = None
) -> Found:
    """Ask for the addresses of one kind, "A" or "AAAA", under a name, and follow CNAMEs. Switches tasks.

    :param status: what is known of the servers
    :raises NobodyKnows: no server could tell; the message says what each of them did
    :raises OSError: no descriptor is free, to ask with
    """
    asked = dns.name.Name((*(label.encode() for label in name.split(".")), b""))
    query = _Query(dns.rdatatype.from_text(kind), servers, config, status or ServerStatus())
    links, ttl = 0, math.inf
    while True:
        found = await query.ask(asked)
        ttl = min(ttl, found.ttl)
        links += found.links
        if found.goes_on_at is None:
            return Found(found.addresses, ttl, found.exists)
        if links > MOST_LINKS:
            raise socket.gaierror(socket.EAI_FAIL, f"more than {MOST_LINKS} CNAMEs from {name}")
        asked = found.goes_on_at


class _Answer(NamedTuple):
    addresses: tuple[str, ...]
    ttl: float
    exists: bool
    links: int
    goes_on_at: dns.name.Name | None = None


class _Query(NamedTuple):
    """One question, put to each server in turn until one knows."""

    kind: dns.rdatatype.RdataType
    servers: Sequence[Server]
    config: Config
    status: ServerStatus

    async def ask(self, name: dns.name.Name) -> _Answer:
        """Return what the first server says that knows."""
        faults: dict[Server, str] = {}
        left = self.status.order(self.servers, time.monotonic())
        unheard: set[Server] = set()
        told = False
        for turn in range(self.config.attempts):
            for server in tuple(left):
                asked_at = time.monotonic()
                try:
                    more = server != left[-1]
                    return await self._ask_server(name, server, turn, more=more, again=server in unheard)
                except Fault as exc:
                    faults[server], told = str(exc), True
                    left.remove(server)  # it has said all that it knows
                except Unreadable:
                    faults[server] = "no answer that can be read"
                    unheard.add(server)
                except TimeoutError:
                    faults[server] = "no answer"
                    unheard.add(server)
                    self.status.silent(server, asked_at, time.monotonic())
                except OSError as exc:
                    if exc.errno in NO_ROOM:
                        raise
                    faults[server] = exc.strerror or type(exc).__name__
                    self.status.silent(server, asked_at, time.monotonic())
        raise NobodyKnows(faults, told=told)

    async def _ask_server(
        self, name: dns.name.Name, server: Server, turn: int, *, more: bool, again: bool
    ) -> _Answer:
        """Ask one server.

        :param more: if its answer cannot be read, another one could be asked at once
        :param again: it gave no answer before; some drop what has EDNS in it, so it is asked without
        """
        status = self.status
        edns = not again and status.knows_edns(server, time.monotonic())
        reply = await self._exchange(name, server, turn, edns=edns, more=more)
        status.answered(server, time.monotonic())
        if edns and reply.rcode in OLDER_THAN_EDNS:
            reply = await self._exchange(name, server, turn, edns=False, more=more)
            again = reply.rcode not in OLDER_THAN_EDNS
        if again:
            status.no_edns(server, time.monotonic())
        return _read(reply, name, self.kind)

    async def _exchange(
        self, name: dns.name.Name, server: Server, turn: int, *, edns: bool, more: bool
    ) -> Reply:
        seconds = self.config.timeout * 2**turn
        message = question(name, self.kind, edns=edns)
        if not self.config.by_tcp:
            reply = await ports().by_udp(message, server, seconds, more=more)
            if not reply.cut_short:
                return reply
        reply = await by_tcp(message, server, seconds)
        if reply.cut_short:
            raise Fault("cut short even by TCP")
        return reply


def _read(reply: Reply, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> _Answer:
    """Follow the CNAMEs inside an answer, and say what is at their end."""
    rcode = reply.rcode
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise Fault(dns.rcode.to_text(rcode))
    ttl, links = math.inf, 0
    while True:
        records = _records(reply.answer, name, kind)
        if records:
            if rcode == dns.rcode.NXDOMAIN:
                raise Fault("an address of a name that is said not to exist")
            addresses = tuple(dict.fromkeys(str(record.data) for record in records))
            return _Answer(addresses, min(ttl, *(record.ttl for record in records)), True, links)
        alias = _records(reply.answer, name, dns.rdatatype.CNAME)
        if not alias:
            break
        links += 1
        if links > MOST_LINKS:
            raise Fault("CNAMEs in a circle, or too many")
        ttl = min(ttl, alias[0].ttl)
        assert isinstance(alias[0].data, dns.name.Name), "what an alias leads to"
        name = alias[0].data
    exists = rcode == dns.rcode.NOERROR
    lasts = _negative_ttl(reply, name)
    if links and exists and lasts is None:
        return _Answer((), ttl, True, links, goes_on_at=name)  # a server that does not look further itself
    return _Answer((), min(ttl, lasts or 0.0), exists, links)


def _records(section: tuple[Record, ...], name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[Record]:
    """Return the well-formed records of a name and kind.

    :raises Fault: there are only malformed ones; that is not the same as none
    """
    found = [record for record in section if record.kind == kind and record.name == name]
    good = [record for record in found if record.data is not None]
    if found and not good:
        raise Fault(f"a malformed {dns.rdatatype.to_text(kind)} record")
    return good


def _negative_ttl(reply: Reply, name: dns.name.Name) -> float | None:
    for record in reply.authority:
        if (
            record.kind == dns.rdatatype.SOA
            and isinstance(record.data, int)
            and name.is_subdomain(record.name)
        ):
            return float(min(record.ttl, record.data))
    return None
