"""A borrower as the agent sees it: the process at the other end of a channel."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from .core.records import Client

if TYPE_CHECKING:
    from .channel import Channel

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid; see unix(7)


@lru_cache(1024)
def groups_of(user: int, group: int) -> frozenset[int]:
    """Return the groups of a user, by the system's books; what a process has dropped is not seen."""
    try:
        return frozenset({group, *os.getgrouplist(pwd.getpwuid(user).pw_name, group)})
    except KeyError:
        return frozenset({group})


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return the process, user and group that have connected, as the kernel knows them."""
    pid, user, group = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return pid, user, group


class Peer:
    """One connected process.

    :ivar client: what the desk knows of it
    :ivar greeted: it has said what it speaks
    """

    __slots__ = ("channel", "client", "greeted", "group", "pid", "user")

    def __init__(self, channel: Channel, who: tuple[int, int, int], now: float) -> None:
        self.channel = channel
        self.pid, self.user, self.group = who
        self.client = Client(self, now)
        self.greeted = False

    def __repr__(self) -> str:
        return f"<process {self.pid} of user {self.user}>"
