"""From HOST:PORTS on the command line to hosts and ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL = "1-1024"


class BadRange(ValueError):
    """An argument that names no hosts and ports; the text says why."""


@dataclass(frozen=True, slots=True)
class Span:
    """One host and ranges of its ports, in the order in which they were given."""

    host: str
    ports: tuple[range, ...]

    def __len__(self) -> int:
        return sum(map(len, self.ports))

    def __iter__(self) -> Iterator[int]:
        for numbers in self.ports:
            yield from numbers


def parse_span(text: str) -> Span:
    """Read HOST, HOST:PORTS, [IPV6] or [IPV6]:PORTS; PORTS is like 22,80,8000-8080. Raises `BadRange`."""
    if any(char.isspace() for char in text) or "\0" in text:
        raise BadRange(f"{text!r} contains white space or NUL")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadRange(f"{text!r}: an IPv6 address is written [ADDRESS]:PORTS")
        ports = rest[1:] if rest else USUAL
    elif text.count(":") > 1:
        host, ports = text, USUAL
    else:
        host, colon, ports = text.partition(":")
        ports = ports if colon else USUAL
    if not host:
        raise BadRange(f"{text!r} names no host")
    return Span(host, tuple(_range(text, part) for part in ports.split(",")))


def _range(text: str, part: str) -> range:
    first, dash, last = part.partition("-")
    numbers = []
    for word in (first, last if dash else first):
        if not (word.isascii() and word.isdecimal()) or len(word) > 5 or not 1 <= int(word) <= 65535:
            raise BadRange(f"{text!r}: {part!r} is no port, nor a range of ports, from 1 to 65535")
        numbers.append(int(word))
    if numbers[0] > numbers[1]:
        raise BadRange(f"{text!r}: {part!r} begins after its end")
    return range(numbers[0], numbers[1] + 1)
