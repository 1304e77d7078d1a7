"""Small parts of the shell: what the poller rings, who waits for a name, local addresses."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from keepalive.base.failure import DialFailure
from keepalive.base.types import Phase
from keepalive.connect.sockets import _bind

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.addresses import BindAddresses
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Cancellable

    from .desk import Desk
    from .peer import Peer
    from .shell import Shell


class Bell:
    """Stands in `Link.writer`, where the poller looks for a parked task, and calls back instead."""

    __slots__ = ("_link", "_peer", "_shell")

    def __init__(self, shell: Shell, peer: Peer, link: Link) -> None:
        self._shell = shell
        self._peer = peer
        self._link = link

    def done(self) -> bool:
        """Say whether it was woken."""
        return self._link.closed

    def set_result(self, result: None, /) -> None:
        """Send: there is room."""
        self._link.writer = None
        self._shell.desk.writable(self._peer)

    def __await__(self) -> Any:
        raise NotImplementedError  # no task parks here


class Knock(Bell):
    """The same for an attempt."""

    __slots__ = ("_address", "_harvest")

    def __init__(self, shell: Shell, peer: Peer, link: Link, address: str) -> None:
        self._shell = shell
        self._peer = peer
        self._link = link
        self._address = address
        self._harvest = shell.harvests

    def set_result(self, result: None, /) -> None:
        """Look at the outcome of the attempt."""
        if self._harvest == self._shell.harvests:
            # This event was taken from the kernel before the attempt began: it is the former owner's of
            # the same descriptor.
            self._link.hung = False
            return
        self._link.writer = None
        self._shell.answered(self._peer, self._link, self._address)


class Question:
    """A look-up of one name, and the peers that wait for it."""

    __slots__ = ("answer", "peers", "task")

    def __init__(self) -> None:
        self.peers: dict[Peer, None] = {}
        self.answer: tuple[str, ...] | DialFailure | None = None
        self.task: Cancellable | None = None


class Borrowed:
    """Places for the addresses of a host that are tried side by side; see `Dial`.

    They are not called back: a race is soon over.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def borrow(self, recall: Callable[[], None]) -> bool:
        """Take one place more, if there is one."""
        return self._desk.borrow()

    def repay(self) -> None:
        """Give one back."""
        self._desk.freed()


def bind_local(sock: socket.socket, bound: BindAddresses) -> None:
    """Bind a socket to the local address of its family."""
    local = bound.get(sock.family)
    if local is None:
        raise other_family(bound)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind(sock, *local)


def other_family(bound: BindAddresses) -> DialFailure:
    """Say that there is no local address of the right family."""
    host = " and ".join(host for host, _ in bound.values())
    return DialFailure(Phase.BIND, errno.EAFNOSUPPORT, f"bind_address {host} is of the other family")
