"""One Redis server for each file of tests, and an empty database for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.redis import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Authority


@pytest.fixture(scope="module")
def running_redis(tmp_path_factory: pytest.TempPathFactory, ca: Authority) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("redis")
    pair, _ = ca.write(folder)
    with redis_server(folder, pair=pair) as server:
        yield server


@pytest.fixture
def redis(running_redis: RedisServer) -> RedisServer:
    running_redis.cli("FLUSHALL")
    return running_redis


@pytest.fixture
def guarded(redis: RedisServer) -> Iterator[RedisServer]:
    """A server with a password, and a user of its own."""
    redis.cli("ACL", "SETUSER", "ann", "on", ">ann's", "~*", "+@all")
    redis.cli("CONFIG", "SET", "requirepass", "right")
    yield redis
    redis.cli("-a", "right", "CONFIG", "SET", "requirepass", "")


@pytest.fixture
def asyncio_only(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("redis-py's asyncio client does not run on trio")
