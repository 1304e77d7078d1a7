"""``keepalive probe``: which ports of which hosts answer, how fast, and with what first line."""

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from rich.progress import TimeElapsedColumn

from keepalive import DNSResolver, printable
from keepalive.multi import MultiClient, StreamFilter

from .screen import progress, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from keepalive import Resolution
    from keepalive.multi import Peer

USUAL_PORTS = "1-1024"
LONGEST = 256
"""Bytes of a first line; whatever is longer is cut."""


class BadRange(ValueError):
    """An argument that names no hosts and ports; the text says why."""


@dataclass(frozen=True, slots=True)
class Span:
    """One host and ranges of its ports, in the order in which they were given."""

    host: str
    ports: tuple[range, ...]

    def __len__(self) -> int:
        return sum(map(len, self.ports))

    def __iter__(self) -> Iterator[int]:
        for numbers in self.ports:
            yield from numbers


def parse_span(text: str) -> Span:
    """Read HOST, HOST:PORTS, [IPV6] or [IPV6]:PORTS; PORTS is like 22,80,8000-8080. Raises `BadRange`."""
    if any(char.isspace() for char in text) or "\0" in text:
        raise BadRange(f"{text!r} contains white space or NUL")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadRange(f"{text!r}: an IPv6 address is written [ADDRESS]:PORTS")
        ports = rest[1:] if rest else USUAL_PORTS
    elif text.count(":") > 1:
        host, ports = text, USUAL_PORTS
    else:
        host, colon, ports = text.partition(":")
        ports = ports if colon else USUAL_PORTS
    if not host:
        raise BadRange(f"{text!r} names no host")
    return Span(host, tuple(_range(text, part) for part in ports.split(",")))


def _range(text: str, part: str) -> range:
    first, dash, last = part.partition("-")
    numbers = []
    for word in (first, last if dash else first):
        if not (word.isascii() and word.isdecimal()) or len(word) > 5 or not 1 <= int(word) <= 65535:
            raise BadRange(f"{text!r}: {part!r} is no port, nor a range of ports, from 1 to 65535")
        numbers.append(int(word))
    if numbers[0] > numbers[1]:
        raise BadRange(f"{text!r}: {part!r} begins after its end")
    return range(numbers[0], numbers[1] + 1)


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """What was asked for on the command line."""

    spans: Sequence[Span]
    concurrency: int
    timeout: float
    wait: float
    send: bytes


@dataclass(slots=True)
class OpenPort:
    """A port that accepted a connection; times are in seconds."""

    host: str
    port: int
    connected: float
    answered: float | None = None
    line: str | None = None


class Resolver:
    """The usual one, which remembers for which names no address has come yet."""

    def __init__(self) -> None:
        self.nameless: set[str] = set()
        self._inner = DNSResolver()

    async def resolve(self, host: str) -> Resolution:
        """Look a name up."""
        self.nameless.add(host)
        found = await self._inner.resolve(host)
        self.nameless.discard(host)
        return found


@dataclass(slots=True)
class FailureKind:
    """One kind of failure: of which hosts, and of how many ports."""

    hosts: dict[str, int] = field(default_factory=dict)  # by host, one of the ports
    count: int = 0

    def told(self, operation: str, text: str) -> str:
        """Tell all of them in one line."""
        first = next(iter(self.hosts))
        text = text.replace(_HOST, first if len(self.hosts) == 1 else "the host")
        if len(self.hosts) > 1:
            some = ", ".join([*self.hosts][:_NAMED])
            more = f" and {len(self.hosts) - _NAMED} more" if len(self.hosts) > _NAMED else ""
            return f"{operation}: {text} ({self.count} ports of {len(self.hosts)} hosts: {some}{more})"
        if operation != "resolve" and self.count == 1:
            return f"{first}, port {self.hosts[first]}: {operation}: {text}"
        times = f" ({self.count} ports)" if self.count > 1 else ""
        return f"{first}: {operation}: {text}{times}"


class Probe:
    """One run of the command; its numbers are good at any moment, so also after an interruption."""

    def __init__(self, options: ProbeOptions) -> None:
        self.wanted = sum(map(len, options.spans))
        self.found: list[OpenPort] = []
        self.counts: Counter[str] = Counter()
        self.failures: dict[tuple[str, str], FailureKind] = {}
        self.unasked = 0
        """Ports of which nothing is known, since it was not the network that failed, or no name was found."""
        self.seconds = 0.0
        self._options = options
        self._lost: set[str] = set()  # hosts without an address
        self._resolver = Resolver()
        self._left = self._all()
        self._running = 0
        self._client: MultiClient | None = None
        self._advance: Callable[[], None] = lambda: None

    @property
    def done(self) -> int:
        """How many ports have been dealt with."""
        return self.counts.total()

    def _all(self) -> Iterator[tuple[str, int]]:
        for span in self._options.spans:
            for port in span:
                if span.host in self._lost:
                    self.counts["not tried"] += 1
                    self.unasked += 1
                else:
                    yield span.host, port

    async def run(self) -> None:
        """Try all ports, with a progress bar if somebody watches."""
        options, started = self._options, time.perf_counter()
        with progress("probe", TimeElapsedColumn()) as bars:
            bar = bars.add_task("", total=self.wanted)
            self._advance = lambda: bars.update(bar, completed=self.done)
            self._over = anyio.Event()
            async with MultiClient(
                on_success=self._connected,
                on_input=self._heard,
                on_failure=self._refused,
                on_timeout=self._silent,
                on_disconnected=self._next,
                filter=StreamFilter,
                connect_timeout=options.timeout,
                input_timeout=options.wait,
                max_connecting=options.concurrency,
                resolver=self._resolver,
            ) as self._client:
                try:
                    for _ in range(options.concurrency):
                        self._start()
                    if self._running:
                        await self._over.wait()
                finally:
                    self.seconds = time.perf_counter() - started
                    self._left = iter(())

    # -- callbacks ----------------------------------------------------------------------------------

    def _start(self) -> None:
        target = next(self._left, None)
        if target is not None:
            assert self._client is not None, "it is running"
            self._running += 1
            self._client.connect(*target, heap={"since": time.perf_counter()})

    def _connected(self, peer: Peer) -> None:
        now = time.perf_counter()
        peer.heap["found"] = OpenPort(peer.addr, peer.port, now - peer.heap["since"])
        peer.heap["until"] = now + self._options.wait
        self.found.append(peer.heap["found"])
        self.counts["open"] += 1
        if self._options.send:
            peer.send(self._options.send)

    def _heard(self, peer: Peer, data: bytes) -> None:
        found: OpenPort = peer.heap["found"]
        if found.answered is None:
            found.answered = time.perf_counter() - peer.heap["since"]
        said: bytes = peer.heap.get("said", b"") + data
        peer.heap["said"] = said
        line, end, _ = said.lstrip(b"\r\n").partition(b"\n")
        found.line = line[:LONGEST].rstrip(b"\r").decode("utf-8", "backslashreplace")
        left = peer.heap["until"] - time.perf_counter()
        if end or len(said) >= LONGEST or left <= 0:
            peer.close()
        else:
            peer.timeout = left  # or a port that drips could hold us for 256 times as long

    def _refused(self, peer: Peer, operation: str, number: int, text: str) -> None:
        if operation == "resolve":
            self._lost.add(peer.addr)
        if operation == "connect" and number == errno.ECONNREFUSED:
            self.counts["refused"] += 1
            return
        self._failed(peer, operation, text, asked=operation == "connect" and number not in _OURS)

    def _silent(self, peer: Peer) -> None:
        if "found" in peer.heap:
            return
        if peer.addr in self._resolver.nameless:
            text = f"no answer within {self._options.timeout:g} s"
            self._lost.add(peer.addr)
            self._failed(peer, "resolve", text, asked=False)
        else:
            self.counts["no answer"] += 1

    def _failed(self, peer: Peer, operation: str, text: str, *, asked: bool) -> None:
        self.counts["failed"] += 1
        self.unasked += not asked
        failure = self.failures.setdefault((operation, text.replace(peer.addr, _HOST)), FailureKind())
        failure.hosts.setdefault(peer.addr, peer.port)
        failure.count += 1

    def _next(self, peer: Peer) -> None:
        self._running -= 1
        self._start()
        self._advance()
        if not self._running:
            self._over.set()

    # -- the result ---------------------------------------------------------------------------------

    def error_lines(self) -> list[str]:
        """Give one line for each kind of failure."""
        return [line for line, _ in self._told()]

    def _told(self) -> list[tuple[str, int]]:
        ranked = sorted(self.failures.items(), key=lambda item: -item[1].count)
        return [(failure.told(*what), failure.count) for what, failure in ranked]

    def as_json(self) -> str:
        """Give the result as one JSON object; times are in seconds."""
        result: dict[str, Any] = {
            "ports": self.wanted,
            "counts": {name: self.counts[name] for name in _COUNTS},
            "open": [
                {
                    "host": found.host,
                    "port": found.port,
                    "connected": round(found.connected, 6),
                    "answered": None if found.answered is None else round(found.answered, 6),
                    "line": found.line,
                }
                for found in self._sorted()
            ],
            "errors": [{"error": what, "count": n} for what, n in self._told()],
            "seconds": round(self.seconds, 6),
        }
        return json.dumps(result, indent=2)

    def table(self) -> Iterator[str]:
        """Tell the result to people, and to programs that read lines: one for each open port."""
        if self.found:
            head = ("host", "port", "connected, ms", "answered, ms", "first line")
            rows = [
                (
                    found.host,
                    str(found.port),
                    f"{found.connected * 1000:.1f}",
                    "-" if found.answered is None else f"{found.answered * 1000:.1f}",
                    "" if found.line is None else printable(found.line),
                )
                for found in self._sorted()
            ]
            yield from records(head, rows, right=frozenset({1, 2, 3}))
        counts = ", ".join(f"{self.counts[name]} {name}" for name in _COUNTS if self.counts[name])
        yield f"{self.wanted} ports: {counts or 'none tried'}; {self.seconds:.2f} s"

    def _sorted(self) -> list[OpenPort]:
        order = {span.host: n for n, span in reversed(list(enumerate(self._options.spans)))}
        return sorted(self.found, key=lambda found: (order[found.host], found.port))


_HOST = "\0"  # stands for the host in texts that are to be compared
_NAMED = 3
# What the system of ours says, and nothing of the port.
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EPERM}
)
_COUNTS = ("open", "refused", "no answer", "failed", "not tried")
