"""What is measured, and what keepalive is to reach."""

from __future__ import annotations

from dataclasses import dataclass

MULTI = ("keepalive multi:asyncio", "keepalive multi:uvloop", "keepalive multi:trio")
KEEPALIVE = ("keepalive:asyncio", "keepalive:uvloop", "keepalive:trio")
AIOHTTP = ("aiohttp:asyncio", "aiohttp:uvloop")


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
    needs_tls: bool = False
    log: bool = False
    # Of a part beside the manager (HTTP, SIP, multi): measured when it is named, or with "all".
    beside: bool = False
    # Further metrics worth a column: name, heading, divisor, decimals.
    extras: tuple[tuple[str, str, float, int], ...] = ()


WORKLOADS = (
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
        floors=("blocking socket",), needs_tls=True,
    ),
    Workload(
        "cold-resumed", "Cold connect, TLS 1.3 with tickets",
        "open, one exchange, close; the server hands out tickets",
        floors=("blocking socket",), needs_tls=True,
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
)  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """Says that a contender's metric stays within a factor of the best of some others', or of a number."""

    workload: str
    contenders: tuple[str, ...]
    factor: float
    of: tuple[str, ...] = ()
    metric: str = "time"
    text: str = ""
    # Compare the last point with the first one of the same contender.
    growth: bool = False


HTTP = ("keepalive.http:asyncio", "keepalive.http:uvloop")
GOALS = (
    *(
        Goal(workload, (f"{contender}:{loop}",), factor, of=(f"{peer}:{loop}",), text=text)
        for workload, contender, factor, peer, text in (
            ("exchange-1", "keepalive.http", 1 / 1.6, "aiohttp", "1.6 times as fast as aiohttp"),
            ("exchange-64", "keepalive.http", 1 / 3.5, "aiohttp", "3.5 times as fast as aiohttp"),
            ("exchange-1", "httpx2 on keepalive", 1 / 1.8, "httpx2", "1.8 times as fast as with its own"),
            ("exchange-64", "httpx2 on keepalive", 1 / 3.0, "httpx2", "3 times as fast as with its own"),
            ("download", "keepalive.http", 1.0, "aiohttp", ""),
            ("upload", "keepalive.http", 1.0, "aiohttp", ""),
        )
        for loop in ("asyncio", "uvloop")
    ),
    *(
        Goal("redis-64", (f"{contender}:{loop}",), 1 / factor, of=(f"redis-py:{loop}",), metric="cpu",
             text=f"processor time: redis-py with its own pool takes {factor} times as much")
        for contender, factor in (("redis-py on keepalive", 1.3), ("keepalive.redis", 1.5))
        for loop in ("asyncio", "uvloop")
    ),
    Goal("redis-64", ("redis-py on keepalive:asyncio", "redis-py on keepalive:uvloop"), 0.0,
         metric="starved", text="no task starves"),
    *(
        Goal("redis-shared", (f"keepalive.redis, shared:{loop}",), 0.5, of=(f"coredis:{loop}",), metric="cpu",
             text="half of coredis's processor time")
        for loop in ("asyncio", "uvloop", "trio")
    ),
    Goal("exchange-64", HTTP, 1.5, of=("Go net/http",)),
    Goal("exchange-64", HTTP, 0.0, metric="starved", text="no task starves"),
    Goal("warm", KEEPALIVE, 0.5, of=AIOHTTP, text="half of aiohttp's time"),
    Goal("exchange-1", ("keepalive:asyncio",), 1.2, of=("loop.sock_*:asyncio",)),
    Goal("exchange-1", ("keepalive:uvloop",), 1.2, of=("loop.sock_*:uvloop",)),
    Goal("exchange-1", ("keepalive:trio",), 1.4, of=("keepalive:asyncio",)),
    Goal("exchange-64", ("keepalive:uvloop",), 1.0, of=("Go net/http",)),
    Goal("exchange-64", ("keepalive:asyncio",), 1.2, of=("Go net/http",)),
    Goal("exchange-64", ("keepalive:trio",), 1.5, of=("Go net/http",)),
    Goal("exchange-64", KEEPALIVE, 2.0, metric="longest/mean", text="longest wait at most twice the mean"),
    Goal("exchange-64", KEEPALIVE, 0.0, metric="starved", text="no task starves"),
    Goal("contention", ("keepalive:asyncio",), 1.6, of=("futures floor:asyncio",)),
    Goal("contention", ("keepalive:uvloop",), 1.6, of=("futures floor:uvloop",)),
    Goal("contention", ("keepalive:trio",), 1.6, of=("futures floor:trio",)),
    Goal("contention", ("keepalive:asyncio",), 1.0, of=("futures floor:asyncio",), growth=True),
    Goal("contention", ("keepalive:uvloop",), 1.0, of=("futures floor:uvloop",), growth=True),
    Goal("contention", ("keepalive:trio",), 1.0, of=("futures floor:trio",), growth=True),
    # A key that is not in the processor's cache costs every pool something; the floor shows how much.
    Goal("keys", KEEPALIVE, 1.0, of=("futures floor:asyncio",), growth=True),
    Goal("keys", KEEPALIVE, 2560, metric="bytes", text="at most 2.5 KB per idle connection"),
    Goal("cold-tcp", ("keepalive:asyncio",), 1.25, of=("loop.sock_*:asyncio",)),
    Goal("cold-tcp", ("keepalive:uvloop",), 1.25, of=("loop.sock_*:uvloop",)),
    Goal("cold-tcp", ("keepalive:trio",), 1.25, of=("loop.sock_*:trio",)),
    Goal("cold-tls", KEEPALIVE, 1.15, of=("blocking socket",)),
    Goal("cold-resumed", KEEPALIVE, 0.9,
         of=(*AIOHTTP, "httpcore2:asyncio", "anyio stream:asyncio", "anyio stream:trio"),
         text="clearly below every Python peer"),
    Goal("watch", KEEPALIVE, 100.0, text="closed within 100 ms"),
    Goal("sip", KEEPALIVE, 20.0, text="50,000 messages a second"),
    Goal("sip", KEEPALIVE, 4096, metric="bytes", text="at most 4 KB per idle connection"),
    Goal("fan-out", MULTI, 1.5, of=("plain epoll",)),
    Goal("fan-out", MULTI, 1.5, of=("plain epoll",), metric="cpu", text="at most 1.5 x its processor time"),
    Goal("fan-out", MULTI, 1.0, of=("Go net",), text="ahead of Go"),
    Goal("fan-out", MULTI, 1.0, of=("Go net",), metric="cpu", text="ahead of Go in processor time"),
    Goal("fan-out", MULTI, 2048, metric="bytes", text="at most 2 KB per connection above the kernel's"),
    Goal("fan-out", MULTI, 0.5, metric="idle_cpu_percent", text="timers that run cost nothing"),
    Goal("fan-out", ("keepalive multi:asyncio",), 1.0, of=("plain epoll",), growth=True),
    Goal("fan-out", ("keepalive multi:trio",), 1.0, of=("plain epoll",), growth=True),
    Goal("watch", KEEPALIVE, 0.5, metric="idle_cpu_percent", text="no cost while nothing happens"),
)  # fmt: skip


def choose(names: list[str]) -> list[Workload]:
    """Return the workloads of these names; "all" means all, none means the manager's own."""
    known = {workload.name for workload in WORKLOADS}
    if unknown := set(names) - known - {"all"}:
        raise ValueError(
            f"no such workload: {', '.join(sorted(unknown))} (known: {', '.join(sorted(known))}, all)"
        )
    if not names:
        return [workload for workload in WORKLOADS if not workload.beside]
    return [workload for workload in WORKLOADS if workload.name in names or "all" in names]
