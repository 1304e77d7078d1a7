"""A tiny HTTP/1.1 origin; the path says what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.peer import Behaviour, Peer

if TYPE_CHECKING:
    from collections.abc import Mapping

BODY = b"hello"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent for one request; ``close`` ends the connection afterwards."""

    raw: bytes
    close: bool = False


def answer(
    body: bytes = BODY, *, status: str = "200 OK", version: str = "1.1", extra: str = "", close: bool = False
) -> Answer:
    """Build an answer with a content-length."""
    head = f"HTTP/{version} {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return Answer(head.encode() + body, close)


ROUTES: Mapping[str, Answer | None] = {
    "/": answer(),
    "/missing": answer(b"no such page", status="404 Not Found"),
    "/broken": answer(b"oh", status="500 Internal Server Error"),
    "/empty": Answer(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "/close": answer(extra="Connection: close\r\n", close=True),
    "/http10": answer(version="1.0", close=True),
    "/http10-keep": answer(version="1.0", extra="Connection: keep-alive\r\n"),
    "/to-the-end": Answer(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, close=True),
    "/chunked": Answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n"
    ),
    "/hint": Answer(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer().raw),
    "/moved": answer(b"", status="301 Moved Permanently", extra="Location: /\r\n"),
    "/extra": Answer(answer().raw + b"unasked for"),
    "/short": answer(b"x" * 10, extra="X-Note: cut below\r\n", close=True),
    "/garbage": Answer(b"220 mail.example ESMTP ready\r\n", close=True),
    "/nothing": Answer(b"", close=True),
    "/never": None,
}


class HttpOrigin(Behaviour):
    """Serve ``ROUTES``; unknown paths get a 404.

    :param stale: connections are closed unannounced when their second request comes.
    """

    def __init__(self, routes: Mapping[str, Answer | None] = ROUTES, *, stale: bool = False) -> None:
        self.routes = routes
        self.stale = stale
        self.requests: list[tuple[str, dict[str, str]]] = []

    def received(self, peer: Peer, data: bytes) -> None:
        peer.inbox += data
        while b"\r\n\r\n" in peer.inbox and not peer.closed:
            head, _, rest = bytes(peer.inbox).partition(b"\r\n\r\n")
            peer.inbox[:] = rest
            self._serve(peer, head.decode("latin-1"))

    def _serve(self, peer: Peer, head: str) -> None:
        peer.turns += 1
        if self.stale and peer.turns > 1:
            peer.close()
            return
        first, *lines = head.split("\r\n")
        path = first.split(" ")[1]
        self.requests.append((path, dict(line.lower().split(": ", 1) for line in lines)))
        found = self.routes.get(path.partition("?")[0], self.routes.get("/missing"))
        if found is not None:
            peer.send(found.raw[:-3] if path == "/short" else found.raw)
            if found.close:
                peer.close()
