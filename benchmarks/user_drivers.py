"""The workloads of those who use it: with time limits, with many hosts, with names."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TYPE_CHECKING

from benchmarks.orders import EACH, Figures, Order, loopback
from benchmarks.runtimes import settle

if TYPE_CHECKING:
    from benchmarks.contenders.contender import Contender

Driver = Callable[["Contender", Order], Awaitable[Figures]]
HOSTS = 200
NAMES, ASKING, BATCHES = 1000, 100, 3
BEAT = 0.001


def limited(drive: Driver) -> Driver:
    """Do the same with each kind of time limits in turn: a point each."""

    async def drive_all(contender: Contender, order: Order) -> Figures:
        figures: Figures = {}
        for seconds in order.points:
            contender.limit(seconds)
            figures[seconds] = (await drive(contender, order))[0]
        return figures

    return drive_all


def many_hosts(drive: Driver) -> Driver:
    """Do it with each number of hosts, chosen at random; point 0 opens one connection per exchange."""

    async def drive_all(contender: Contender, order: Order) -> Figures:
        contender.limit(EACH)
        figures: Figures = {}
        for point in order.points:
            hosts = [contender.setup.at(loopback(index)).url for index in range(point or HOSTS)]
            contender.aim(random.Random(1).choices(hosts, k=5000), close=not point)
            figures[point] = (await drive(contender, order))[0]
        return figures

    return drive_all


async def names(contender: Contender, order: Order) -> Figures:
    """Give the time per name, 1,000 new ones at a time; then watch the loop in one more batch."""
    crowd = Askers(contender)
    await crowd.batch(ASKING)
    settle()
    pieces = [await crowd.batch(NAMES) for _ in range(BATCHES)]
    held = await crowd.watched(NAMES)
    return {0: {"time": statistics.median(pieces) / NAMES * 1e6, "held": held * 1e3}}


class Askers:
    """Tasks that ask for names, each one once."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.fresh = count()
        self.left = 0
        self.watching = False
        self.longest = 0.0

    async def batch(self, names: int) -> float:
        self.left = names
        start = time.perf_counter()
        await self.contender.runtime.together(self.work, ASKING)
        return time.perf_counter() - start

    async def watched(self, names: int) -> float:
        self.watching = True
        await self.batch(names)
        return self.longest

    async def work(self) -> None:
        if self.watching:
            self.watching = False
            await self.beat()
        while self.left > 0:
            self.left -= 1
            address = await self.contender.resolve(f"host{next(self.fresh)}.bench.test")
            if address not in ("127.0.0.1", "::1"):
                raise RuntimeError(f"{address} came, not an address of this machine")

    async def beat(self) -> None:
        """Note how much later than asked for the loop let this run again, at the most."""
        while self.left > 0:
            start = time.perf_counter()
            await self.contender.runtime.sleep(BEAT)
            self.longest = max(self.longest, time.perf_counter() - start - BEAT)
