"""Sockets on their way to an address."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING

from keepalive.base.addresses import family_of, target_of
from keepalive.base.failure import DialFailure
from keepalive.base.types import Phase
from keepalive.transport.link import Link

from .descriptors import DescriptorLine
from .happy_eyeballs import STAGGER
from .history import Failures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keepalive.base.addresses import Target
    from keepalive.transport.poller import Poller

    from .options import Option

PENDING = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)  # spares a system call, where it exists

_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; not every Python has a name for it


class NoSocket(OSError):
    """The system gives no further socket."""


class Connecting:
    """A socket on its way to one address.

    :ivar ready: it was known at once how it ends
    """

    __slots__ = ("_number", "_target", "link", "ready")

    def __init__(self, link: Link, target: Target, number: int) -> None:
        self.link = link
        self.ready = number not in PENDING
        self._target = target
        self._number = number

    def look(self) -> int | None:
        """Say how it went: 0 for a connection, an errno for a failure, None while that is open.

        It raises nothing: the frames behind an error are those of whoever made the poller look, and what
        they hold would live as long as the error.
        """
        number, sock = self._number, self.link.sock
        if number in PENDING:
            self._number = number = sock.connect_ex(self._target)
            if number in PENDING:
                return None
        if number not in (0, errno.EISCONN):
            return number
        # TCP's simultaneous open with itself: nobody listens there.
        return errno.ECONNREFUSED if self._target == sock.getsockname() else 0


class Net:
    """What all attempts of one manager share."""

    def __init__(
        self,
        poller: Poller,
        clock: Callable[[], float],
        bind_addresses: Mapping[int, tuple[str, int]] | None,
        stagger: float = STAGGER,
        *,
        make_room: Callable[[], bool] | None = None,
    ) -> None:
        """Take what they share. With `make_room` they wait for descriptors, see `DescriptorLine`."""
        self.poller = poller
        self.clock = clock
        self.bind_addresses = bind_addresses
        self.stagger = stagger
        self.failures = Failures()
        self.line = DescriptorLine(poller, make_room=make_room)

    def bound_to(self, bind_addresses: Mapping[int, tuple[str, int]]) -> Net:
        """Return the same with other local addresses."""
        other = copy(self)
        other.bind_addresses = bind_addresses
        return other

    def fitting(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Return those addresses that there is a local one for."""
        bound = self.bind_addresses
        if bound is None:
            return addresses
        return tuple(address for address in addresses if family_of(address) in bound)

    def reachable(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Leave out the families that no local address is given for, if one is given for the other."""
        fitting = self.fitting(addresses)
        if addresses and not fitting:
            bound = self.bind_addresses or {}
            host = " and ".join(host for host, _ in bound.values())
            raise DialFailure(Phase.BIND, errno.EAFNOSUPPORT, f"bind_address {host} is of the other family")
        return fitting

    def begin(self, address: str, port: int, options: Sequence[Option], *, eager: bool = True) -> Connecting:
        """Begin to connect to a literal address.

        :param eager: whether to look at once if it is there: that takes one more system call
        :raises OSError, DialFailure: it could not even be begun
        """
        family = family_of(address)
        target = target_of(address, port)
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | _NONBLOCK)
        except OSError as exc:
            raise NoSocket(exc.errno, exc.strerror) from exc
        try:
            if not _NONBLOCK:
                sock.setblocking(False)
            for level, name, value in options:
                sock.setsockopt(level, name, value)
            if self.bind_addresses is not None:
                _bind(sock, *self.bind_addresses[family])
            number = sock.connect_ex(target)
            if number in PENDING and eager:
                # One call more on the same socket tells its state, on all systems, and on loopback it finds
                # the connection made without a turn of the loop.
                number = sock.connect_ex(target)
            elif number and number not in PENDING:
                raise OSError(number, os.strerror(number))
            return Connecting(Link(sock, self.poller), target, number)
        except BaseException:
            sock.close()
            raise


def _bind(sock: socket.socket, host: str, port: int) -> None:
    try:
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif sys.platform == "linux":
            # The port is chosen by `connect`, which knows the target: one port serves many of them (ip(7)).
            with suppress(OSError):  # a kernel without it can still bind
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((host, port))
    except OSError as exc:
        number = None if isinstance(exc, socket.gaierror) else exc.errno  # an unknown zone has no errno
        raise DialFailure(Phase.BIND, number, f"bind to {host}, port {port}: {exc.strerror}") from exc
