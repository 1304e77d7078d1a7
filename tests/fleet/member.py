"""A member process: asks again and again, and says on its output how often it was served.

``python -m tests.fleet.member BACKEND REDIS_URL PORT USERS KEYWORDS``; the last one is JSON for `RedisFleet`.
"""

from __future__ import annotations

import json
import random
import sys

import anyio

from keepalive import ConnectionManager, KeepaliveError
from keepalive.fleet import RedisFleet


async def use(mgr: ConnectionManager, port: int) -> None:
    while True:
        try:
            async with mgr.allocate("tcp", "127.0.0.1", port, timeout=1) as conn:
                await conn.send(b"x")
                await conn.receive()
                await anyio.sleep(random.random() * 0.02)
        except (
            KeepaliveError,
            OSError,
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            anyio.EndOfStream,
        ):
            await anyio.sleep(0.01)
            continue
        print("served", flush=True)  # noqa: T201 - what the test reads


async def main(url: str, port: int, users: int, keywords: dict[str, object]) -> None:
    fleet = RedisFleet(url, **keywords)  # type: ignore[arg-type] # from the test
    async with ConnectionManager(max_per_host=64, fleet=fleet) as mgr, anyio.create_task_group() as tasks:
        for _ in range(users):
            tasks.start_soon(use, mgr, port)


if __name__ == "__main__":
    backend, url, port, users, keywords = sys.argv[1:]
    with_uvloop = {"use_uvloop": True} if backend == "uvloop" else {}
    anyio.run(
        main,
        url,
        int(port),
        int(users),
        json.loads(keywords),
        backend="trio" if backend == "trio" else "asyncio",
        backend_options=with_uvloop,
    )
