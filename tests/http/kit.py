"""An origin that reads requests as h11 does, and answers what a test says: also what no server may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import h11

from keepalive import http
from tests.support import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive import ConnectionManager
    from tests.support import Peer, Server


SIZE = 30_000_000  # more than the kernel takes for both directions before anybody reads


class Asked(NamedTuple):
    """A request, as h11 understood it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def url(server: Server, path: str = "/", scheme: str = "http") -> str:
    return f"{scheme}://{server.host}:{server.port}{path}"


def no_dns(lib: Any) -> Any:
    """Make hooks for a client with a library's own transport: a `.invalid` name fails before it is looked up.

    There are none (RFC 6761), as our resolver says by itself; theirs would ask the DNS of the machine.
    """

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.started" and info["host"].endswith(".invalid"):
            raise lib.ConnectError(f"no such name: {info['host']}")

    async def hook(request: Any) -> None:
        if request.url.host.endswith(".invalid"):
            request.extensions["trace"] = trace

    return {"request": [hook]}


def ok(body: bytes = b"hello", *lines: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    head = [f"HTTP/{version} {status}", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


class Script(Behaviour):
    """Answer by path; a byte string is sent as it is, a function does what it likes with the peer.

    :param early: paths whose answer is given at the head of the request, before its content.
    """

    def __init__(
        self,
        routes: Mapping[str, bytes | Callable[[Peer, Asked], None]] | None = None,
        *,
        early: bool = False,
    ) -> None:
        self.routes = {"/": ok(), **(routes or {})}
        self.early = early
        self.asked: list[Asked] = []
        self.errors: list[str] = []
        self._open: dict[Peer, tuple[h11.Connection, Any, list[bytes]]] = {}

    def received(self, peer: Peer, data: bytes) -> None:
        conn, request, body = self._open.get(peer) or (h11.Connection(h11.SERVER), None, [])
        try:
            conn.receive_data(data)
            while not peer.closed:
                event = conn.next_event()
                if isinstance(event, h11.Request):
                    request, body = event, []
                    if self.early:
                        self._answer(peer, request, b"")
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    if not self.early:
                        self._answer(peer, request, b"".join(body))
                    rest, _ = conn.trailing_data  # the next request, if this one was answered early
                    conn = h11.Connection(h11.SERVER)  # what h11 keeps of a cycle is of no interest here
                    if rest:
                        conn.receive_data(rest)
                else:
                    break
        except Exception as exc:  # it must not end the server's thread
            self.errors.append(repr(exc))
            peer.close()
        self._open[peer] = (conn, request, body)

    def _answer(self, peer: Peer, request: Any, body: bytes) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        asked = Asked(request.method.decode(), request.target.decode(), headers, body)
        self.asked.append(asked)
        answer = self.routes.get(asked.target.partition("?")[0], ok(b"no such page", status="404 Not Found"))
        if isinstance(answer, bytes):
            peer.send(answer)
        else:
            answer(peer, asked)


class ThenReads(Behaviour):
    """Gives its answer at once, and reads on until it has all of a request in one length."""

    def __init__(self, answer: bytes, rest: bytes = b"", size: int = SIZE) -> None:
        self.answer, self.rest, self.size = answer, rest, size
        self.taken = 0

    def received(self, peer: Peer, data: bytes) -> None:
        if not peer.turns:
            _, _, data = data.partition(b"\r\n\r\n")
            peer.turns = 1
            peer.send(self.answer)
        self.taken += len(data)
        if self.taken == self.size:
            peer.send(self.rest)
            peer.close()


def then_close(raw: bytes) -> Callable[[Peer, Asked], None]:
    def answer(peer: Peer, asked: Asked) -> None:
        peer.send(raw)
        peer.close()

    return answer


def then_reset(raw: bytes) -> Callable[[Peer, Asked], None]:
    def answer(peer: Peer, asked: Asked) -> None:
        peer.send(raw)
        peer.reset()

    return answer


def silent(peer: Peer, asked: Asked) -> None:
    """Say nothing."""


def once(first: Callable[[Peer, Asked], None], after: bytes) -> Callable[[Peer, Asked], None]:
    """Do something else at the first request of each connection's second turn."""

    def answer(peer: Peer, asked: Asked) -> None:
        peer.turns += 1
        if peer.turns > 1:
            first(peer, asked)
        else:
            peer.send(after)

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def get(mgr: ConnectionManager, server: Server, path: str = "/", **options: Any) -> bytes:
    async with http.request(mgr, "GET", url(server, path), **options) as response:
        return await response.read()
