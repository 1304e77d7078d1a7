"""Messages, and both sides of small calls."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import anyio
import sipmessage

from keepalive.sip import SipConfig, SocketPool, open_leg
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.sip import SendError, Source

_numbers = itertools.count(1)


def request(
    method: str = "OPTIONS",
    *,
    branch: str | None = None,
    via: str = "127.0.0.1:5062",
    proto: str = "TCP",
    call: str | None = None,
    cseq: int = 1,
    body: bytes = b"",
    extra: str = "",
) -> bytes:
    """Write a request with a branch of its own."""
    number = next(_numbers)
    return (
        f"{method} sip:bob@127.0.0.1 SIP/2.0\r\n"
        f"Via: SIP/2.0/{proto} {via};branch={branch or f'z9hG4bK{number}'}\r\n"
        f"From: <sip:alice@127.0.0.1>;tag=a{number}\r\nTo: <sip:bob@127.0.0.1>\r\n"
        f"Call-ID: {call or f'{number}@kit'}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def response(to: bytes, code: int = 200, reason: str = "OK") -> bytes:
    """Write the response to a request, in bytes."""
    kept = [
        line
        for line in to.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        if line.partition(b":")[0].lower() in (b"via", b"from", b"to", b"call-id", b"cseq")
    ]
    return f"SIP/2.0 {code} {reason}\r\n".encode() + b"\r\n".join([*kept, b"Content-Length: 0"]) + b"\r\n\r\n"


def response_of(size: int) -> bytes:
    """Write a response with a body of so many bytes."""
    head = response(request())
    return head.replace(b"Content-Length: 0", f"Content-Length: {size}".encode()) + b"x" * size


def answer(to: sipmessage.Request, code: int = 200, contact: str | None = None) -> sipmessage.Response:
    """Make the response to a request."""
    made = sipmessage.Response(code, "OK" if code == 200 else "Ringing")
    for name in ("Via", "From", "To", "Call-ID", "CSeq"):
        made.headers.setlist(name, list(to.headers.getlist(name)))
    if "tag=" not in made.headers["To"]:
        made.headers.set("To", made.headers["To"] + ";tag=kit")
    if contact is not None:
        made.headers.set("Contact", contact)
    return made


def port_of(pool: SocketPool) -> int:
    """Return the port that a pool listens at."""
    port: int = pool.master.getsockname()[1]
    return port


def leg(
    proto: Any = "tcp", addr: str = "127.0.0.1", *, dst: object = None, tls: Any = None, **config: Any
) -> SocketPool:
    """Make a pool on a port of its own; raw unless it says otherwise."""
    config.setdefault("raw", True)
    return open_leg(proto, addr, 0, dst=dst, tls=tls, config=SipConfig(**config))


class Callee:
    """Answers calls (INVITE, BYE, OPTIONS) on a pool with parsed messages."""

    def __init__(self, pool: SocketPool) -> None:
        self.requests: dict[str, int] = {}
        self.errors: list[Exception] = []
        self._pool = pool
        host, port = pool.master.getsockname()[:2]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._contact = f"<sip:callee@{where}>"
        pool.attach(self._take)

    def _take(self, packet: Any, source: Source) -> None:
        if not isinstance(packet, sipmessage.Request):
            return
        self.requests[packet.method] = self.requests.get(packet.method, 0) + 1
        if packet.method == "INVITE":
            self._pool.send_soon(answer(packet, 180, self._contact), source, self._told)
        if packet.method != "ACK":
            self._pool.send_soon(answer(packet, 200, self._contact), source, self._told)

    def _told(self, error: Exception | None) -> None:
        if error is not None:
            self.errors.append(error)


class Caller:
    """Makes calls from a pool with parsed messages: INVITE, ACK, BYE."""

    def __init__(self, pool: SocketPool, dst: str) -> None:
        self.answered = 0
        self.codes: dict[int, int] = {}
        self._pool = pool
        self._dst = dst
        self._events: dict[str, tuple[anyio.Event, list[Any]]] = {}
        pool.attach(self._take)

    def _take(self, packet: Any, source: Source) -> None:
        if isinstance(packet, sipmessage.Response) and packet.code >= 200:
            event, found = self._events.get(packet.headers["Call-ID"] + packet.cseq.method, (None, []))
            if event is not None:
                found.append(packet)
                event.set()

    async def ask(self, method: str, call: str, cseq: int, to: str) -> Any:
        """Send a request and wait for its final response."""
        event, found = self._events[call + method] = (anyio.Event(), [])
        await self._pool.send_to(self._request(method, call, cseq, to), self._dst)
        with anyio.fail_after(60):
            await event.wait()
        del self._events[call + method]
        self.codes[found[0].code] = self.codes.get(found[0].code, 0) + 1
        return found[0]

    def _request(self, method: str, call: str, cseq: int, to: str) -> sipmessage.Request:
        host, port = self._pool.master.getsockname()[:2]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        made = sipmessage.Request(method, sipmessage.URI.parse(f"sip:peer@{self._dst}"))
        proto = self._pool.proto.upper()
        made.headers.add("Via", f"SIP/2.0/{proto} {where};branch=z9hG4bK{next(_numbers)}")
        made.headers.add("From", f"<sip:caller@{where}>;tag={call}")
        made.headers.add("To", to)
        made.headers.add("Call-ID", call)
        made.headers.add("CSeq", f"{cseq} {method}")
        made.headers.add("Contact", f"<sip:caller@{where}>")
        made.headers.add("Max-Forwards", "70")
        return made

    async def options(self) -> None:
        """Ask once."""
        await self.ask("OPTIONS", f"o{next(_numbers)}@kit", 1, f"<sip:peer@{self._dst}>")

    async def call(self) -> None:
        """Make a whole call."""
        call = f"c{next(_numbers)}@kit"
        final = await self.ask("INVITE", call, 1, f"<sip:peer@{self._dst}>")
        to = final.headers["To"]
        await self._pool.send_to(self._request("ACK", call, 1, to), self._dst)
        await self.ask("BYE", call, 2, to)
        self.answered += 1

    async def calls(self, count: int, at_a_time: int) -> None:
        """Make many calls."""
        left = iter(range(count))

        async def some() -> None:
            for _ in left:
                await self.call()

        async with anyio.create_task_group() as group:
            for _ in range(at_a_time):
                group.start_soon(some)


Outcomes = list[tuple[int, str | None]]


def told(outcomes: Outcomes, number: int) -> Callable[[SendError | None], None]:
    return lambda error: outcomes.append((number, None if error is None else error.reason))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is so."""
    with anyio.fail_after(60):
        while not condition():
            await turns(1)


async def dial(pool: SocketPool) -> anyio.abc.SocketStream:
    return await anyio.connect_tcp("127.0.0.1", port_of(pool))
