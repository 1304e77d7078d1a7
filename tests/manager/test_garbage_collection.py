"""The garbage collector, from any thread and at any moment: heritage pools 3.40, 3.41 and 3.43."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectionManager, TLSConnector
from tests.support import Server, Silent
from tests.support.leaks import descriptors
from tests.support.requests import all_usable, ask, at_rest, exchange, take
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from types import FrameType

debugging = pytest.mark.parametrize(
    "anyio_backend",
    [
        # In debug mode asyncio refuses calls from a thread that is not the loop's.
        pytest.param(("asyncio", {"debug": True}), id="asyncio-debug"),
        pytest.param(("asyncio", {"use_uvloop": True, "debug": True}), id="uvloop-debug"),
        pytest.param(("trio", {}), id="trio"),
    ],
)
LOOPS = [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]
each_loop = pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop", "trio"])


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@debugging
async def test_40_dropped_in_another_thread(echo_server: Server) -> None:
    """heritage pools 3.40: asyncpg#376, trio-asyncio#44: the connection is closed and its slot free."""
    async with ConnectionManager(max_per_host=1) as mgr:
        for used in (True, False, True):
            box: list[object] = [await ask(mgr, echo_server)]
            if used:
                await exchange(box[0])  # type: ignore[arg-type]  # a connection
            waiting = ask(mgr, echo_server)
            with pytest.warns(ResourceWarning, match="was dropped"):
                in_thread(box.clear)
            async with waiting as conn:
                await exchange(conn)
                assert (conn.from_cache is None) == (used or conn.uses == 1)
        assert (at_rest(mgr), echo_server.peak) == (True, 1)
        box = [await ask(mgr, echo_server), ask(mgr, echo_server)]
        with pytest.warns(ResourceWarning, match="was dropped"):
            in_thread(box.clear)
        await until(lambda: at_rest(mgr))
        await all_usable(mgr, echo_server, 1)


@debugging
@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
async def test_40_eight_threads_drop_while_the_loop_works(echo_server: Server) -> None:
    """heritage pools 3.40: asyncpg#376: many drops at once, beside hand-overs; the numbers are right in the
    end."""
    # heritage pools 2.11.
    boxes: list[object] = []
    stop = threading.Event()

    def drop() -> None:
        while not stop.is_set() or boxes:
            try:
                boxes.pop()
            except IndexError:
                stop.wait(0.0005)

    threads = [threading.Thread(target=drop) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        async with ConnectionManager(max_per_host=4) as mgr:
            for number in range(200):
                conn = await ask(mgr, echo_server)
                if number % 3:
                    await exchange(conn)
                boxes += [conn, ask(mgr, echo_server)]
                del conn
            stop.set()
            await until(lambda: not boxes)
            await until(lambda: at_rest(mgr))
            await all_usable(mgr, echo_server, 4)
            assert echo_server.peak == 4
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Let nobody collect garbage but the test, and no more than its own."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def collection_at(number: int, counts: Callable[[str], bool]) -> Iterator[list[str]]:
    """Collect garbage in the call of that number, of those that count."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and counts(frame.f_code.co_filename):
            calls.append(frame.f_code.co_name)
            if len(calls) == number + 1:
                gc.collect()

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def in_a_cycle(thing: object) -> None:
    """Leave something that only the collector finds."""
    box = [thing]
    box.append(box)


async def _work(mgr: ConnectionManager, server: Server) -> None:
    """Go once through what a manager does, with waiters, hand-overs, closes and expiry."""
    async with ask(mgr, server) as conn:
        waiting = [ask(mgr, server) for _ in range(2)]
        await exchange(conn)
    first, second = [await request for request in waiting]
    first.discard()
    second.release()
    ask(mgr, server, n=2).cancel()
    mgr.set_limits(max_per_host=3)
    mgr.free(await ask(mgr, server, n=2))


@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
@pytest.mark.parametrize("where", ["/keepalive/", ""], ids=["in the manager", "anywhere"])
async def test_41_collected_inside_the_managers_code(echo_server: Server, where: str) -> None:
    """heritage pools 3.41: redis-py#3289, #3081, PR#3000: collection forced in every call of allocate, free,
    ..."""
    places: Counter[str] = Counter()
    number = 0
    with collected_by_hand():
        # Three places for the work; three are taken by garbage until somebody collects it.
        async with ConnectionManager(max_per_host=3, max_open=6) as mgr:
            await _work(mgr, echo_server)
            while True:
                used, unused = await take(mgr, echo_server, 2, n=4)
                await exchange(used)
                in_a_cycle((used, mgr))
                in_a_cycle((unused, ask(mgr, echo_server, n=3)))
                del used, unused
                with collection_at(number, lambda name: where in name) as calls:
                    await _work(mgr, echo_server)
                if len(calls) <= number:
                    break
                places[calls[number]] += 1
                number += 1 if where else 7
                gc.collect()
                await until(lambda: at_rest(mgr))
            gc.collect()
            await until(lambda: at_rest(mgr))
            await all_usable(mgr, echo_server, 3)
            assert echo_server.peak <= 6
    if where:
        assert number > 100
        assert len(places.keys() & {"allocate", "fetch", "release", "discard", "cancel", "free"}) >= 4


@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
async def test_41_a_collection_at_every_allocation(echo_server: Server) -> None:
    """heritage pools 3.41: redis-py#3081: the collector at its most eager, with something to find each
    time."""
    before = gc.get_threshold()
    async with ConnectionManager(max_per_host=3) as mgr:
        gc.set_threshold(1, 1, 1)
        try:
            for number in range(60):
                in_a_cycle(await ask(mgr, echo_server))
                in_a_cycle(ask(mgr, echo_server))
                async with ask(mgr, echo_server) as conn:
                    if number % 2:
                        await exchange(conn)
        finally:
            gc.set_threshold(*before)
        gc.collect()
        await until(lambda: at_rest(mgr))
        await all_usable(mgr, echo_server, 3)
        assert echo_server.peak <= 3


def abandoned(
    loop: tuple[str, dict[str, Any]], server: Server, mute: Server, tls: ssl.SSLContext
) -> list[object]:
    """Let a loop end in the middle of everything, its manager not left; return what the user holds."""
    left: list[object] = []

    async def main() -> None:
        mgr = await ConnectionManager(max_per_host=3, connectors={"https": TLSConnector(tls)}).__aenter__()
        lent, idle, used = await take(mgr, server, 3)
        idle.release()
        await exchange(used)
        stuck = mgr.allocate("https", mute.host, mute.port, for_addr="localhost")
        queued = [ask(mgr, server) for _ in range(2)]
        await mute.until(lambda server: server.received > 200)
        left.extend([mgr, lent, used, stuck, *queued])

    backend, options = loop
    anyio.run(main, backend=backend, backend_options=options)
    return left


@each_loop
@pytest.mark.parametrize("order", [1, -1], ids=["manager first", "manager last"])
def test_43_collected_after_the_loop_is_closed(
    loop: tuple[str, dict[str, Any]],
    order: int,
    echo_server: Server,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """heritage pools 3.43: httpcore#525: no exception is printed, and the descriptors are closed."""
    with Server(Silent()) as mute:
        before = descriptors()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            left = abandoned(loop, echo_server, mute, client_context)
            while left:
                left.pop(0 if order > 0 else -1)
                gc.collect()
            for server in (echo_server, mute):
                server.wait_for(lambda server: not server.connections and not server._peers)
        assert descriptors() == before
    assert capfd.readouterr().err == ""
    assert not caplog.records


@each_loop
def test_43_handles_that_outlive_their_manager(
    loop: tuple[str, dict[str, Any]], echo_server: Server, recwarn: pytest.WarningsRecorder
) -> None:
    """heritage pools 3.43: httpcore#525: left in order, nothing is to be said about what comes after."""
    left: list[object] = []

    async def main() -> None:
        async with ConnectionManager(max_per_host=2) as mgr:
            left.extend([mgr, *await take(mgr, echo_server, 2), ask(mgr, echo_server), ask(mgr, echo_server)])
            await turns()

    backend, options = loop
    anyio.run(main, backend=backend, backend_options=options)
    assert echo_server.connections == 0
    left.clear()
    gc.collect()
    assert not recwarn.list
