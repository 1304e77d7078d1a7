"""A server that counts its sockets, as a backend does that takes only so many."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class CountingServer:
    """Echoes; in a thread of its own, so that what the test does never delays the count.

    :ivar open: sockets that are open now
    :ivar most: the most that were open at once
    :ivar accepted: all so far
    """

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.open = self.most = self.accepted = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.listener, selectors.EVENT_READ)
        self._end, self._ending = socket.socketpair()
        self._selector.register(self._ending, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._ending:
                    return
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    self._read(key.fileobj)

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        # Whoever closed before this one connected has been seen by the kernel: it counts as closed.
        for key, _ in self._selector.select(0):
            if key.fileobj is not self.listener and key.fileobj is not self._ending:
                self._read(key.fileobj)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)
        self.accepted += 1
        self.open += 1
        self.most = max(self.most, self.open)

    def _read(self, sock: object) -> None:
        assert isinstance(sock, socket.socket)
        if sock.fileno() < 0:
            return  # closed meanwhile, while another one was accepted
        try:
            data = sock.recv(4096)
            if data:
                sock.send(data)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            sock.close()
            self.open -= 1

    def close(self) -> None:
        self._end.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._end.close()


@contextmanager
def counting_server() -> Iterator[CountingServer]:
    server = CountingServer()
    try:
        yield server
    finally:
        server.close()
