"""What keepalive is to reach."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.orders import EACH


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
    # Compare each further point with the first one of the same contender; no others are needed.
    own_first: bool = False
    # Compare with the others' sum, not with the best of them.
    of_sum: bool = False
    # Judged at these points only; at all, where it names none.
    points: tuple[int, ...] = ()


MULTI = ("keepalive multi:asyncio", "keepalive multi:uvloop", "keepalive multi:trio")
KEEPALIVE = ("keepalive:asyncio", "keepalive:uvloop", "keepalive:trio")
AIOHTTP = ("aiohttp:asyncio", "aiohttp:uvloop")
LOOPS = ("asyncio", "uvloop", "trio")
HTTPX2 = ("httpx2:asyncio", "httpx2:uvloop", "httpx2:trio")
NAMES = tuple(f"keepalive DNSResolver:{loop}" for loop in LOOPS)
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
    Goal("exchange-64", ("keepalive:asyncio",), 1.15, of=("Go net/http",)),
    Goal("exchange-64", ("keepalive:trio",), 1.4, of=("Go net/http",)),
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
    # -- as people run it ---------------------------------------------------------------------------
    *(
        Goal(workload, tuple(f"keepalive.http:{loop}" for loop in LOOPS), 1.1, own_first=True,
             text="with limits at most 1.1 x the same without")
        for workload in (
            "limits-1", "limits-64", "limits-5000", "limits-download", "limits-upload", "tls-64",
            "tls-download", "json-64", "post-64", "proxy-64",
        )
    ),
    *(
        Goal("exchange-64", (f"keepalive.http:{loop}",), 1.25, of=(f"keepalive:{loop}",), text="1.25 x raw")
        for loop in LOOPS
    ),
    *(
        Goal(workload, (f"httpx2 on keepalive:{loop}",), 1.25, points=(EACH,), of_sum=True,
             of=(f"httpx2 over nothing:{loop}", f"keepalive.http:{loop}"),
             text="1.25 x its client over nothing and keepalive.http")
        for workload in ("limits-1", "limits-64")
        for loop in LOOPS
    ),
    *(
        Goal(workload, (f"httpx2 on keepalive:{loop}",), 1 / factor, points=(EACH,), of=(f"httpx2:{loop}",),
             text=f"{factor} times as fast as with its own")
        for workload, factor in (("limits-1", 2.5), ("limits-64", 4))
        for loop in LOOPS
    ),
    *(
        Goal(workload, tuple(f"keepalive.http:{loop}" for loop in LOOPS), factor, of=others, text=text)
        for workload in ("tls-64", "tls-download")
        for factor, others, text in (
            (1.0, (*AIOHTTP, *HTTPX2, "httpcore2:asyncio"), "ahead of every Python peer"),
            (1.3, ("Go net/http",), ""),
        )
    ),
    Goal("many-hosts", tuple(f"keepalive.http:{loop}" for loop in LOOPS), 1.15, own_first=True,
         text="at most 1.15 x a cold connect and exchange"),
    Goal("names", NAMES, 1.0, of=("pycares:asyncio", "pycares:uvloop"), text="ahead of pycares"),
    Goal("names", NAMES, 5.0, metric="held", text="the loop is never held for more than 5 ms"),
    Goal("fan-out-at-once", MULTI, 1.5, of=("plain epoll",)),
    Goal("fan-out-at-once", MULTI, 1.0, of=("Go net",), text="ahead of Go"),
    Goal("fan-out-at-once", MULTI, 1024, metric="bytes", text="at most 1 KB per connection"),
)  # fmt: skip
