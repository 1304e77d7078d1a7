"""What a TCP socket is set to before it connects."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keepalive.base import arguments as settings

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("SocketOptions",)

Option = tuple[int, int, int | bytes]
"""Level, name and value, as `socket.setsockopt` takes them."""

_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # macOS has the other name
_INTERVAL = getattr(socket, "TCP_KEEPINTVL", None)
_COUNT = getattr(socket, "TCP_KEEPCNT", None)
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
MOST_SECONDS = 32767
"""The most that Linux takes for the times of keep-alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOptions:
    """What the TCP sockets of a `TCPConnector` are set to, before they connect.

    With the defaults, a peer that has vanished without a word is noticed after two minutes, as long as
    nothing was sent to it. What a system does not know is left out.

    :ivar keepalive: seconds of silence until the kernel asks the peer whether it is there (TCP
        keep-alive, RFC 9293 3.8.4); None never asks
    :ivar interval: seconds between two questions
    :ivar count: unanswered questions after which the connection is dead
    :ivar no_delay: send small pieces at once (TCP_NODELAY)
    :ivar user_timeout: seconds that sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482); None
        leaves it to the kernel, some 15 minutes on Linux. Not set by default, since Linux also counts the
        time in which a peer is alive but does not read: connections that are merely held back would end
    :ivar more: further options as (level, name, value), set last
    :raises TypeError, ValueError: a value is wrong; the message names it
    """

    keepalive: float | None = 60
    interval: float = 15
    count: int = 4
    no_delay: bool = True
    user_timeout: float | None = None
    more: Sequence[Option] = field(default=())

    def __post_init__(self) -> None:
        """Check all values."""
        for name in ("keepalive", "interval"):
            value = getattr(self, name)
            if name == "interval" or value is not None:
                seconds = settings.seconds(name, value, none=None)
                if not 1 <= seconds <= MOST_SECONDS:
                    msg = f"{name} must be from 1 to {MOST_SECONDS} seconds, not {value!r}"
                    raise ValueError(msg)
        settings.whole("count", self.count, least=1, most=127)
        settings.flag("no_delay", self.no_delay)
        if settings.positive_seconds("user_timeout", self.user_timeout) < 0.001:
            msg = f"user_timeout must be at least 0.001 seconds, not {self.user_timeout!r}"
            raise ValueError(msg)
        settings.socket_options("more", self.more)

    def listed(self) -> tuple[Option, ...]:
        """Return them all as `socket.setsockopt` takes them."""
        tcp = socket.IPPROTO_TCP
        found: list[Option] = []
        if self.no_delay:
            found.append((tcp, socket.TCP_NODELAY, 1))
        if self.keepalive is not None:
            found.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
            for name, value in ((_IDLE, self.keepalive), (_INTERVAL, self.interval), (_COUNT, self.count)):
                if name is not None:
                    found.append((tcp, name, round(value)))
        if self.user_timeout is not None and _USER_TIMEOUT is not None:
            # The kernel has whole milliseconds in an int.
            found.append((tcp, _USER_TIMEOUT, round(min(self.user_timeout * 1000, 2**31 - 1))))
        return (*found, *self.more)


DEFAULTS = SocketOptions().listed()
