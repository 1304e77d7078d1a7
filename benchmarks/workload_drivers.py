"""The workloads: what the measuring process does with its contender."""

from __future__ import annotations

import json
import math
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.contenders.fan_out import FanOut
from benchmarks.orders import BIG, Figures, Order, loopback
from benchmarks.runtimes import settle
from benchmarks.user_drivers import limited, many_hosts, names

if TYPE_CHECKING:
    from benchmarks.contenders.contender import Contender

BATCHES = 5
TASKS = 64
WATCHED_EXCHANGES = 40 * TASKS
US = 1e6

Batch = Callable[[int], Awaitable[None]]
Clock = Callable[[], float]
# Where nothing is waited for, this is the time on the wall, less what other programs took of the core.
CPU = time.process_time


async def timed(batch: Batch, count: int, clock: Clock) -> float:
    start = clock()
    await batch(count)
    return clock() - start


async def steady(batch: Batch, budget: float, clock: Clock = time.perf_counter) -> float:
    """Find a batch size by doubling, then give the median of some batches, in microseconds a piece."""
    count, took = 1, await timed(batch, 1, clock)
    took = await timed(batch, 1, clock)  # the first one may have opened a connection
    while took < budget / 25:
        count *= 2
        took = await timed(batch, count, clock)
    count = max(1, int(count * budget / BATCHES / took))
    settle()
    pieces: list[float] = []
    end = time.perf_counter() + 2 * budget
    while len(pieces) < BATCHES and (len(pieces) < 1 or time.perf_counter() < end):
        pieces.append(await timed(batch, count, clock) / count)
    return statistics.median(pieces) * US


async def warm(contender: Contender, order: Order) -> Figures:
    addr = contender.setup.addr
    await contender.prepare([addr])

    async def batch(count: int) -> None:
        await contender.cycles([addr] * count)

    return {0: {"time": await steady(batch, order.budget, CPU)}}


async def exchange_1(contender: Contender, order: Order) -> Figures:
    async def batch(count: int) -> None:
        exchange = contender.exchange
        for _ in range(count):
            await exchange()

    return {0: {"time": await steady(batch, order.budget)}}


class SharedBudget:
    """Tasks that share one budget of exchanges, so that a starved one holds nobody up but shows."""

    def __init__(self, contender: Contender, tasks: int = TASKS) -> None:
        self.contender = contender
        self.tasks = tasks
        self.left = 0
        self.waits: list[float] = []
        self.shares: list[int] = []

    async def batch(self, count: int) -> None:
        self.left = count
        await self.contender.runtime.together(self.work, self.tasks)

    async def work(self) -> None:
        exchange = self.contender.exchange
        while self.left > 0:
            self.left -= 1
            await exchange()

    async def watched(self, count: int) -> None:
        self.left = count
        await self.contender.runtime.together(self.watched_work, self.tasks)

    async def watched_work(self) -> None:
        share = 0
        now = time.perf_counter
        while self.left > 0:
            self.left -= 1
            start = now()
            await self.contender.exchange()
            self.waits.append(now() - start)
            share += 1
        self.shares.append(share)

    def starved(self) -> int:
        """Count the tasks that had less than a tenth of their share."""
        fair = sum(self.shares) / len(self.shares)
        return sum(share < fair / 10 for share in self.shares)


async def exchange_64(contender: Contender, order: Order) -> Figures:
    crowd = SharedBudget(contender)
    # Fewer exchanges than tasks would measure the start of tasks.
    await crowd.batch(TASKS)
    cost = await steady(lambda count: crowd.batch(count * TASKS), order.budget) / TASKS
    start = CPU()
    await crowd.watched(WATCHED_EXCHANGES)
    cpu = CPU() - start
    mean = statistics.fmean(crowd.waits)
    longest = max(crowd.waits)
    return {
        0: {
            "time": cost,
            "cpu": cpu / WATCHED_EXCHANGES * US,
            "mean_wait": mean * US,
            "longest_wait": longest * US,
            "longest/mean": longest / mean,
            "starved": crowd.starved(),
        }
    }


async def exchange_5000(contender: Contender, order: Order) -> Figures:
    """Give the time of one exchange; each task makes two, so that its start is not all."""
    tasks = 5000
    crowd = SharedBudget(contender, tasks)
    await crowd.batch(TASKS)
    pieces: list[float] = []
    while len(pieces) < 3 and sum(pieces) < 2:  # the slow ones are slow enough to be seen at once
        pieces.append(await timed(crowd.batch, 2 * tasks, time.perf_counter))
    return {0: {"time": statistics.median(pieces) / (2 * tasks) * US}}


async def transfer(contender: Contender, order: Order) -> Figures:
    """Give the time of one transfer of 100 MB."""
    content = bytes(BIG)

    async def batch(count: int) -> None:
        for _ in range(count):
            if order.workload.endswith("upload"):
                await contender.upload(content)
            elif (size := await contender.download()) != BIG:
                raise RuntimeError(f"{size} bytes came, not {BIG}")

    await batch(1)
    pieces = [await timed(batch, 1, time.perf_counter) for _ in range(BATCHES)]
    return {0: {"time": statistics.median(pieces) * 1e3}}


def affordable(order: Order, done: Figures, point: int) -> bool:
    """Tell whether the next point of a series fits the patience, going by how the cost grew so far."""
    known = sorted(done)
    if not known:
        return True
    last = known[-1]
    growth: float = 1.0
    if len(known) > 1:
        before = known[-2]
        growth = math.log(done[last]["time"] / done[before]["time"]) / math.log(last / before)
    cost = done[last]["time"] * (point / last) ** min(max(growth, 0.0), 1.2)
    return bool(cost * point / US < order.patience)


async def contention(contender: Contender, order: Order) -> Figures:
    await contender.prepare([contender.setup.addr])
    together = contender.runtime.together
    await together(contender.hold, contender.setup.limit)
    figures: Figures = {}
    for point in order.points:
        if not affordable(order, figures, point):
            break
        pieces: list[float] = []
        while len(pieces) < BATCHES and (len(pieces) < 1 or sum(pieces) < order.budget):
            settle()
            start = CPU()
            await together(contender.hold, point)
            pieces.append(CPU() - start)
        figures[point] = {"time": statistics.median(pieces) / point * US}
    return figures


async def keys(contender: Contender, order: Order) -> Figures:
    figures: Figures = {}
    addrs: list[str] = []
    for point in order.points:
        if not affordable(order, figures, point):
            break
        new = [loopback(index) for index in range(len(addrs), point)]
        addrs += new
        await contender.prepare(addrs if not contender.opens_sockets else new)
        settle()
        before = resident()
        await contender.cycles(new)
        settle()
        grown = resident() - before
        endless = cycle(addrs)

        async def batch(count: int, endless: cycle[str] = endless) -> None:
            await contender.cycles(list(islice(endless, count)))

        figures[point] = {"time": await steady(batch, order.budget, CPU)}
        if contender.opens_sockets and len(new) >= 500:
            figures[point]["bytes"] = grown / len(new)
    return figures


async def cold(contender: Contender, order: Order) -> Figures:
    talk = order.workload == "cold-resumed"

    async def batch(count: int) -> None:
        connect = contender.connect
        for _ in range(count):
            await connect(talk)

    return {0: {"time": await steady(batch, order.budget)}}


async def watch(contender: Contender, order: Order) -> Figures:
    point = order.points[0]
    count = min(point, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 256)
    addrs = [loopback(index) for index in range(count)]
    await contender.prepare(addrs)
    await contender.cycles(addrs)
    settle()
    sleep = contender.runtime.sleep
    await sleep(0.3)
    cpu, start = time.process_time(), time.perf_counter()
    await sleep(1.0)
    idle = (time.process_time() - cpu) / (time.perf_counter() - start)
    with socket.create_connection(("127.0.0.1", order.site.control_port)) as control:
        control.sendall(f"close {count // 10}\n".encode())
        await sleep(0.7)
        control.sendall(b"tell\n")
        seen = json.loads(control.makefile().readline())
    figures = {
        "connections": count,
        "asked": count // 10,
        "closed": len(seen),
        "idle_cpu_percent": idle * 100,
    }
    if len(seen) == count // 10:
        figures["time"] = max(seen) * 1e3
        figures["median_ms"] = statistics.median(seen) * 1e3
    return {point: figures}


async def sip(contender: Contender, order: Order) -> Figures:
    """Count messages of many peers by processor time, raw and parsed; then hold ten times as many idle."""
    point = order.points[0]
    idle = min(10 * point, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 2 * point - 256)
    raw = await _talk_sip(contender, order, True, point)
    parsed = await _talk_sip(contender, order, False, point)
    settle()
    before = resident()
    port = await contender.listen(True, lambda: None)
    with _SipPeers(port, order.core) as peers:
        peers.tell(f"open {idle}")
        await _until(contender, lambda: contender.held() == idle)
        settle()
        grown = resident() - before
    await _until(contender, lambda: not contender.held())
    return {
        point: {
            "time": raw * US,
            "rate": 1 / raw,
            "parsed_time": parsed * US,
            "parsed_rate": 1 / parsed,
            "held": idle,
            "bytes": grown / idle,
        }
    }


async def _talk_sip(contender: Contender, order: Order, raw: bool, point: int) -> float:
    """Give the processor's seconds per message."""
    count = 0

    def got() -> None:
        nonlocal count
        count += 1

    port = await contender.listen(raw, got)
    total = max(point, int(order.budget * (150_000 if raw else 75_000)))
    with _SipPeers(port, order.core) as peers:
        peers.tell(f"open {point}")
        await _until(contender, lambda: contender.held() == point)
        settle()
        start = CPU()
        peers.tell(f"send {total}")
        await _until(contender, lambda: count == total)
        took = CPU() - start
    await _until(contender, lambda: not contender.held())
    return took / total


class _SipPeers:
    def __init__(self, port: int, core: int | None) -> None:
        argv = [sys.executable, "-m", "benchmarks.sip_peers", str(port), "-" if core is None else str(core)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


async def _until(contender: Contender, reached: Callable[[], bool]) -> None:
    end = time.perf_counter() + 30
    while not reached():
        await contender.runtime.sleep(0.005)
        if time.perf_counter() > end:
            raise RuntimeError("the peers did not do what they were told")


async def fan_out(contender: Contender, order: Order) -> Figures:
    assert isinstance(contender, FanOut)
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64
    await contender.open_all(200)  # whatever is imported and made once
    await contender.close_all()
    settle()
    before = resident()
    figures: Figures = {}
    for point in order.points:
        if point > room:
            break
        settle()
        cpu, start = CPU(), time.perf_counter()
        await contender.open_all(point)
        took = time.perf_counter() - start
        cpu = CPU() - cpu
        # What the points before had is used again, so the growth since the beginning is this one's.
        grown = resident() - before
        figures[point] = {"time": took / point * US, "cpu": cpu / point * US, "bytes": grown / point}
        if contender.name.startswith("keepalive"):
            cpu = CPU()
            await contender.runtime.sleep(0.5)
            figures[point]["idle_cpu_percent"] = (CPU() - cpu) / 0.5 * 100
        await contender.close_all()
    return figures


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


DRIVERS: dict[str, Callable[[Contender, Order], Awaitable[Figures]]] = {
    "warm": warm,
    "exchange-1": exchange_1,
    "exchange-64": exchange_64,
    "exchange-5000": exchange_5000,
    "download": transfer,
    "upload": transfer,
    "contention": contention,
    "keys": keys,
    "cold-tcp": cold,
    "cold-tls": cold,
    "cold-resumed": cold,
    "watch": watch,
    "redis-64": exchange_64,
    "redis-shared": exchange_64,
    "sip": sip,
    "fan-out": fan_out,
    "fan-out-at-once": fan_out,
    "limits-1": limited(exchange_1),
    "limits-64": limited(exchange_64),
    "limits-5000": limited(exchange_5000),
    "limits-download": limited(transfer),
    "limits-upload": limited(transfer),
    "tls-64": limited(exchange_64),
    "tls-download": limited(transfer),
    "json-64": limited(exchange_64),
    "post-64": limited(exchange_64),
    "proxy-64": limited(exchange_64),
    "many-hosts": many_hosts(exchange_64),
    "names": names,
}
