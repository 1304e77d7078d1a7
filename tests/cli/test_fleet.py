"""``keepalive fleet`` with a real store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keepalive import ConnectionManager
from keepalive.fleet import RedisFleet
from tests.fleet.counting import counting_server
from tests.fleet.servers import redis_server

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

import anyio


async def test_status_and_limits_of_a_fleet(run: Cli, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, counting_server() as server:
        fleet = RedisFleet(redis.url, name="f", max_per_host=3, interval=0.2, lease=0.6)
        key = f"tcp://127.0.0.1:{server.port}"

        async def cli(*args: str) -> tuple[int, str]:
            # The command runs an event loop of its own.
            result = await anyio.to_thread.run_sync(run, "fleet", *args)
            return result.exit_code, result.output

        async with ConnectionManager(fleet=fleet) as mgr:
            async with mgr.allocate("tcp", "127.0.0.1", server.port, timeout=10):
                code, text = await cli("status", redis.url, "f")
                assert code == 0
                assert "1 members hold 3 places, 0 requests wait" in text
                assert key in text
            assert await cli("set-limit", redis.url, "f", "2", "--key", key) == (0, "")
            assert await cli("set-limit", redis.url, "f", "9", "--all") == (0, "")
            code, text = await cli("status", "--json", redis.url, "f")
            found = json.loads(text)
            assert found["limits"] == {key: 2, "": 9}
            assert [one["limit"] for one in found["keys"]] == [9, 2]
            assert await cli("set-limit", redis.url, "f", "none", "--key", key) == (0, "")
            code, text = await cli("status", redis.url, "f")
            assert "Set for all keys together: 9" in text


def test_what_is_wrong_is_told(run: Cli) -> None:
    for argv, code, text in (
        (("status", "http://x", "f"), 2, "url must be like"),
        (("status", "redis://127.0.0.1:1", "f"), 1, "cannot be reached"),
        (("status", "redis://127.0.0.1:1", "{f}"), 2, "braces"),
        (("set-limit", "redis://127.0.0.1:1", "f", "0"), 2, "LIMIT must be"),
        (("set-limit", "redis://127.0.0.1:1", "f", "1", "--all", "--key", "k"), 2, "exclude"),
    ):
        result = run("fleet", *argv)
        assert result.exit_code == code
        assert text in result.output
