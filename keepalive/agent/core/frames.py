"""Where one message ends and the next begins: four bytes of length (most significant first), the message."""

from __future__ import annotations

HEAD = 4


class TooLong(ValueError):
    """The other side announces a message that is longer than any it may send."""


class Frames:
    """Cuts a stream of bytes into messages.

    :param most: the longest message that is taken, in bytes; what a stranger announces reserves nothing
    """

    __slots__ = ("_most", "rest")

    def __init__(self, most: int) -> None:
        self._most = most
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in; return the messages that are complete by now.

        :raises TooLong: a message is longer than it may be, or empty
        """
        if self.rest:
            data = self.rest + data
        found, at, size = [], 0, len(data)
        while size - at >= HEAD:
            length = int.from_bytes(data[at : at + HEAD])
            if not 0 < length <= self._most:
                msg = f"a message of {length} bytes; at most {self._most} are taken"
                raise TooLong(msg)
            if size - at < HEAD + length:
                break
            found.append(data[at + HEAD : at + HEAD + length])
            at += HEAD + length
        self.rest = data[at:]
        return found


def framed(message: bytes) -> bytes:
    """Put the length before a message."""
    return len(message).to_bytes(HEAD) + message
