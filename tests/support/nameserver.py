"""A name server in a thread: tells a zone, or whatever a test makes up, and remembers who asked what."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from keepalive import DNSResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType


SOA = "ns. admin. 1 3600 600 86400"


class Question(NamedTuple):
    """What a client asked."""

    message: dns.message.QueryMessage
    name: str  # without the trailing dot
    kind: str
    by_tcp: bool
    port: int  # the client's

    def reply(self, *records: str, rcode: str = "NOERROR", authority: Iterable[str] = ()) -> bytes:
        """Make an answer of records like "name 60 A 127.0.0.1"."""
        message = dns.message.make_response(self.message, recursion_available=True)
        message.set_rcode(dns.rcode.from_text(rcode))
        for section, lines in ((message.answer, records), (message.authority, tuple(authority))):
            for line in lines:
                name, ttl, kind, data = line.split(None, 3)
                section.append(dns.rrset.from_text(f"{name.rstrip('.')}.", int(ttl), "IN", kind, data))
        return message.to_wire()


class Zone:
    """Answers by a table: names to lines like "60 A 127.0.0.1"; a name that is not in it does not exist.

    :param negative: the time to live of answers that there is nothing
    """

    def __init__(self, table: dict[str, list[str]], *, negative: int = 60, soa: bool = True) -> None:
        self.table = table
        self.authority = [f". {negative} SOA {SOA} {negative}"] if soa else []

    def __call__(self, question: Question) -> Iterable[bytes]:
        records: list[str] = []
        name = question.name.lower()
        for _ in range(20):
            lines = self.table.get(name, [])
            records += [f"{name} {line}" for line in lines if line.split()[1] == question.kind]
            aliases = [line for line in lines if line.split()[1] == "CNAME"]
            if not aliases:
                break
            records.append(f"{name} {aliases[0]}")
            name = aliases[0].split()[2].rstrip(".")
        done = any(record.split()[2] == question.kind for record in records)
        rcode = "NOERROR" if name in self.table else "NXDOMAIN"
        yield question.reply(*records, rcode=rcode, authority=() if done else self.authority)


class NameServer:
    """A running name server on 127.0.0.1, by UDP and TCP on the same `port`."""

    def __init__(self, answer: Callable[[Question], Iterable[bytes]], port: int = 0) -> None:
        self.answer = answer
        self.asked: list[Question] = []
        self._held: list[Callable[[], object]] = []
        self.holding = False
        while True:
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._udp.bind(("127.0.0.1", port))
            self.port: int = self._udp.getsockname()[1]
            try:
                self._tcp = socket.create_server(("127.0.0.1", self.port))
                break
            except OSError:  # that port is taken by TCP
                self._udp.close()
        self._wake_r, self._wake_w = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="name server")

    @property
    def address(self) -> str:
        """Return what `DNSResolver` takes."""
        return f"127.0.0.1:{self.port}"

    def names(self, kind: str = "A") -> list[str]:
        """List the names that were asked for, in order, for records of a kind."""
        return [question.name for question in self.asked if question.kind == kind]

    def release(self) -> None:
        """Send all answers that were held back."""
        held, self._held = self._held, []
        for send in held:
            send()

    def __enter__(self) -> Self:
        for sock in (self._udp, self._tcp, self._wake_r):
            self._selector.register(sock, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._wake_w.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # all are sockets
        self._wake_w.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake_r:
                    return
                if key.fileobj is self._udp:
                    data, client = self._udp.recvfrom(65535)
                    self._serve(data, client[1], False, partial(self._send_udp, client))
                elif key.fileobj is self._tcp:
                    sock, client = self._tcp.accept()
                    self._selector.register(sock, selectors.EVENT_READ, client[1])
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._read_tcp(key.fileobj, key.data)

    def _send_udp(self, client: tuple[str, int], wire: bytes) -> None:
        self._udp.sendto(wire, client)

    def _read_tcp(self, sock: socket.socket, port: int) -> None:
        try:
            data = sock.recv(65535)  # questions are small: they come in one piece
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            sock.close()
            return

        def send(wire: bytes) -> None:
            try:
                sock.sendall(struct.pack("!H", len(wire)) + wire)
            except OSError:
                pass  # the client has gone

        self._serve(data[2:], port, True, send)

    def _serve(self, data: bytes, port: int, by_tcp: bool, send: Callable[[bytes], object]) -> None:
        message = dns.message.from_wire(data)
        assert isinstance(message, dns.message.QueryMessage)
        asked = message.question[0]
        name = asked.name.to_text(omit_final_dot=True)
        question = Question(message, name, dns.rdatatype.to_text(asked.rdtype), by_tcp, port)

        def answer() -> None:
            for wire in self.answer(question):
                send(wire)

        if self.holding:
            self._held.append(answer)
            self.asked.append(question)
        else:
            self.asked.append(question)
            answer()


def truncated(question: Question) -> bytes:
    """Make an empty answer that says it was cut short."""
    wire = bytearray(question.reply())
    wire[2] |= dns.flags.TC >> 8
    return bytes(wire)


V4, V6 = "60 A 192.0.2.1", "60 AAAA 2001:db8::1"


def only(*servers: NameServer, **options: object) -> DNSResolver:
    """Return a resolver that knows of nothing but these servers."""
    options = {"hosts": None, "timeout": 0.05, **options}
    return DNSResolver([server.address for server in servers], **options)  # type: ignore[arg-type]  # mixed


async def refused(resolver: DNSResolver, name: str) -> socket.gaierror:
    """Return what asking for a name fails with."""
    with pytest.raises(socket.gaierror) as caught:
        await resolver.resolve(name)
    return caught.value
