"""A hosts file of any size is read without stopping the loop."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from keepalive import DNSResolver
from keepalive.resolve import hosts_file as _hosts
from keepalive.resolve.files import MOST_COMPLAINTS
from tests.support.nameserver import NameServer, Zone

if TYPE_CHECKING:
    from pathlib import Path

LINES = 150_000


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hosts") / "hosts"
    lines = [f"0.0.0.0 ads{n}.tracker{n % 977}.example" for n in range(LINES)]
    path.write_text("\n".join([*lines, "192.0.2.7 last.test Bücher.test", "2001:db8::7 last.test"]))
    return path


class Watchful(DNSResolver):
    """Looks at its files each time."""

    look_every = 0.0


class Beat:
    """Counts the CPU time of this thread between two turns of the loop; other programs' load is not in it."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.turns = 0
        self.over = False

    async def run(self) -> None:
        before = time.thread_time()
        while not self.over:
            await checkpoint()
            now = time.thread_time()
            self.longest, before = max(self.longest, now - before), now
            self.turns += 1


async def test_the_loop_goes_on(big: Path) -> None:
    beat = Beat()
    resolver = DNSResolver(["192.0.2.1"], hosts=str(big))
    found: list[set[str]] = []

    async def ask() -> None:
        found.append(set((await resolver.resolve("Last.test.")).addresses))

    async with anyio.create_task_group() as group:
        group.start_soon(beat.run)
        async with anyio.create_task_group() as askers:
            for _ in range(300):
                askers.start_soon(ask)
        assert (await resolver.resolve("b\u00fccher.test")).addresses == ("192.0.2.7",)
        os.utime(big, ns=(1, 1))  # read again, and the old table thrown away
        beat.over = True
    assert found == [{"192.0.2.7", "2001:db8::7"}] * 300
    assert beat.turns > 300
    assert beat.longest < 0.05  # all in one go takes 0.5 s and more; a slice 1 ms, and 300 tasks start


def test_a_step_is_short(big: Path) -> None:
    data, table = big.read_bytes(), _hosts.Table()
    lasted: list[float] = []
    steps = _hosts.parse_slowly(data, table, lambda *_: None)
    for reading in (steps, table.clear()):
        before = time.thread_time()
        for _ in reading:
            now = time.thread_time()
            lasted.append(now - before)
            before = now
    lasted.sort()
    assert lasted[len(lasted) * 99 // 100] < 0.01
    assert sum(lasted) > 20 * lasted[len(lasted) // 2]


async def test_a_cancelled_reader_s_work_goes_on(big: Path) -> None:
    resolver = DNSResolver(["192.0.2.1"], hosts=str(big))
    for turns in (1, 5, 50):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(resolver.resolve, "last.test")
                for _ in range(turns):
                    await checkpoint()
                scope.cancel()
    assert len((await resolver.resolve("last.test")).addresses) == 2


def test_several_loops_read_at_once(big: Path) -> None:
    resolver = DNSResolver(["192.0.2.1"], hosts=str(big))
    found: list[int] = []

    async def ask() -> None:
        found.append(len((await resolver.resolve("last.test")).addresses))

    threads = [threading.Thread(target=anyio.run, args=(ask,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2, 2, 2]


async def test_a_change_of_a_big_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    filler = "".join(f"0.0.0.0 x{n}.test\n" for n in range(3000))
    file.write_text(f"{filler}192.0.2.1 a.test\n")
    with NameServer(Zone({})) as server:
        resolver = Watchful([server.address], hosts=str(file))
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        file.write_text(f"{filler}192.0.2.22 a.test\n")
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.22",)
        file.write_text("192.0.2.3 a.test\n")
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.3",)
        with pytest.raises(OSError, match="no such name"):
            await resolver.resolve("x1.test")


async def test_complaints_are_few(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "hosts"
    file.write_text("nonsense here\n" * 5000 + "192.0.2.1 a.test\n")
    with caplog.at_level(logging.WARNING, "keepalive"):
        assert (await DNSResolver(["192.0.2.1"], hosts=str(file)).resolve("a.test")).addresses
    assert len(caplog.records) == MOST_COMPLAINTS + 1
    assert "more wrong lines" in caplog.text
