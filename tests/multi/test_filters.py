"""Filters, as functions of bytes."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from keepalive.multi import BlockFilter, Filter, LengthFilter, LineFilter, StreamFilter, UnitError
from keepalive.multi.core.filters import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable


def units(codec: Filter, data: bytes, step: int) -> tuple[list[Any], bytes]:
    """Feed so many bytes at a time; give the units, and what is left."""
    buffer, found = bytearray(), []
    for at in range(0, len(data), step):
        buffer += data[at : at + step]
        while buffer and (unit := codec.decode(buffer)) is not None:
            found.append(unit)
    return found, bytes(buffer)


@pytest.mark.parametrize(
    ("codec", "data", "expected", "rest"),
    [
        (LineFilter(), b"a\nb\r\n\n\r\nc\rd\nrest", [b"a", b"b", b"", b"", b"c\rd"], b"rest"),
        (LineFilter(b"\r\n"), b"a\nb\r\n\r\nc\r", [b"a\nb", b""], b"c\r"),
        (LineFilter(b"--"), b"a-b--c---d", [b"a-b", b"c"], b"-d"),
        (LineFilter(max_size=3), b"abc\nabc\r\n", [b"abc", b"abc"], b""),
        (BlockFilter(3), b"abcdefgh", [b"abc", b"def"], b"gh"),
        (LengthFilter(1), b"\0\3abc\1", [b"", b"abc"], b"\1"),
        (LengthFilter(2), b"\0\2ab\0", [b"ab"], b"\0"),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_units_however_the_bytes_come(
    codec: Filter, data: bytes, expected: list[bytes], rest: bytes, step: int
) -> None:
    assert units(codec, data, step) == (expected, rest)


def test_stream() -> None:
    assert units(StreamFilter(), b"abcde", 2) == ([b"ab", b"cd", b"e"], b"")
    assert StreamFilter().encode(b"x") == b"x"


@pytest.mark.parametrize(
    "codec", [LineFilter(), LineFilter(b"\r\n"), BlockFilter(5), LengthFilter(1), LengthFilter(8)]
)
def test_what_is_encoded_is_decoded(codec: Filter) -> None:
    rng = random.Random(3)
    sent = [bytes(rng.choices(b"abc", k=5)) for _ in range(100)]
    assert units(codec, b"".join(map(codec.encode, sent)), 3) == (sent, b"")


@pytest.mark.parametrize(
    ("codec", "unit", "number"),
    [
        (LineFilter(), b"a\nb", 74),
        (LineFilter(max_size=2), b"abc", 90),
        (BlockFilter(2), b"a", 74),
        (BlockFilter(2), b"abc", 90),
        (LengthFilter(1), bytes(256), 90),
        (LengthFilter(max_size=9), bytes(10), 90),
    ],
)
def test_refused(codec: Filter, unit: bytes, number: int) -> None:
    with pytest.raises(UnitError) as caught:
        codec.encode(unit)
    assert caught.value.number == number
    assert str(len(unit)) in str(caught.value) or repr(unit) in str(caught.value)


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (LineFilter(max_size=3), b"abcde"),
        (LineFilter(max_size=3), b"abcd\n"),
        (LineFilter(b"||", max_size=3), b"abcde"),
        (LengthFilter(2, max_size=3), b"\0\4"),
    ],
)
def test_too_long_is_told_before_it_is_there(codec: Filter, data: bytes) -> None:
    with pytest.raises(UnitError, match="limit is 3"):
        codec.decode(bytearray(data))


@pytest.mark.parametrize("codec", [LineFilter(), BlockFilter(1), LengthFilter(), StreamFilter()])
@pytest.mark.parametrize("unit", ["text", None, 5, [b"x"]])
def test_only_bytes(codec: Filter, unit: Any) -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        codec.encode(unit)


def test_arguments() -> None:
    makers: list[tuple[Any, tuple[Any, ...], str]] = [
        (LineFilter, ("\n",), "newline"), (LineFilter, (b"",), "newline"), (BlockFilter, (0,), "size"),
        (BlockFilter, (1.5,), "size"), (LengthFilter, (0,), "prefix"), (LengthFilter, (9,), "prefix"),
        (LengthFilter, (True,), "prefix"),
    ]  # fmt: skip
    for maker, args, name in makers:
        with pytest.raises((TypeError, ValueError), match=name):
            maker(*args)
    with pytest.raises(ValueError, match="max_size"):
        LineFilter(max_size=0)


def seconds_for(codec: Filter, buffer: bytearray, size: int, step: int) -> float:
    """Feed a line of this size in such pieces; return how long the filter has taken."""
    piece, taken = b"x" * step, 0.0
    for _ in range(size // step):
        buffer += piece
        started = time.thread_time()
        assert codec.decode(buffer) is None
        taken += time.thread_time() - started
    buffer += b"end\n"
    assert len(codec.decode(buffer) or b"") == size // step * step + 3
    assert not buffer
    return taken


@pytest.mark.parametrize("kind", [bytearray, Inbox])
def test_long_lines_take_no_longer_than_they_are_long(kind: type[bytearray]) -> None:
    """Searching 32 MB from the beginning for each of 32768 pieces reads 550 GB: ten seconds at best."""
    assert seconds_for(LineFilter(max_size=1 << 30), kind(), 32 << 20, 1024) < 2.0


@pytest.mark.parametrize("kind", [bytearray, Inbox])
def test_end_of_line_that_comes_in_parts(kind: type[bytearray]) -> None:
    codec, buffer = LineFilter(b"--|"), kind()
    for piece in (b"a-", b"-", b"x--", b"-"):
        buffer += piece
        assert codec.decode(buffer) is None
    buffer += b"-|b"
    assert codec.decode(buffer) == b"a--x--"
    assert bytes(buffer) == b"b"


@pytest.mark.parametrize("kind", [bytearray, Inbox])
def test_filter_that_others_use_meanwhile_misses_nothing(kind: type[bytearray]) -> None:
    codec, other = LineFilter(), kind(b"other\n")
    buffer = kind(b"abcdefgh")
    assert codec.decode(buffer) is None
    assert codec.decode(other) == b"other"
    assert codec.decode(buffer) is None
    del buffer[:4]
    buffer += b"\n"
    assert codec.decode(buffer) == b"efgh"


@pytest.mark.parametrize(
    "change",
    [
        lambda buffer: buffer.__delitem__(slice(0, 4)),
        lambda buffer: buffer.__setitem__(slice(0, 4), b""),
        lambda buffer: [buffer.pop(0) for _ in range(4)],
        lambda buffer: [buffer.remove(ord(char)) for char in "abcd"],
        lambda buffer: (buffer.clear(), buffer.extend(b"efgh")),
        lambda buffer: (buffer.clear(), [buffer.insert(0, ord(char)) for char in "hgfe"]),
    ],
)  # fmt: skip
def test_whatever_takes_bytes_out_in_between(change: Callable[[bytearray], object]) -> None:
    """A filter around another one takes telnet commands out, for example; then other bytes come."""
    codec, buffer = LineFilter(), Inbox(b"abcdefgh")
    assert codec.decode(buffer) is None
    change(buffer)
    buffer += b"\nmore"
    assert codec.decode(buffer) == b"efgh"
    assert codec.decode(buffer) is None
    buffer += b"\n"
    assert codec.decode(buffer) == b"more"
