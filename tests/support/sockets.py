"""Addresses that do not answer as a server does."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def refused_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Give a port that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket(_family(host)) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()[1]


@contextmanager
def refused_path(folder: Path) -> Iterator[str]:
    """Give the path of a Unix socket that nobody listens on."""
    path = str(folder / "refused.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        yield path


class Backlog:
    """A listener whose queue is full: the kernel answers no further SYN, so connecting hangs."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.host, self.port = listener.getsockname()[:2]

    def drain(self, stack: ExitStack) -> None:
        """Make room; a hanging connect goes on at its next SYN, about a second after its first."""
        self._listener.listen(128)
        self._listener.setblocking(False)
        while True:
            try:
                stack.enter_context(self._listener.accept()[0])
            except BlockingIOError:
                return


def fill(listener: socket.socket, stack: ExitStack, hanging: int = 1) -> None:
    """Fill the queue of a listener that has room for one, and let some connects hang at it.

    The kernel may do its part of a connect later, on a busy machine: whoever came before the first one
    is in the queue would not hang, and whoever counts hanging sockets would count one too many.
    """
    address = listener.getsockname()
    first = stack.enter_context(socket.socket(listener.family))
    first.settimeout(PATIENCE)
    first.connect(address)
    assert select.select([listener], [], [], PATIENCE)[0], "nobody is in the queue"
    for _ in range(hanging):
        client = stack.enter_context(socket.socket(listener.family))
        client.setblocking(False)
        client.connect_ex(address)
        if select.select([], [client], [], 0.05)[1]:
            raise RuntimeError("this kernel's queue for new connections does not fill up")


@contextmanager
def full_backlog(host: str = "127.0.0.1") -> Iterator[Backlog]:
    """Give a listener that lets every connection attempt hang."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(_family(host)))
        listener.bind((host, 0))
        listener.listen(0)
        fill(listener, stack)
        yield Backlog(listener)


def has_ipv6() -> bool:
    """Tell whether this machine has an IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
