"""What a fleet costs: at the store, and in a member's warm cycle.

``python -m benchmarks.fleet store [MEMBERS] [KEYS] [SECONDS]`` plays members of so many keys each against a
redis-server of its own, and prints how much of a core that used when all have their places.
``python -m benchmarks.fleet cycle`` prints the time of allocate and release of an idle connection, without
and with a fleet.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

import anyio
import coredis

from keepalive import ConnectionManager
from keepalive.fleet import RedisFleet
from keepalive.fleet.core.member import Member
from keepalive.fleet.core.states import Do, Usage
from keepalive.fleet.core.words import Terms
from keepalive.fleet.script import SCRIPT, answer, arguments, meta


class Redis:
    """A server of our own."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen([*argv, "--dir", self.folder.name], stdout=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.01)
        self.url = f"redis://127.0.0.1:{self.port}"

    def cpu(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


async def store(members: int, keys: int, seconds: float) -> None:
    redis = Redis()
    terms = Terms()
    names = [f"https://host{n}.example:443" for n in range(keys)]
    players = [Member(f"{n:06x}", terms, lambda key: Usage(2, 1, 0)) for n in range(members)]
    calls = said = 0
    async with coredis.Redis.from_url(redis.url, decode_responses=True) as client:
        script = await client.script_load(SCRIPT)

        async def play(player: Member, late: float) -> None:
            nonlocal calls, said
            await anyio.sleep(late)
            begun = False
            while True:
                now = time.monotonic()
                if begun:
                    player.tick(now)
                else:
                    player.join(now)
                    for name in names:
                        player.wanted(name, 2.0 * members, now)
                    begun = True
                while player.effects:
                    effect, call, _ = player.effects.popleft()
                    if effect is Do.SEND:
                        calls += 1
                        said += len(call.claims)
                        raw: Any = await client.evalsha(
                            script, keys=[meta("f")], args=arguments(call, "bench")
                        )
                        player.answered(call.seq, answer(raw), time.monotonic())
                await anyio.sleep(max(0.0, player.due - time.monotonic()))

        async with anyio.create_task_group() as tasks:
            for number, player in enumerate(players):
                tasks.start_soon(play, player, terms.interval * number / members)
            while said or calls < 4 * members:  # until all have joined, and have their places
                said = 0
                await anyio.sleep(2 * terms.interval)
            before, told, begin = redis.cpu(), calls, time.monotonic()
            await anyio.sleep(seconds)
            took = time.monotonic() - begin
            held = sum(holding.held for player in players for holding in player.keys.values())
            used, rate = (redis.cpu() - before) / took, (calls - told) / took
            print(f"{members} members, {keys} keys each, {held} places held: {rate:.0f} calls per second,")
            print(f"{used:.1%} of a core at redis-server")
            tasks.cancel_scope.cancel()
    redis.close()


async def cycle() -> None:
    redis = Redis()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def measure(mgr: ConnectionManager) -> float:
        async with mgr.allocate("tcp", "127.0.0.1", port, timeout=60):
            pass
        begin = time.perf_counter()
        for _ in range(20_000):
            conn = await mgr.allocate("tcp", "127.0.0.1", port)
            conn.release()
        return (time.perf_counter() - begin) / 20_000

    fleet = RedisFleet(redis.url, name="f", max_per_host=4, interval=0.5, lease=1.0, fallback="none")
    async with ConnectionManager() as plain, ConnectionManager(fleet=fleet) as bound:
        without, with_fleet = [], []
        for _ in range(15):
            without.append(await measure(plain))
            with_fleet.append(await measure(bound))
    ratio = median(one / other for one, other in zip(with_fleet, without, strict=True))
    times = [median(found) * 1e6 for found in (without, with_fleet)]
    print(f"{times[0]:.2f} us without, {times[1]:.2f} us with a fleet: {ratio:.3f} x")
    await listener.aclose()
    redis.close()


if __name__ == "__main__":
    what, *numbers = sys.argv[1:] or ["cycle"]
    if what == "store":
        given = [int(number) for number in numbers]
        members, keys, seconds = given + [1000, 100, 20][len(given) :]
        anyio.run(store, members, keys, float(seconds))
    else:
        anyio.run(cycle)
