"""A TLS server that goes on only when a test says so."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.sip.kit import until

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Handmade:
    """Takes one connection and its client hello; all else when it is told to.

    :ivar port: where it listens, on 127.0.0.1
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._conn: socket.socket | None = None
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._arrived, self._leaving, server_side=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._listener.close()

    async def greet(self) -> None:
        """Accept, take the client hello and answer it."""

        def accepted() -> bool:
            with suppress(BlockingIOError):
                self._conn = self._listener.accept()[0]
                self._conn.setblocking(False)
            return self._conn is not None

        await until(accepted)
        await until(lambda: self.go_on() and self._leaving.pending)
        self.flush()

    def go_on(self) -> bool:
        """Give what has arrived to the engine; say whether that was anything."""
        assert self._conn is not None, "greeted before"
        try:
            data = self._conn.recv(65536)
        except BlockingIOError:
            return False
        self._arrived.write(data)
        with suppress(ssl.SSLError):  # it wants more, or it refuses
            self._engine.do_handshake()
        return True

    async def judge(self) -> None:
        """Look at the client's certificate, and say so if it is not to be let in."""
        await until(self.go_on)
        self.flush()

    def say(self, data: bytes) -> None:
        """Send something."""
        self._engine.write(data)
        self.flush()

    def flush(self) -> None:
        """Send what the engine has made."""
        assert self._conn is not None, "greeted before"
        if self._leaving.pending:
            self._conn.sendall(self._leaving.read())

    def close(self) -> None:
        """Close the connection; with a reset, if not all that came was read."""
        if self._conn is not None:
            self._conn.close()
