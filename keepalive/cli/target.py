"""A URL on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from keepalive.http import parse_url


@dataclass(frozen=True, slots=True)
class Target:
    """One URL that can be asked for."""

    url: str
    scheme: str


def parse(url: str) -> Target:
    """Read a URL; raises `keepalive.http.InvalidURL`."""
    return Target(url, parse_url(url).scheme)
