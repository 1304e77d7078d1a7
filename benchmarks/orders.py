"""What goes between the process that plans and the processes that measure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

# point (N, K, or 0 where there is only one) -> metric -> value
Figures: TypeAlias = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Site:
    """Where the servers of this run listen."""

    port: int
    hold_port: int
    control_port: int
    tls_port: int
    ticket_port: int
    echo_port: int
    sink_port: int
    redis_port: int
    hosts_port: int  # on all addresses of this machine
    proxy_port: int
    dns_port: int
    ca_file: str
    server: str
    reply_size: int


@dataclass(frozen=True)
class Order:
    """One measurement, to be made by a fresh process."""

    workload: str
    contender: str
    budget: float
    points: tuple[int, ...]
    patience: float
    core: int | None
    site: Site

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        fields = json.loads(text)
        fields["site"] = Site(**fields["site"])
        fields["points"] = tuple(fields["points"])
        return cls(**fields)


@dataclass(frozen=True)
class Setup:
    """What a contender is to be set up for."""

    addr: str
    port: int
    scheme: str = "http"
    limit: int = 8
    total: int = 1024
    path: str = ""
    content: bytes | None = None
    proxy: str | None = None
    window: int = 512  # of fan-out: attempts at once

    @property
    def home(self) -> str:
        return f"{self.scheme}://{self.addr}:{self.port}/"

    @property
    def url(self) -> str:
        return self.home + self.path

    @property
    def method(self) -> str:
        return "GET" if self.content is None else "POST"

    def at(self, addr: str) -> Setup:
        return replace(self, addr=addr)


BIG = 100_000_000
"""Bytes of what is downloaded and uploaded."""


JSON = b'{"items": [%s]}' % b", ".join(b'{"id": %d, "name": "item %d"}' % (n, n) for n in range(310))
"""10 KB that are asked for."""
NO_LIMITS, EACH, TOTAL = 0, 5, 30
"""Time limits in seconds: none; so many for each step (httpx's default); so many in all."""


def loopback(index: int) -> str:
    """Give the index-th of the many addresses that all are this machine: one key each."""
    return f"127.1.{index // 250}.{index % 250 + 1}"


def figures_to_json(figures: Figures) -> str:
    return json.dumps({str(point): metrics for point, metrics in figures.items()})


def figures_from_json(text: str) -> Figures:
    return {int(point): metrics for point, metrics in json.loads(text).items()}
