"""Real members, real servers: whatever is killed or stopped, the backend never counts too many sockets."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from .counting import counting_server
from .processes import MemberProcess
from .servers import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .counting import CountingServer
    from .servers import RedisServer

LIMIT = 6
BACKENDS = ("asyncio", "uvloop", "trio")


class Scene:
    """A backend, a store, and members."""

    def __init__(self, server: CountingServer, redis: RedisServer, stack: ExitStack) -> None:
        self.server = server
        self.redis = redis
        self.members: list[MemberProcess] = []
        self._stack = stack

    def join(self, **keywords: object) -> MemberProcess:
        backend = BACKENDS[len(self.members) % 3]
        options = {
            "name": "f",
            "max_per_host": LIMIT,
            "interval": 0.3,
            "lease": 0.9,
            "fallback": "none",
        }
        member = MemberProcess(backend, self.redis.url, self.server.port, **{**options, **keywords})
        self._stack.callback(member.close)
        self.members.append(member)
        return member

    def until(self, what: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something is so; the limit holds all the time."""
        end = time.monotonic() + seconds
        while not what():
            assert self.server.most <= LIMIT
            assert time.monotonic() < end, (self.server.open, [member.served for member in self.members])
            time.sleep(0.01)
        assert self.server.most <= LIMIT

    def all_served(self) -> None:
        """Wait until every member that lives has been served some more."""
        live = [member for member in self.members if member.process.poll() is None]
        before = [member.served for member in live]
        self.until(lambda: all(one.served > was + 5 for one, was in zip(live, before, strict=True)))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        server = stack.enter_context(counting_server())
        redis = stack.enter_context(redis_server(tmp_path))
        yield Scene(server, redis, stack)


def test_a_member_that_is_killed_gives_its_places_back(scene: Scene) -> None:
    first = scene.join()
    scene.until(lambda: scene.server.open == LIMIT)
    others = [scene.join(), scene.join()]
    scene.until(lambda: all(other.served > 5 for other in others))
    first.close()
    scene.until(lambda: scene.server.open < LIMIT)
    scene.until(lambda: scene.server.open == LIMIT)
    scene.all_served()


def test_a_stopped_member_ends_its_connections_when_it_wakes(scene: Scene) -> None:
    """Frozen for longer than its lease it still has its sockets: the one exception. Awake, it has not."""
    frozen, other = scene.join(), scene.join()
    scene.all_served()
    frozen.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)  # longer than its lease: this is what is shown
    frozen.process.send_signal(signal.SIGCONT)
    end = time.monotonic() + 10
    while scene.server.open > LIMIT:
        assert time.monotonic() < end
    scene.server.most = 0
    scene.until(lambda: frozen.served > 5 and other.served > 5)
    scene.all_served()


def test_a_store_that_is_killed_and_comes_back_empty(scene: Scene) -> None:
    for _ in range(3):
        scene.join()
    scene.all_served()
    scene.redis.kill()
    scene.until(lambda: scene.server.open == 0)
    scene.redis.start()
    scene.all_served()


def test_a_store_restarted_at_once_grants_nothing_new_at_first(scene: Scene) -> None:
    for _ in range(3):
        scene.join()
    scene.all_served()
    scene.redis.kill()
    scene.redis.start()
    scene.all_served()
    scene.until(lambda: scene.server.open == LIMIT)


def test_a_store_that_is_stopped_for_a_while(scene: Scene) -> None:
    for _ in range(2):
        scene.join()
    scene.all_served()
    scene.redis.signal(signal.SIGSTOP)
    scene.until(lambda: scene.server.open == 0)
    scene.redis.signal(signal.SIGCONT)
    scene.all_served()


def test_shares_while_the_store_is_away(scene: Scene) -> None:
    for _ in range(2):
        scene.join(fallback="share", fallback_for=60)
    scene.all_served()
    scene.redis.kill()
    time.sleep(2)  # the leases have ended: this is what is shown
    scene.all_served()
    assert 0 < scene.server.open <= LIMIT
    scene.redis.start()
    scene.all_served()
