"""The script on a real server decides as its model does, call by call."""

from __future__ import annotations

import random
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import coredis
import pytest

from keepalive.fleet.core.store import Store
from keepalive.fleet.core.words import ALL, Call, Claim, Terms
from keepalive.fleet.script import BODY, answer, arguments, meta

from .servers import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .servers import RedisServer

GIVEN = """
local wall, epoch = tonumber(ARGV[#ARGV - 1]), ARGV[#ARGV]
ARGV[#ARGV], ARGV[#ARGV - 1] = nil, nil
local publish = function(channel, message) redis.call('RPUSH', 'told', channel .. ' ' .. message) end
"""
"""Instead of the server's own time and epoch: what the test says."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as found:
        yield found


def random_call(rng: random.Random, now: dict[str, int], keys: list[str]) -> Call:
    member = f"{rng.randrange(6):02x}"
    seq = now.get(member, 0) + (1 if rng.random() < 0.95 else 0)
    fallback = "share" if int(member, 16) % 2 else "none"
    terms = Terms(4.0, 12.0, fallback, 16.0, 20 if int(member, 16) < 5 else 18, 1 + int(member, 16) % 3)
    whole = rng.random() < 0.5
    chosen = rng.sample(keys, rng.randrange(len(keys) + 1))
    claims = []
    for key in chosen:
        held, wanted = rng.randrange(8), rng.randrange(9)
        if rng.random() < 0.1:
            held = wanted = 0
        limit = 10 if rng.random() < 0.9 else 9
        claims.append(Claim(key, limit, held, wanted, wanted + (rng.randrange(3) if wanted else 0)))
    now[member] = seq
    leaves = rng.random() < 0.02
    return Call(member, 0, seq, seq - 1, whole, rng.randrange(5), terms, [] if leaves else claims, leaves)


@pytest.mark.parametrize("seed", range(3))
async def test_the_script_decides_as_its_model_does(server: RedisServer, seed: int) -> None:
    rng = random.Random(seed)
    model, seqs = Store(), dict[str, int]()
    keys = ["a", "b", "c:1 d"]
    wall, epoch = 1e9, "e1"
    async with coredis.Redis.from_url(server.url, decode_responses=True) as client:

        async def told() -> set[tuple[str, str]]:
            lines = await client.lrange("told", 0, -1)
            await client.delete(["told"])
            return {(line.split(" ")[0].rpartition(":")[2], line.partition(" ")[2]) for line in lines}

        async def run(*argv: str) -> Any:
            given = (*argv, repr(wall), epoch)
            return await client.evalsha(script, keys=[meta("f")], args=given)

        script = await client.script_load(GIVEN + BODY)

        for _ in range(300):
            wall += rng.choice((0.0, 0.25, 0.5, 1.0, 3.0, 20.0, -5.0))
            if rng.random() < 0.01:
                epoch += "1"
            if rng.random() < 0.03:
                key, limit = rng.choice([*keys, "*", ALL]), rng.choice((None, 5, 12))
                model.set_limit(key, limit)
                await run("limit", key, "" if limit is None else str(limit))
                assert await told() == set(model.told)
                continue
            call = random_call(rng, seqs, keys)
            expected = model.call(call, wall, epoch)
            got = answer(await run(*arguments(call, "label")))
            got.rows.sort()
            expected.rows.sort()
            assert astuple(got) == astuple(expected)
            assert await told() == set(model.told)
        await run("status")
