"""One measurement in a process of its own: an order comes as the argument, figures go to the output."""

from __future__ import annotations

import resource
import sys

from benchmarks.contenders import find
from benchmarks.orders import Figures, Order, figures_to_json
from benchmarks.runtimes import make_runtime
from benchmarks.setups import setup_for
from benchmarks.workload_drivers import DRIVERS


def main() -> None:
    order = Order.from_json(sys.argv[1])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    entry = find(order.contender)
    runtime = make_runtime(entry.loop)
    contender = entry.kind(order.site, setup_for(order), runtime)

    async def measure() -> Figures:
        await contender.start()
        try:
            return await DRIVERS[order.workload](contender, order)
        finally:
            await contender.stop()

    print(figures_to_json(runtime.run(measure)))


if __name__ == "__main__":
    main()
