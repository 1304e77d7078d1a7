"""Borrowers that are killed and stopped at any moment, and agents that follow each other: the limit holds."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import agent as agents
from tests.support import Server
from tests.support.waiting import until

from .kit import Process, open_files, serving, stop

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(90)
LIMIT = 3
CONFIG = f"""
drain_timeout = 5
[pools.own]
users = ["*"]
max_per_host = {LIMIT}
loan_timeout = 0.4
[[pools.own.allow]]
schemes = ["*"]
hosts = ["127.0.0.1"]
ports = ["1-65535"]
"""


class Storm:
    """Some borrowers at work, and what befalls them."""

    def __init__(self, folder: Path, server: Server, seed: int) -> None:
        self.path, self.file = folder / "agent.sock", folder / "agent.toml"
        self.file.write_text(CONFIG)
        self.server = server
        self.rng = random.Random(seed)
        self.agent = serving(self.path, "--config", str(self.file))
        self.workers: list[Process] = []
        self.stopped: list[Process] = []

    def begin_one(self) -> None:
        options = {"seconds": 60, "tasks": 6, "connect": {"sticky": self.rng.choice((0, 0.005))}}
        if len(self.workers) < 4:
            argv = [sys.executable, "-m", "tests.agent.child", "work", str(self.path)]
            argv += [self.server.host, str(self.server.port), json.dumps(options)]
            self.workers.append(Process(argv))
            assert self.workers[-1].hear() == "ready"

    def kill_one(self) -> None:
        if self.workers:
            worker = self.workers.pop(self.rng.randrange(len(self.workers)))
            worker.signal(signal.SIGKILL)
            worker.end()
            if worker in self.stopped:
                self.stopped.remove(worker)

    def stop_one(self) -> None:
        running = [worker for worker in self.workers if worker not in self.stopped]
        if running:
            self.stopped.append(self.rng.choice(running))
            self.stopped[-1].signal(signal.SIGSTOP)

    def continue_one(self) -> None:
        if self.stopped:
            self.stopped.pop(0).signal(signal.SIGCONT)

    def succeed(self) -> None:
        old, self.agent = self.agent, serving(self.path, "--config", str(self.file), "--replace")
        assert old.wait() == 0
        stop(old)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        stop(self.agent)


@pytest.mark.parametrize("seed", [1, 2])
def test_limit_holds_whatever_befalls_the_borrowers(tmp_path: Path, seed: int) -> None:
    with Server() as server:
        storm = Storm(tmp_path, server, seed)
        try:
            actions = [storm.begin_one] * 5 + [storm.kill_one] * 3 + [storm.stop_one] * 2
            actions += [storm.continue_one] * 3 + [storm.succeed]
            storm.begin_one()
            end = time.monotonic() + 5
            while time.monotonic() < end:
                storm.rng.choice(actions)()
                time.sleep(storm.rng.random() * 0.1)  # not to wait for anything: so that all this takes time
                assert server.peak <= LIMIT
            while storm.stopped:
                storm.continue_one()
            storm.succeed()
            while storm.workers:
                storm.kill_one()
            anyio.run(all_is_back, storm)
        finally:
            storm.end()


async def all_is_back(storm: Storm) -> None:
    """See that every place is free again, and that the agent serves as ever."""
    async with agents.connect(storm.path) as mgr:
        conns = []
        for _ in range(LIMIT):
            conn = await mgr.allocate("http", storm.server.host, storm.server.port, 5)
            await conn.send(b"ping")
            assert await conn.receive() == b"ping"
            conns.append(conn)
        for conn in conns:
            conn.release()
        stats = await mgr.pool_stats()
        assert (stats.lent, stats.waiting) == (0, 0)
        assert stats.open <= LIMIT
    await until(lambda: open_files(storm.agent.process.pid) < 30)
