"""Filters: from bytes to units and back. Pure.

The bytes that have come and are not yet a unit belong to the peer, not to its filter: a filter takes one
unit at a time from the front of that buffer and leaves the rest. So whatever a filter has not used is
there for the one that takes its place.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from keepalive.errors import KeepaliveError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("BlockFilter", "Filter", "LengthFilter", "LineFilter", "StreamFilter", "UnitError")

LONGEST_LINE = 65536
LONGEST = 1024 * 1024
"""Bytes that a unit may have unless the filter is told otherwise."""


class UnitError(KeepaliveError, ValueError):
    """A unit that a filter refuses, to be sent or as it came.

    :ivar number: an errno: ``EMSGSIZE`` for one over the limit, ``EBADMSG`` for any other fault
    """

    def __init__(self, text: str, number: int = errno.EBADMSG) -> None:
        super().__init__(text)
        self.number = number


@runtime_checkable
class Filter(Protocol):
    """What a filter must be able to do. One instance serves one peer, in either direction or both."""

    def decode(self, buffer: bytearray) -> Any:
        """Remove one unit from the front of the buffer and return it; None if it is not whole yet.

        Called again and again while the buffer is not empty, so it must not keep whole units to itself; and
        one that gives a unit but leaves the buffer as long as it was would be called for ever: that ends
        the peer ("decode", 0).

        :raises UnitError: what is there is no unit, or one over the limit; it ends the peer
        """

    def encode(self, unit: Any) -> bytes:
        """Return the bytes of one unit.

        :raises UnitError: it is refused; nothing is sent
        """


def octets(unit: object) -> bytes:
    """Check that a unit is bytes, or make it so."""
    if isinstance(unit, bytes):
        return unit
    if isinstance(unit, (bytearray, memoryview)):
        return bytes(unit)
    msg = f"a unit for this filter must be bytes, not {unit!r:.80}"
    raise TypeError(msg)


def limit(name: str, value: object, most: int | None = None) -> int:
    """Check a number of bytes, at least one."""
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if value < 1 or (most is not None and value > most):
        msg = f"{name} must be at least 1{'' if most is None else f' and at most {most}'}, not {value!r}"
        raise ValueError(msg)
    return value


def _separator(newline: object) -> bytes:
    if not isinstance(newline, bytes):
        msg = f"newline must be bytes, not {newline!r}"
        raise TypeError(msg)
    if not newline:
        msg = "newline must not be empty"
        raise ValueError(msg)
    return newline


def _counted(change: Callable[..., Any]) -> Any:
    """Make of a method that takes something out, or changes it, one that is counted."""

    def counted(inbox: Inbox, *args: Any) -> Any:
        inbox.changes += 1
        return change(inbox, *args)

    return counted


class Inbox(bytearray):
    """What has come for a peer and is no unit yet. It counts how often something was taken out or changed.

    So a filter can tell whether what it has looked at is still there, whoever else takes from it: another
    filter that had its place for a while, or one that is wrapped around it.
    """

    __slots__ = ("changes",)

    changes: int

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(data)
        self.changes = 0

    __delitem__ = _counted(bytearray.__delitem__)
    __setitem__ = _counted(bytearray.__setitem__)
    clear = _counted(bytearray.clear)
    insert = _counted(bytearray.insert)
    pop = _counted(bytearray.pop)
    remove = _counted(bytearray.remove)
    reverse = _counted(bytearray.reverse)


def _changes(buffer: bytearray) -> int:
    return buffer.changes if isinstance(buffer, Inbox) else 0


class LineFilter:
    r"""Lines, without their ends. Units are bytes.

    :param newline: what ends a line. With ``b"\n"``, a ``b"\r"`` before it is taken off what comes
    :param max_size: bytes of the longest line, its end not counted
    """

    __slots__ = ("_max_size", "_newline", "_searched")

    def __init__(self, newline: bytes = b"\n", *, max_size: int = LONGEST_LINE) -> None:
        # The buffer that had no end of line in it the last time, its changes until then, and its size: a
        # long line that comes in small pieces is not searched from its beginning for each of them.
        self._searched: tuple[bytearray, int, int] | None = None
        self._newline = _separator(newline)
        self._max_size = limit("max_size", max_size)

    def decode(self, buffer: bytearray) -> bytes | None:
        """Take one line."""
        newline = self._newline
        searched, start = self._searched, 0
        if searched is not None and searched[0] is buffer and searched[1] == _changes(buffer):
            start = max(0, searched[2] - len(newline) + 1)
            if len(buffer) < searched[2]:
                start = 0  # a plain one does not count
        at = buffer.find(newline, start)
        if at < 0:
            # The last bytes may be the beginning of the line's end, or its b"\r".
            size = len(buffer) - len(newline) + (newline != b"\n")
            if size > self._max_size:
                raise self._too_long(size)
            self._searched = buffer, _changes(buffer), len(buffer)
            return None
        self._searched = None
        end = at - 1 if newline == b"\n" and at and buffer[at - 1] == 13 else at
        if end > self._max_size:
            raise self._too_long(end)
        line = bytes(buffer[:end])
        del buffer[: at + len(newline)]
        return line

    def _too_long(self, size: int) -> UnitError:
        return UnitError(f"a line of at least {size} bytes; the limit is {self._max_size}", errno.EMSGSIZE)

    def encode(self, unit: bytes) -> bytes:
        """Add the end to a line."""
        line = unit if type(unit) is bytes else octets(unit)
        if len(line) > self._max_size:
            raise self._too_long(len(line))
        if self._newline in line:
            msg = f"a line with an end of line in it: {line!r:.80}"
            raise UnitError(msg)
        return line + self._newline


class BlockFilter:
    """Blocks of a fixed size. Units are bytes.

    :param size: bytes of a block
    """

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        self._size = limit("size", size)

    def decode(self, buffer: bytearray) -> bytes | None:
        """Take one block."""
        size = self._size
        if len(buffer) < size:
            return None
        block = bytes(buffer[:size])
        del buffer[:size]
        return block

    def encode(self, unit: bytes) -> bytes:
        """Check the size of a block."""
        block = octets(unit)
        if len(block) != self._size:
            number = errno.EMSGSIZE if len(block) > self._size else errno.EBADMSG
            raise UnitError(f"a block of {len(block)} bytes; blocks here have {self._size}", number)
        return block


class LengthFilter:
    """Units that follow their length, a big-endian number. Units are bytes.

    :param prefix: bytes of that number, 1 to 8
    :param max_size: bytes of the longest unit, its length not counted
    """

    __slots__ = ("_max_size", "_prefix")

    def __init__(self, prefix: int = 4, *, max_size: int = LONGEST) -> None:
        self._prefix = limit("prefix", prefix, 8)
        self._max_size = min(limit("max_size", max_size), 256**prefix - 1)

    def decode(self, buffer: bytearray) -> bytes | None:
        """Take one unit."""
        start = self._prefix
        if len(buffer) < start:
            return None
        size = int.from_bytes(buffer[:start], "big")
        if size > self._max_size:
            raise self._too_long(size)
        end = start + size
        if len(buffer) < end:
            return None
        unit = bytes(buffer[start:end])
        del buffer[:end]
        return unit

    def _too_long(self, size: int) -> UnitError:
        return UnitError(f"a unit of {size} bytes; the limit is {self._max_size}", errno.EMSGSIZE)

    def encode(self, unit: bytes) -> bytes:
        """Put the length before a unit."""
        data = octets(unit)
        if len(data) > self._max_size:
            raise self._too_long(len(data))
        return len(data).to_bytes(self._prefix, "big") + data


class StreamFilter:
    """No units: bytes as they come. A unit is whatever was there."""

    __slots__ = ()

    def decode(self, buffer: bytearray) -> bytes | None:
        """Take all there is."""
        if not buffer:
            return None
        data = bytes(buffer)
        buffer.clear()
        return data

    def encode(self, unit: bytes) -> bytes:
        """Give back what was given."""
        return octets(unit)
