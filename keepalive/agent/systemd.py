"""What a service manager says to a service, and wants to hear: systemd's protocols, without its library."""

from __future__ import annotations

import os
import socket
import time

_FIRST = 3  # sd_listen_fds(3)


def activated() -> list[socket.socket]:
    """Return the listening Unix sockets that this process was started with (sd_listen_fds(3)).

    :raises OSError: what came is no such socket
    """
    mine = os.environ.get("LISTEN_PID") == str(os.getpid())
    count = int(os.environ.get("LISTEN_FDS", "0")) if mine else 0
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # they are not for the children
    found = []
    for number in range(_FIRST, _FIRST + count):
        os.set_inheritable(number, False)
        sock = socket.socket(fileno=number)
        if sock.family != socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            msg = f"descriptor {number} is not a listening Unix stream socket"
            raise OSError(msg)
        found.append(sock)
    return found


def notify(*lines: str) -> None:
    """Tell the service manager how this service is doing (sd_notify(3)); nobody, if there is none."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.sendall("\n".join(lines).encode())
        except OSError:
            pass  # it is not essential, and the manual says so


def now() -> str:
    """Return the line that says when a reload began."""
    return f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
