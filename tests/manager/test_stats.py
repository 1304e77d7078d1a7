"""The numbers always add up, at every moment, and a snapshot stays what it was."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    QueueFull,
    Stats,
)
from tests.support import refused_port
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import turns

if TYPE_CHECKING:
    from keepalive import Dial, KeyStats, Link, Request
    from tests.support import Server

GAUGES = ("open", "connecting", "lent", "idle", "closing", "waiting", "queued")
TOTALS = ("requests", "immediate", "deferred", "new", "opened", "timeouts", "cancelled")


def check(manager: ConnectionManager, served: int = 0) -> Stats:
    """See that the numbers agree with each other; `served` requests have not been fetched."""
    stats = manager.stats()
    for numbers in (stats, *stats.keys.values()):
        assert numbers.open == numbers.connecting + numbers.lent + numbers.idle + numbers.closing
        assert numbers.queued <= numbers.waiting
        # What was opened and is not closed is lent or idle.
        assert numbers.opened - sum(numbers.closed.values()) == numbers.lent + numbers.idle
    assert stats.requests == ended(stats) + stats.waiting + served
    assert sum(ended(key) + key.waiting for key in stats.keys.values()) + served == stats.requests
    for name in (*GAUGES, *TOTALS):
        assert getattr(stats, name) == sum(getattr(key, name) for key in stats.keys.values()), name
    for name in ("failed", "closed"):
        total: Counter[str] = Counter()
        for key in stats.keys.values():
            total.update(getattr(key, name))
        assert getattr(stats, name) == total, name
    shown = dict(re.findall(r"(\w+)=(\d+)", repr(manager)))
    for name, number in shown.items():
        assert getattr(stats, name) == int(number), name
    return stats


def ended(numbers: KeyStats) -> int:
    """How many requests have been answered."""
    got = numbers.immediate + numbers.deferred + numbers.new
    return got + numbers.timeouts + numbers.cancelled + sum(numbers.failed.values())


class Checks(Recorder):
    """Look at the numbers inside of every event that changes them."""

    manager: ConnectionManager | None = None

    def _note(self, *event: Any) -> None:
        super()._note(*event)
        assert self.manager is not None
        stats = self.manager.stats()
        for numbers in (stats, *stats.keys.values()):
            assert numbers.open == numbers.connecting + numbers.lent + numbers.idle + numbers.closing


async def hang(dial: Dial) -> Link:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_long_story(echo_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    # heritage pools 2.10.
    checks = Checks()
    connectors = {"hang": FunctionConnector(hang)}
    async with ConnectionManager(
        max_per_host=2, max_open=4, max_waiting=3, connectors=connectors, observer=checks
    ) as manager:
        checks.manager = manager
        assert check(manager) == Stats()
        first = await ask(manager, echo_server)
        second = await ask(manager, echo_server)
        assert (check(manager).new, check(manager).lent) == (2, 2)
        waiting = ask(manager, echo_server, timeout=0.02)
        assert (check(manager).waiting, check(manager).queued) == (1, 1)
        with pytest.raises(AllocateTimeout):
            await waiting
        assert check(manager).timeouts == 1
        waiting = ask(manager, echo_server)
        first.release()
        assert check(manager, served=1).waiting == 0
        third = await waiting
        assert check(manager).deferred == 1
        third.release()
        second.discard()
        assert (check(manager).idle, check(manager).closed) == (1, {"discarded": 1})
        async with ask(manager, echo_server):
            assert check(manager).immediate == 1
        gone = ask(manager, echo_server)
        assert check(manager, served=1).idle == 0
        assert gone.cancel()
        assert (check(manager).cancelled, check(manager).idle) == (1, 1)
        pending = await fail_in_many_ways(manager)
        stats = check(manager)
    final = check(manager)
    assert final.open == 0
    assert final.failed["shutdown"] == len(pending)
    assert (stats.waiting, stats.failed) == (5, {"connect": 1, "queue": 1})  # as it was
    assert len(checks.events) > 20
    assert not caplog.records


async def fail_in_many_ways(manager: ConnectionManager) -> list[Request]:
    with refused_port() as port, pytest.raises(ConnectError):
        await manager.allocate("http", "127.0.0.1", port)
    check(manager)
    requests = [manager.allocate("hang", "127.0.0.1", 9) for _ in range(5)]
    assert (check(manager).connecting, check(manager).queued) == (2, 3)
    with pytest.raises(QueueFull):
        manager.allocate("hang", "127.0.0.1", 9)
    check(manager)
    await turns()
    assert check(manager).waiting == 5
    return requests


async def test_a_snapshot_is_frozen(echo_server: Server) -> None:
    async with ConnectionManager() as manager:
        before = manager.stats()
        async with ask(manager, echo_server) as conn:
            now = manager.stats()
            assert (before.lent, now.lent) == (0, 1)
            assert set(now.keys) == {conn.key}
            with pytest.raises(dataclasses.FrozenInstanceError):
                now.lent = 5  # type: ignore[misc]  # that is the point
            for mapping in (now.keys, now.failed, now.closed):
                with pytest.raises(TypeError):
                    mapping["x"] = 1  # type: ignore[index]  # that is the point


async def test_repr_in_one_line(echo_server: Server) -> None:
    manager = ConnectionManager()
    assert repr(manager).startswith("<ConnectionManager new: open=0 ")
    with pytest.raises(RuntimeError, match="not been entered"):
        manager.stats()
    async with manager:
        request = ask(manager, echo_server)
        assert "waiting=1" in repr(manager)
        assert repr(request) == f"<Request 1 for http://127.0.0.1:{echo_server.port}: queued>"
        async with request as conn:
            await exchange(conn)
            assert "lent=1" in repr(manager)
            assert "lent" in repr(conn)
        assert "idle=1" in repr(manager)
        assert "given back" in repr(conn)
        assert "claimed" in repr(request)
        assert "\n" not in repr(manager)
    assert repr(manager).startswith("<ConnectionManager closed: open=0 ")
    assert manager.stats().new == 1
