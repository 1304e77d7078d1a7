"""What test servers do with their peers, HTTP apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tests.support.peer import Behaviour, Peer

if TYPE_CHECKING:
    from collections.abc import Callable


class Silent(Behaviour):
    """Read everything, say nothing; without TLS it is also a server that never answers a client hello."""


class Deaf(Behaviour):
    """Read nothing, so that the sender feels back-pressure."""

    def opened(self, peer: Peer) -> None:
        peer.pause()


class Echo(Behaviour):
    """Send back what comes."""

    def received(self, peer: Peer, data: bytes) -> None:
        peer.send(data)


class Greeting(Echo):
    """Send a banner at once, as a mail or an FTP server does, then echo."""

    def __init__(self, banner: bytes = b"220 ready\r\n") -> None:
        self.banner = banner

    def opened(self, peer: Peer) -> None:
        peer.send(self.banner)


class Lines(Behaviour):
    """Answer each line; ``quit`` gets ``bye`` and a FIN, everything else what ``answer`` makes of it."""

    def __init__(self, answer: Callable[[bytes], bytes] = bytes.upper) -> None:
        self.answer = answer

    def received(self, peer: Peer, data: bytes) -> None:
        peer.inbox += data
        while b"\n" in peer.inbox and not peer.closed:
            line, _, rest = bytes(peer.inbox).partition(b"\n")
            peer.inbox[:] = rest
            peer.turns += 1
            if line == b"quit":
                peer.send(b"bye\n")
                peer.close()
            else:
                peer.send(self.answer(line) + b"\n")


class Parting(Echo):
    """Echo so many chunks, then close: at once, or only when the next one comes (a stale keep-alive)."""

    def __init__(self, after: int = 1, *, at_once: bool = True) -> None:
        self.after = after
        self.at_once = at_once

    def received(self, peer: Peer, data: bytes) -> None:
        if peer.turns == self.after:
            peer.close()
            return
        peer.turns += 1
        peer.send(data)
        if self.at_once and peer.turns == self.after:
            peer.close()


class Flood(Behaviour):
    """Send so many bytes at once, as fast as they are taken."""

    def __init__(self, size: int) -> None:
        self.data = b"0123456789abcdef" * (size // 16)
        self.peers: list[Peer] = []

    def opened(self, peer: Peer) -> None:
        self.peers.append(peer)
        peer.send(self.data)

    def taken(self) -> int:
        """How many bytes the kernel has taken for the first peer."""
        return len(self.data) - self.peers[0].unsent


class Sum(Behaviour):
    """Read to the end, then answer with the number of bytes and their hash, and close."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.hash = hashlib.sha256()

    def received(self, peer: Peer, data: bytes) -> None:
        self.hash.update(data)

    def ended(self, peer: Peer) -> None:
        peer.send(b"%d %s\n" % (peer.received, self.hash.hexdigest().encode()) + self.answer)
        peer.close()
