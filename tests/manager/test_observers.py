"""An observer is told everything, once, in order and with reasons; and it may do what it likes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    ManagerClosed,
    Observer,
    QueueFull,
    RequestCancelled,
    Reuse,
)
from tests.support import Server, refused_port
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keepalive import Connection, Dial, Key, Link, Request

NEW = ["queued", "opening", "opened", "lent"]


# -- complete sequences ------------------------------------------------------------------------------


async def test_a_life(echo_server: Server) -> None:
    recorder = Recorder()
    soon = pytest.approx(0, abs=PATIENCE)
    keys: set[Key] = set()
    async with ConnectionManager(observer=recorder, keep_alive=0.05) as manager:
        for _ in range(2):
            async with ask(manager, echo_server) as conn:
                keys.add(conn.key)
        await recorder.until(lambda: "closed" in recorder.names())
    (key,) = keys
    assert recorder.events == [
        ("queued", key, 1),
        ("opening", key, 1),
        ("opened", key, 1),
        ("lent", key, 1, 1, None, soon),
        ("idle", key, 1),
        ("lent", key, 1, 2, Reuse.IMMEDIATE, 0.0),
        ("idle", key, 1),
        ("closed", key, 1, "expired"),
    ]


async def test_immediate_and_deferred(echo_server: Server) -> None:
    recorder = Recorder()
    async with ConnectionManager(observer=recorder, max_per_host=1) as manager:
        async with ask(manager, echo_server):
            waiting = ask(manager, echo_server)
        async with waiting:
            pass
        async with ask(manager, echo_server):
            pass
    lent = [(event[3], event[4]) for event in recorder.events if event[0] == "lent"]
    assert lent == [(1, None), (2, Reuse.DEFERRED), (3, Reuse.IMMEDIATE)]
    assert recorder.names() == [*NEW, "queued", "lent", "idle", "lent", "idle", "closed"]
    assert recorder.reasons() == ["shutdown"]


async def peer(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    async with ask(manager, server) as conn:
        await exchange(conn)
    server.disconnect_all()
    await recorder.until(lambda: bool(recorder.reasons()), 1)


async def unread(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    async with ask(manager, server) as conn:
        await conn.send(b"1234")
        await conn.receive(1)


async def discarded(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    with pytest.raises(KeyError):
        async with ask(manager, server):
            raise KeyError


async def dropped(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    conn = await ask(manager, server)
    await exchange(conn)
    held = [conn]
    del conn
    with pytest.warns(ResourceWarning, match="dropped without being given back"):
        held.clear()
    await recorder.until(lambda: bool(recorder.reasons()))


async def busy(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    async with ask(manager, server) as conn:
        await conn.send_eof()


async def lifetime(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    async with ask(manager, server):
        pass
    await recorder.until(lambda: bool(recorder.reasons()))


async def uses(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    for _ in range(2):
        async with ask(manager, server):
            pass


async def limit(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    async with ask(manager, server), ask(manager, server):
        manager.set_limits(max_per_host=1)


async def evicted(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    async with ask(manager, server):
        pass
    async with ask(manager, server, for_addr="other"):
        pass


async def shutdown(manager: ConnectionManager, server: Server, recorder: Recorder) -> None:
    async with ask(manager, server):
        manager.shutdown()


@pytest.mark.parametrize(
    ("deed", "options"),
    [
        (peer, {}),
        (unread, {}),
        (discarded, {}),
        (dropped, {}),
        (busy, {}),
        (lifetime, {"max_lifetime": 0.05}),
        (uses, {"max_uses": 2}),
        (limit, {}),
        (evicted, {"max_open": 1}),
        (shutdown, {}),
    ],
)
async def test_every_reason_to_close(
    deed: Callable[[ConnectionManager, Server, Recorder], Coroutine[Any, Any, None]],
    options: dict[str, Any],
    echo_server: Server,
) -> None:
    # heritage pools 2.10.
    recorder = Recorder()
    async with ConnectionManager(observer=recorder, **options) as manager:
        await deed(manager, echo_server, recorder)
        assert recorder.reasons()[:1] == [deed.__name__]
        assert manager.stats().closed == {deed.__name__: 1}


async def test_failures(silent_server: Server) -> None:
    recorder = Recorder()

    async def hang(dial: Dial) -> Link:
        await anyio.sleep_forever()
        raise AssertionError

    async with ConnectionManager(
        observer=recorder, connectors={"hang": FunctionConnector(hang)}, max_per_host=1, max_waiting=0
    ) as manager:
        with refused_port() as port, pytest.raises(ConnectError) as caught:
            await manager.allocate("http", "127.0.0.1", port)
        key = caught.value.key
        assert recorder.events[:2] == [("queued", key, 1), ("opening", key, 1)]
        name, _, number, error = recorder.events[2]
        assert (name, number) == ("attempt_failed", 1)
        assert caught.value.__cause__ is error.__cause__
        assert recorder.events[3:] == [("failed", key, 1, "attempt", "connect")]
        recorder.events.clear()
        with pytest.raises(AllocateTimeout):
            await ask(manager, silent_server, scheme="hang", timeout=0.02)
        assert [event[0] for event in recorder.events] == ["queued", "opening", "failed"]
        assert recorder.events[-1][2:] == (2, "timeout", "connect")
        recorder.events.clear()
        request = ask(manager, silent_server, scheme="hang")
        with pytest.raises(QueueFull):
            ask(manager, silent_server, scheme="hang")
        request.cancel()
        manager.shutdown()
        told = [event[0] for event in recorder.events]
        assert told == ["queued", "queued", "failed", "cancelled", "attempt_aborted"]
        assert recorder.events[2][3:] == ("attempt", "queue")


async def test_connect_timeout_and_shutdown(silent_server: Server) -> None:
    recorder = Recorder()

    async def hang(dial: Dial) -> Link:
        await anyio.sleep_forever()
        raise AssertionError

    connectors = {"hang": FunctionConnector(hang)}
    async with ConnectionManager(observer=recorder, connectors=connectors, connect_timeout=0.02) as manager:
        with pytest.raises(AllocateTimeout):
            await ask(manager, silent_server, scheme="hang")
        assert recorder.names() == ["queued", "opening", "attempt_aborted", "failed"]
        assert recorder.events[-1][3:] == ("connect_timeout", "connect")
        recorder.events.clear()
        request = ask(manager, silent_server, scheme="hang")
        manager.shutdown()
        with pytest.raises(ManagerClosed):
            await request
        assert sorted(recorder.names()) == ["attempt_aborted", "failed", "opening", "queued"]
        assert ("shutdown", "queue") in [event[3:] for event in recorder.events]


# -- observers that misbehave ------------------------------------------------------------------------


class Raiser(Recorder):
    """Remember the event, then raise."""

    def _note(self, *event: Any) -> None:
        super()._note(*event)
        raise RuntimeError(f"in {event[0]}")


async def test_one_that_raises_changes_nothing(echo_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    raiser = Raiser()
    async with ConnectionManager(observer=raiser, max_per_host=1) as manager:
        for _ in range(2):
            async with ask(manager, echo_server) as conn:
                await exchange(conn)
        request = ask(manager, echo_server, fresh=True)
        request.cancel()
        with refused_port() as port, pytest.raises(ConnectError):
            await manager.allocate("http", "127.0.0.1", port)
        async with ask(manager, echo_server) as conn:
            await exchange(conn)
    assert echo_server.peak == 1
    assert len(caplog.records) == len(raiser.events) > 10
    assert {record.name for record in caplog.records} == {"keepalive"}
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


class Meddler(Observer):
    """At every event, do something to the manager that tells of it."""

    def __init__(self) -> None:
        self.manager: ConnectionManager
        self.server: Server
        self.deed: Callable[[Meddler], object]
        self.left = 60
        self.busy = 0
        self.deepest = 0
        self.requests: list[Request] = []
        self.conns: list[Connection] = []

    def _note(self, *_: object) -> None:
        if self.left:
            self.left -= 1
            self.busy += 1
            self.deepest = max(self.deepest, self.busy)
            try:
                self.deed(self)
            finally:
                self.busy -= 1

    def allocate(self) -> None:
        try:
            self.requests.append(ask(self.manager, self.server, timeout=0.02, for_addr=f"k{self.left % 3}"))
        except ManagerClosed:
            pass


def _hook(name: str) -> Callable[..., None]:
    return lambda self, *details: self._note(name, *details)


for _name in ("queued", "opening", "opened", "attempt_failed", "attempt_aborted"):
    setattr(Meddler, _name, _hook(_name))
for _name in ("lent", "idle", "closed", "failed", "cancelled"):
    setattr(Meddler, _name, _hook(_name))


def allocate_and_cancel(meddler: Meddler) -> None:
    meddler.allocate()
    meddler.requests[meddler.left % len(meddler.requests)].cancel()


def deallocate_anything(meddler: Meddler) -> None:
    meddler.allocate()
    meddler.manager.deallocate(meddler.left % meddler.manager.stats().requests + 1)


def release(meddler: Meddler) -> None:
    if meddler.conns:
        meddler.conns.pop().release()


def free(meddler: Meddler) -> None:
    if meddler.conns:
        conn = meddler.conns.pop()
        try:
            meddler.manager.free(conn)
        except ValueError:
            conn.release()


def discard(meddler: Meddler) -> None:
    if meddler.conns:
        meddler.conns.pop().discard()


def move_limits(meddler: Meddler) -> None:
    meddler.manager.set_limits(max_per_host=2 + meddler.left % 2, max_open=2 + meddler.left % 5)


def shut_down(meddler: Meddler) -> None:
    if meddler.left < 30:
        meddler.manager.shutdown()


def look(meddler: Meddler) -> None:
    stats = meddler.manager.stats()
    assert stats.open == stats.connecting + stats.lent + stats.idle + stats.closing
    repr(meddler.manager)


@pytest.mark.parametrize(
    "deed",
    [
        Meddler.allocate,
        allocate_and_cancel,
        deallocate_anything,
        release,
        free,
        discard,
        move_limits,
        shut_down,
        look,
    ],
)
async def test_one_that_meddles(deed: Callable[[Meddler], object], echo_server: Server) -> None:
    """Whatever it calls, from inside of any event: no call is nested in another, and nothing is lost."""
    meddler = Meddler()
    async with ConnectionManager(observer=meddler, max_per_host=2, max_open=5, timeout=PATIENCE) as manager:
        meddler.manager, meddler.server, meddler.deed = manager, echo_server, deed
        try:
            await work(manager, echo_server, meddler)
        except (AllocateError, RequestCancelled, ManagerClosed, anyio.ClosedResourceError):
            assert deed in (shut_down, deallocate_anything, discard, release, free)
        meddler.left = 0
        for request in meddler.requests:
            request.cancel()
        await turns()
        if deed is not shut_down:
            manager.set_limits(max_per_host=2, max_open=5)
            for name in ("k0", "k1", "k2"):
                async with ask(manager, echo_server, for_addr=name), ask(manager, echo_server, for_addr=name):
                    pass
        assert (manager.stats().lent, manager.stats().waiting) == (0, 0)
    assert meddler.deepest <= 1
    assert echo_server.peak <= 6


async def work(manager: ConnectionManager, server: Server, meddler: Meddler) -> None:
    """Make all kinds of events happen."""
    for turn in range(12):
        conns: list[Connection] = []
        try:
            for _ in range(2):
                conns.append(await ask(manager, server, for_addr=f"k{turn % 3}"))
                meddler.conns.append(conns[-1])
            waiting = ask(manager, server, for_addr=f"k{turn % 3}")
            conns[0].release()
            waiting.cancel()
            await turns(3)
        finally:
            for conn in conns:
                conn.discard()


async def test_an_observer_sees_the_keys_of_requests(echo_server: Server) -> None:
    seen: set[Key] = set()

    class Keys(Observer):
        def lent(self, key: Key, *_: object) -> None:
            seen.add(key)

    async with ConnectionManager(observer=Keys()) as manager:
        async with ask(manager, echo_server, for_scheme="http", for_addr="x.test", for_port=80) as conn:
            assert seen == {conn.key}
        assert next(iter(seen))[3:] == ("http", "x.test", 80)
