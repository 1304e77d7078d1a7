"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.orders import EACH, NO_LIMITS, TOTAL


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    what: str
    # The ratios' denominator: the first of these that was measured, at each point.
    floors: tuple[str, ...]
    points: tuple[int, ...] = (0,)
    quick_points: tuple[int, ...] = (0,)
    axis: str = ""
    unit: str = "µs"
    rounds: int = 5
    budget: float = 0.3
    # Ports of the site that must be there.
    needs: tuple[str, ...] = ()
    log: bool = False
    # What the points are, where numbers do not say it.
    labels: tuple[str, ...] = ()
    # Of a part beside the manager (HTTP, SIP, multi): measured when it is named, or with "all".
    beside: bool = False
    # Further metrics worth a column: name, heading, divisor, decimals.
    extras: tuple[tuple[str, str, float, int], ...] = ()
    # One of those of users: "users" names them all.
    users: bool = False

    def label(self, point: int) -> str:
        if self.labels:
            return self.labels[self.points.index(point)]
        return f"{self.axis} = {point:,}"


def _limited(name: str, title: str, what: str, **more: Any) -> Workload:
    """Make one of HTTP that is measured with each kind of time limits."""
    points = (NO_LIMITS, EACH, TOTAL)
    return Workload(
        name, title, what, points=points, quick_points=points, beside=True, users=True,
        labels=("no limits", f"{EACH} s for each step", f"{TOTAL} s in all"),
        **{"floors": ("Go net/http",), "rounds": 3, "budget": 0.2, **more},
    )  # fmt: skip


_EXTRAS = (("cpu", "µs of processor", 1, 1), ("longest/mean", "longest wait / mean", 1, 1))
USERS = (
    _limited("limits-1", "HTTP, 1 task", "GET of 13 bytes, with and without time limits"),
    _limited("limits-64", "HTTP, 64 tasks on 8 connections", "GET of 13 bytes, with and without time limits",
             extras=(*_EXTRAS, ("starved", "starved of 64", 1, 0))),
    _limited("limits-5000", "HTTP, 5,000 tasks on 8 connections",
             "GET of 13 bytes, with and without time limits", rounds=2),
    _limited("limits-download", "HTTP, download", "100 MB, thrown away, with and without time limits",
             unit="ms"),
    _limited("limits-upload", "HTTP, upload", "100 MB of memory, with and without time limits", unit="ms"),
    _limited("tls-64", "HTTPS, 64 tasks on 8 connections", "GET of 13 bytes over TLS 1.3, connections warm",
             needs=("tls_port",), extras=_EXTRAS),
    _limited("tls-download", "HTTPS, download", "100 MB over TLS 1.3, thrown away", unit="ms",
             needs=("tls_port",)),
    _limited("json-64", "HTTP, JSON, 64 tasks on 8 connections", "GET of 10 KB of JSON, read but not parsed",
             extras=_EXTRAS),
    _limited("post-64", "HTTP, POST, 64 tasks on 8 connections", "POST of 1 KB, 13 bytes come back",
             extras=_EXTRAS),
    _limited("proxy-64", "HTTPS through a proxy, 64 tasks on 8 connections",
             "GET of 13 bytes over TLS 1.3 in warm tunnels through tinyproxy",
             needs=("tls_port", "proxy_port"), extras=_EXTRAS),
    Workload(
        "many-hosts", "Many hosts, 64 tasks, 100 connections in all",
        f"GET of 13 bytes from random hosts, {EACH} s for each step; cold: 200 hosts, every exchange closes",
        floors=("Go net/http",), points=(0, 200, 1_000), quick_points=(0, 200, 1_000), rounds=3, budget=0.2,
        labels=("cold", "200 hosts", "1,000 hosts"), extras=_EXTRAS, beside=True, users=True,
    ),
    Workload(
        "names", "1,000 cold names", f"asked of dnsmasq, 100 at a time, {EACH} s to answer; time per name",
        floors=("pycares:asyncio",), needs=("dns_port",), rounds=3, beside=True, users=True,
        extras=(("held", "loop held, ms", 1, 1),),
    ),
    Workload(
        "fan-out-at-once", "Fan-out, all asked for at once",
        "N connections to one echo server, none waits for its turn, a line each way, all stay open",
        beside=True, users=True, floors=("plain epoll",), points=(1_000, 5_000, 10_000),
        quick_points=(1_000,), axis="N", rounds=3,
        log=True, extras=(("bytes", "KB per connection", 1024, 2), ("cpu", "µs of processor", 1, 1)),
    ),
)  # fmt: skip

WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "warm", "Warm cycle", "allocate, await, release: one warm connection, one task",
        floors=("dict+deque", "futures floor:asyncio"), log=True,
    ),
    Workload(
        "exchange-1", "Exchange, 1 task", "GET of 13 bytes over a pooled connection, one task",
        floors=("loop.sock_*:asyncio", "blocking socket"),
    ),
    Workload(
        "exchange-64", "Exchange, 64 tasks on 8 connections", "GET of 13 bytes, time per exchange",
        floors=("wrk", "asyncio Protocol:uvloop", "loop.sock_*:asyncio"), log=True,
        extras=(("longest/mean", "longest wait / mean", 1, 1), ("starved", "starved of 64", 1, 0)),
    ),
    Workload(
        "exchange-5000", "Exchange, 5,000 tasks on 8 connections", "GET of 13 bytes, time per exchange",
        beside=True, floors=("Go net/http",), rounds=2, log=True,
    ),
    Workload(
        "download", "Download", "100 MB from a file, thrown away",
        beside=True, floors=("Go net/http",), unit="ms", rounds=3,
    ),
    Workload(
        "upload", "Upload", "100 MB of memory to a server that throws them away",
        beside=True, floors=("Go net/http",), unit="ms", rounds=3,
    ),
    Workload(
        "contention", "Contention", "N tasks want one of 8 connections; time per task, its start included",
        floors=("futures floor:asyncio",), points=(100, 1_000, 10_000, 50_000), quick_points=(100, 1_000),
        axis="N", rounds=3, log=True,
    ),
    Workload(
        "keys", "Many keys", "warm cycle over K keys in turn, one idle connection each",
        floors=("futures floor:asyncio",), points=(1, 10, 100, 1_000, 4_000), quick_points=(1, 10, 1_000),
        axis="K", rounds=3, budget=0.15, log=True,
        extras=(("bytes", "KB per idle connection", 1024, 1),),
    ),
    Workload(
        "cold-tcp", "Cold connect, TCP", "open and close",
        floors=("loop.sock_*:asyncio", "blocking socket"),
    ),
    Workload(
        "cold-tls", "Cold connect, TLS 1.3", "open and close, full handshake",
        floors=("blocking socket",), needs=("tls_port",),
    ),
    Workload(
        "cold-resumed", "Cold connect, TLS 1.3 with tickets",
        "open, one exchange, close; the server hands out tickets",
        floors=("blocking socket",), needs=("tls_port",),
    ),
    Workload(
        "watch", "Watch", "a tenth of 10,000 idle connections is closed by the peer: until all are closed",
        floors=("idle transports:asyncio",), points=(10_000,), quick_points=(1_000,), unit="ms", rounds=2,
        extras=(("closed", "noticed", 1, 0), ("idle_cpu_percent", "CPU while idle, %", 1, 2)),
    ),
    Workload(
        "redis-64", "Redis, 64 tasks on 8 connections", "GET of 13 bytes, time per command",
        beside=True, floors=("redis-py:asyncio",),
        extras=(("cpu", "µs of processor", 1, 1), ("longest/mean", "longest wait / mean", 1, 1),
                ("starved", "starved of 64", 1, 0)),
    ),
    Workload(
        "redis-shared", "Redis, 64 tasks on 1 connection", "GET of 13 bytes, time per command",
        beside=True, floors=("redis-py, one connection:asyncio",),
        extras=(("cpu", "µs of processor", 1, 1), ("longest/mean", "longest wait / mean", 1, 1),
                ("starved", "starved of 64", 1, 0)),
    ),
    Workload(
        "sip", "SIP over TCP", "OPTIONS of 300 bytes from 1,000 peers in turn, raw; time per message",
        beside=True, floors=("cut at empty lines:asyncio",), points=(1_000,), quick_points=(100,), rounds=2,
        extras=(("rate", "messages/s", 1, 0), ("parsed_rate", "parsed, messages/s", 1, 0),
                ("held", "then held", 1, 0), ("bytes", "KB per idle connection", 1024, 1)),
    ),
    Workload(
        "fan-out", "Fan-out", "N connections at once to one echo server, a line each way, all stay open",
        beside=True, floors=("plain epoll",), points=(1_000, 5_000, 10_000), quick_points=(1_000,),
        axis="N", rounds=3,
        log=True, extras=(("bytes", "KB per connection", 1024, 2), ("cpu", "µs of processor", 1, 1)),
    ),
    *USERS,
)  # fmt: skip


def choose(names: list[str]) -> list[Workload]:
    """Return the workloads of these names; "users" those of users, "all" all, none the manager's own."""
    known = {workload.name for workload in WORKLOADS}
    if unknown := set(names) - known - {"all", "users"}:
        raise ValueError(
            f"no such workload: {', '.join(sorted(unknown))} (known: {', '.join(sorted(known))}, users, all)"
        )
    if not names:
        return [workload for workload in WORKLOADS if not workload.beside]
    return [
        workload
        for workload in WORKLOADS
        if workload.name in names or "all" in names or (workload.users and "users" in names)
    ]
