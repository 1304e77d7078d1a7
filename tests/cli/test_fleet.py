"""``keepalive fleet`` with a real store."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

from tests.fleet.counting import counting_server
from tests.fleet.processes import MemberProcess, wait_until
from tests.fleet.servers import redis_server

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli


def test_status_and_limits_of_a_fleet(run: Cli, tmp_path: Path, backend: str) -> None:
    options = {"name": "f", "max_per_host": 3, "interval": 0.2, "lease": 0.6}
    with (
        redis_server(tmp_path) as redis,
        counting_server() as server,
        closing(MemberProcess(backend, redis.url, server.port, **options)) as member,
    ):
        key = f"tcp://127.0.0.1:{server.port}"

        def cli(*args: str) -> tuple[int, str]:
            result = run("fleet", *args, "--backend", backend)
            return result.exit_code, result.output

        wait_until(lambda: member.served > 5)
        code, text = cli("status", redis.url, "f")
        assert code == 0
        assert "1 members hold 3 places, " in text
        assert key in text
        assert cli("set-limit", redis.url, "f", "2", "--key", key) == (0, "")
        assert cli("set-limit", redis.url, "f", "9", "--all") == (0, "")
        wait_until(lambda: server.open <= 2)
        code, text = cli("status", "--json", redis.url, "f")
        found = json.loads(text)
        assert found["limits"] == {key: 2, "": 9}
        assert [one["limit"] for one in found["keys"]] == [9, 2]
        assert cli("set-limit", redis.url, "f", "none", "--key", key) == (0, "")
        code, text = cli("status", redis.url, "f")
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
