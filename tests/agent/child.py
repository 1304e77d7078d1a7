"""A borrower as a process: ``python -m tests.agent.child KIND SOCKET HOST PORT [OPTIONS as JSON]``."""

from __future__ import annotations

import errno
import json
import resource
import sys
import time
from typing import Any

import anyio
from anyio import to_thread

from keepalive import KeepaliveError, agent


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def hold(mgr: Any, host: str, port: int, options: dict[str, Any]) -> None:
    """Hold a connection, and do as the lines of stdin say."""
    conn = await mgr.allocate(options.get("scheme", "http"), host, port, 5)
    await conn.send(b"hello")
    say("held", (await conn.receive()).decode())
    while line := await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        try:
            if line.strip() == "use":
                await conn.send(b"again")
                say("used", (await conn.receive()).decode())
            elif line.strip() == "release":
                conn.release()
                say("released")
            elif line.strip() == "allocate":
                conn = await mgr.allocate("http", host, port, options.get("timeout", 5))
                say("held", conn.from_cache)
            else:
                break
        except (
            KeepaliveError,
            anyio.ClosedResourceError,
            anyio.BrokenResourceError,
            anyio.EndOfStream,
        ) as exc:
            say(type(exc).__name__, exc)


async def work(mgr: Any, host: str, port: int, options: dict[str, Any]) -> None:
    """Let tasks exchange lines for some seconds; tell how many each has had."""
    end = time.monotonic() + options["seconds"]
    done = [0] * options["tasks"]

    async def one(number: int) -> None:
        while time.monotonic() < end:
            async with mgr.allocate("http", host, port, 20) as conn:
                await conn.send(b"ping")
                assert await conn.receive() == b"ping"
            done[number] += 1

    async with anyio.create_task_group() as group:
        for number in range(len(done)):
            group.start_soon(one, number)
    say("done", json.dumps(done))


async def grab(mgr: Any, host: str, port: int, options: dict[str, Any]) -> None:
    """Take connections until the descriptors of this process are used up, and again when some are free."""
    held: list[Any] = []
    try:
        while True:
            held.append(await mgr.allocate("http", host, port, 5))
    except KeepaliveError as exc:
        say("short", type(exc).__name__, getattr(exc, "error_num", None))
    for conn in held:
        conn.release()
    conn = await mgr.allocate("http", host, port, 5)
    await conn.send(b"still")
    say("well", (await conn.receive()).decode())
    conn.release()


async def rush(mgr: Any, host: str, port: int, options: dict[str, Any]) -> None:
    """Ask for more at once than this process has descriptors for, so that they come, and fail, together."""
    held: list[Any] = []
    short = 0

    async def one(number: int) -> None:
        nonlocal short
        try:
            conn = await mgr.allocate("http", host, port, 10)
        except KeepaliveError as exc:
            if getattr(exc, "error_num", None) != errno.EMFILE:
                raise
            short += 1
            return
        held.append(conn)
        data = b"%d" % number
        await conn.send(data)
        got = await conn.receive()
        assert got == data, (got, data, conn)

    for _ in range(2):  # the second time they are all there, and go out together
        async with anyio.create_task_group() as group:
            for number in range(options["tasks"]):
                group.start_soon(one, number)
        for conn in held:
            conn.release()
        held.clear()
    stats = await mgr.pool_stats()
    say("short" if short else "enough", stats.lent)


KINDS = {"rush": rush, "hold": hold, "work": work, "grab": grab}


async def main() -> None:
    kind, path, host, port, *rest = sys.argv[1:]
    options: dict[str, Any] = json.loads(rest[0]) if rest else {}
    if "files" in options:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], options["files"]))
    async with agent.connect(path, **options.get("connect", {})) as mgr:
        say("ready")
        await KINDS[kind](mgr, host, int(port), options)


anyio.run(main)
