"""Proxies in the test process, for what real ones do not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support import Behaviour, Peer
from tests.support.tunnel import Tunnel

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Sequence

    from tests.support import Server

OK = b"HTTP/1.1 200 Connection established\r\n\r\n"
SECRET = "sesame-7391"


class HttpProxy(Tunnel):
    """Relay every CONNECT to one server, and keep the heads that came."""

    def __init__(
        self, target: Server | Tunnel, *, tls: ssl.SSLContext | None = None, answer: bytes = OK
    ) -> None:
        super().__init__(target, tls=tls)
        self.heads: list[bytes] = []
        self.answer = answer

    async def _agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        return self.answer.startswith(OK[:12])


class Script(Behaviour):
    """Say the next thing whenever something has come, then send everything back; ``None`` hangs up."""

    def __init__(self, *lines: bytes | None) -> None:
        self.lines: Sequence[bytes | None] = lines
        self.heard: list[bytes] = []

    def received(self, peer: Peer, data: bytes) -> None:
        self.heard.append(data)
        line = self.lines[peer.turns] if peer.turns < len(self.lines) else data
        peer.turns += 1
        if line is None:
            peer.close()
        else:
            peer.send(line)


def head(line: str, **fields: Any) -> bytes:
    """Make the head of an answer."""
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode()
