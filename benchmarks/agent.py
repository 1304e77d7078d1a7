"""An agent and its borrowers, measured: ``python -m benchmarks.agent [--backend uvloop] [--seconds 2]``.

* a loan and its return, beside a bare round trip that passes a descriptor between two processes: with
  blocking sockets, and by the same event loop;
* a connection that is kept for a moment, beside a warm cycle of a manager of one's own;
* processes with many tasks each over one agent, beside one process with a manager of its own.

What is compared is measured in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from keepalive import ConnectionManager, agent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROUNDS = 30
CYCLES = 300
LIMIT = 8
CONFIG = f"""
[pools.bench]
users = ["*"]
max_per_host = {LIMIT}
max_open = 1024
timeout = 60
[[pools.bench.allow]]
schemes = ["*"]
hosts = ["127.0.0.1"]
ports = ["1-65535"]
"""
BACKENDS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


# -- who else takes part --------------------------------------------------------------------------------


def origin() -> None:
    """Echo; at the end of stdin tell how many connections there were at most."""
    import asyncio

    import uvloop

    now = [0, 0]

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            now[0] += 1
            now[1] = max(now)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

        def connection_lost(self, exc: Exception | None) -> None:
            now[0] -= 1

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        print(now[1], flush=True)

    uvloop.run(serve())


def bare(sock: socket.socket) -> None:
    """Answer each message with a descriptor."""
    given = socket.socket()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [given.fileno()]))]
    while sock.recv(64):
        sock.sendmsg([b"x"], rights)


@contextmanager
def running(*argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def serving(folder: Path, backend: str) -> Iterator[str]:
    path, file = folder / "agent.sock", folder / "agent.toml"
    file.write_text(CONFIG)
    options = ("--socket", str(path), "--config", str(file), "--backend", backend)
    with running("keepalive", "serve", *options, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("Serving"):
            assert line, "the agent does not start"
        yield str(path)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


# -- one at a time ----------------------------------------------------------------------------------------


def bare_round_trips(sock: socket.socket) -> None:
    sock.setblocking(True)
    for _ in range(CYCLES):
        sock.send(b"a")
        _, ancillary, _, _ = sock.recvmsg(64, socket.CMSG_SPACE(4))
        os.close(array.array("i", ancillary[0][2])[0])


async def round_trips_by_the_loop(sock: socket.socket) -> None:
    for _ in range(CYCLES):
        sock.send(b"a", socket.MSG_DONTWAIT)
        await anyio.wait_readable(sock)
        _, ancillary, _, _ = sock.recvmsg(64, socket.CMSG_SPACE(4))
        os.close(array.array("i", ancillary[0][2])[0])


async def cycles(mgr: Any, port: int) -> None:
    allocate = mgr.allocate
    for _ in range(CYCLES):
        conn = await allocate("bench", "127.0.0.1", port)
        conn.release()


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    begin = time.perf_counter()
    await work()
    return (time.perf_counter() - begin) / CYCLES * 1e6


async def one_at_a_time(path: str, port: int) -> None:
    mine, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        mine.close()
        bare(theirs)
        os._exit(0)
    theirs.close()
    names = ("bare round trip", "the same by the loop", "loan + return", "warm cycle", "kept and used again")
    times: dict[str, list[float]] = {name: [] for name in names}
    async with (
        agent.connect(path) as borrowing,
        agent.connect(path, sticky=0.5) as keeping,
        ConnectionManager() as own,
    ):

        async def blocking() -> None:
            bare_round_trips(mine)

        works: tuple[Callable[[], Awaitable[None]], ...] = (
            blocking,
            lambda: round_trips_by_the_loop(mine),
            lambda: cycles(borrowing, port),
            lambda: cycles(own, port),
            lambda: cycles(keeping, port),
        )
        for _ in range(ROUNDS):
            for name, work in zip(names, works, strict=True):
                times[name].append(await timed(work))
    mine.close()
    os.waitpid(child, 0)
    report_one(times)


def report_one(times: dict[str, list[float]]) -> None:
    floors = {
        "loan + return": ("bare round trip", "the same by the loop"),
        "kept and used again": ("warm cycle",),
    }
    for name, values in times.items():
        ratios = [
            f"{statistics.median(map(ratio, values, times[floor])):.1f} x {floor}"
            for floor in floors.get(name, ())
        ]
        print(f"{name:22} {statistics.median(values):8.1f} µs  best {min(values):6.1f}  {', '.join(ratios)}")


def ratio(one: float, other: float) -> float:
    return one / other


# -- processes x tasks --------------------------------------------------------------------------------------


async def work(path: str, port: int, tasks: int, seconds: float, sticky: float) -> None:
    """Exchange lines in many tasks; tell how many there were."""
    manager: Any = agent.connect(path, sticky=sticky) if path else ConnectionManager(max_per_host=LIMIT)
    done = [0] * tasks
    async with manager as mgr:
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + seconds

        async def one(number: int) -> None:
            while time.monotonic() < end:
                async with await mgr.allocate("bench", "127.0.0.1", port, 60) as conn:
                    await conn.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    await conn.receive()
                done[number] += 1

        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(one, number)
    print(json.dumps(done), flush=True)


def together(path: str, port: int, processes: int, args: argparse.Namespace, sticky: float) -> None:
    tasks = 64
    options = ("work", path, str(port), str(tasks), str(args.seconds), str(sticky), "--backend", args.backend)
    workers = []
    for _ in range(processes):
        worker = running("benchmarks.agent", *options)
        workers.append((worker, worker.__enter__()))
    try:
        for _, process in workers:
            assert line_of(process) == "ready\n"
        for _, process in workers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [json.loads(line_of(process)) for _, process in workers]
    finally:
        for worker, _ in workers:
            worker.__exit__(None, None, None)
    sums = [sum(count) for count in counts]
    rate = sum(sums) / args.seconds
    starved = sum(not one for count in counts for one in count)
    name = (
        f"{processes} x {tasks}"
        + (f", sticky {sticky * 1000:g} ms" if sticky else "")
        + ("" if path else ", own")
    )
    fair = f"max/min {max(sums) / max(1, min(sums)):.2f}"
    print(f"{name:22} {rate:8.0f} exchanges/s  {fair}  starved {starved}")


@contextmanager
def origin_at_work() -> Iterator[int]:
    with running("benchmarks.agent", "origin") as process:
        yield int(line_of(process))
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        print(f"{'':22} the server saw {line_of(process).strip()} connections at most, of {LIMIT}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=[])
    parser.add_argument("--backend", choices=tuple(BACKENDS), default="uvloop")
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    if args.what[:1] == ["origin"]:
        origin()
        return
    if args.what[:1] == ["work"]:
        _, path, port, tasks, seconds, sticky = args.what
        anyio.run(work, path, int(port), int(tasks), float(seconds), float(sticky), **BACKENDS[args.backend])
        return
    with tempfile.TemporaryDirectory() as name, serving(Path(name), args.backend) as path:
        with running("benchmarks.agent", "origin") as process:
            anyio.run(one_at_a_time, path, int(line_of(process)), **BACKENDS[args.backend])
        with origin_at_work() as port:
            together("", port, 1, args, 0)
        for processes, sticky in ((1, 0.0), (4, 0.0), (8, 0.0), (8, 0.005)):
            with origin_at_work() as port:
                together(path, port, processes, args, sticky)


if __name__ == "__main__":
    main()
