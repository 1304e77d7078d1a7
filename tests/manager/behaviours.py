"""Servers for tests of streams."""

from __future__ import annotations

import hashlib

from tests.support import Behaviour, Peer


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
