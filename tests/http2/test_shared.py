"""What went wrong in other pools that lend one connection to many, with the manager: it must not here."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from h2.settings import SettingCodes

from keepalive import http
from tests.support.cancelling import cancel_everywhere
from tests.support.waiting import turns, until

from .kit import CANCEL, GOAWAY, SETTINGS, Asked, Origin, frame, goaway, managed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .kit import Managed

MAX_STREAMS = SettingCodes.MAX_CONCURRENT_STREAMS
WINDOW = SettingCodes.INITIAL_WINDOW_SIZE


def silent(asked: Asked) -> None:
    """Say nothing."""


def settings(code: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, int(code).to_bytes(2, "big") + value.to_bytes(4, "big"))


async def all_back(mgr: Managed, origin: Origin) -> None:
    """Wait until neither side has anything open."""
    await until(lambda: sum(mgr.server.do(lambda: [talk.open for talk in origin.talks])) == 0)
    await until(lambda: mgr.manager.stats().lent == 0)


# -- 1: cancelled requests leave no stream and no share behind ------------------------------------------


@pytest.mark.parametrize(("method", "content"), [("GET", None), ("POST", b"x" * 300_000)])
async def test_a_request_cancelled_anywhere_leaves_nothing_open(method: str, content: bytes | None) -> None:
    origin = Origin({"/big": lambda asked: asked.ok(b"x" * 300_000)})
    async with managed(origin, {"window": 65535}) as mgr:

        async def work() -> None:
            async with mgr.ask("/big", method, content=content) as response:
                await response.read()

        async def check() -> None:
            await all_back(mgr, origin)
            assert mgr.open <= 1

        await mgr.get()
        assert await cancel_everywhere(work, check) > 3
        assert await mgr.get() == b"hello"
        assert len(origin.talks) == 1


async def test_a_storm_of_cancellations_leaves_counts_equal() -> None:
    dice = random.Random(7)
    origin = Origin({"/big": lambda asked: asked.ok(b"x" * 70_000)}, {MAX_STREAMS: 10})
    async with managed(origin, max_per_host=2) as mgr:
        done = 0

        async def ask() -> None:
            nonlocal done
            with anyio.move_on_after(dice.choice([0, 0.001, 0.005, 0.02, 100, 100, 100])):
                await mgr.get(dice.choice(["/", "/big"]))
                done += 1

        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(40):
                    tasks.start_soon(ask)
        await all_back(mgr, origin)
        assert done > 100
        assert len(origin.talks) <= 2
        # All shares are there: as many as ever run at once.
        origin.routes["/"] = silent
        before = len(origin.asked)
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(mgr.get)
            await until(lambda: len(origin.asked) == before + 20)
            tasks.cancel_scope.cancel()


# -- 2 and 9: at the limit of streams -------------------------------------------------------------------


async def test_who_finds_no_free_stream_gets_another_connection_within_the_limits() -> None:
    origin = Origin({"/": silent}, {MAX_STREAMS: 1})
    async with managed(origin, max_per_host=3) as mgr, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(mgr.get)
        await until(lambda: len(origin.asked) == 3)
        await turns()
        assert mgr.server.do(lambda: [talk.open for talk in origin.talks]) == [1, 1, 1]
        origin.routes["/"] = Asked.ok
        mgr.server.do(lambda: origin.answer(10))
    assert len(origin.asked) == 5


async def test_who_may_open_no_other_waits_his_turn() -> None:
    most = 0

    def answer(asked: Asked) -> None:
        nonlocal most
        most = max(most, asked.talk.open)
        asked.ok()

    origin = Origin({"/": answer}, {MAX_STREAMS: 3})
    async with managed(origin, max_per_host=1) as mgr:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(mgr.get)
        assert len(origin.asked) >= 50
        assert most == 3


# -- 3: settings in flight ------------------------------------------------------------------------------


async def test_fewer_streams_than_are_in_flight_are_no_deadlock() -> None:
    origin = Origin({"/": silent})
    async with managed(origin, max_per_host=1) as mgr:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(mgr.get)
            await until(lambda: len(origin.asked) == 10)
            mgr.server.do(lambda: origin.talks[0].peer.send(settings(MAX_STREAMS, 2)))
            origin.routes["/"] = Asked.ok
            for _ in range(10):
                tasks.start_soon(mgr.get)
            mgr.server.do(lambda: origin.answer(10))
        assert len(origin.asked) == 20


async def test_no_streams_at_all_means_to_wait_for_more() -> None:
    origin = Origin()
    async with managed(origin, max_per_host=1) as mgr:
        await mgr.get()
        mgr.server.do(lambda: origin.talks[0].peer.send(settings(MAX_STREAMS, 0)))
        # What answers after them has seen the settings.
        talk = origin.talks[0]
        await until(lambda: talk.settled == 2)
        with anyio.move_on_after(0.05) as scope:
            await mgr.get()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mgr.get)
            await turns()
            mgr.server.do(lambda: talk.peer.send(settings(MAX_STREAMS, 5)))
        assert len(origin.asked) == 2
        assert len(origin.talks) == 1


async def test_windows_changed_in_flight_are_kept() -> None:
    content = bytes(range(256)) * 1000
    origin = Origin({"/": lambda asked: asked.ok(asked.body)}, {WINDOW: 1000}, hold=True)
    async with managed(origin) as mgr, anyio.create_task_group() as tasks:

        async def ask() -> None:
            async with mgr.ask("/", "POST", content=content) as response:
                assert await response.read() == content

        tasks.start_soon(ask)
        await until(lambda: bool(origin.asked) and len(origin.asked[0].body) == 1000)
        talk = origin.talks[0]

        def change(value: int) -> None:
            talk.h2.update_settings({WINDOW: value})
            talk.flush()

        mgr.server.do(lambda: change(10))
        await until(lambda: talk.settled == 2)
        mgr.server.do(lambda: change(5000))
        await until(lambda: len(origin.asked[0].body) == 5000)
        mgr.server.do(lambda: change(2**20))
        mgr.server.do(lambda: talk.widen(2**20))


# -- 4: a request meets the end of an idle connection ---------------------------------------------------


async def test_no_request_is_lost_to_the_end_of_an_idle_connection() -> None:
    origin = Origin()
    async with managed(origin, keep_alive=0.01) as mgr:
        for n in range(40):
            assert await mgr.get() == b"hello"
            await anyio.sleep(0.0005 * n)


async def test_shared_connections_end_when_they_were_idle_long_enough() -> None:
    async with managed(Origin(), keep_alive=0.02) as mgr:
        await mgr.get()
        await until(lambda: mgr.open == 0)


# -- 5: an answer is left -------------------------------------------------------------------------------


async def test_an_answer_that_is_left_is_reset_and_its_share_returns() -> None:
    origin = Origin({"/endless": lambda asked: asked.ok(b"x" * 10_000_000)})
    async with managed(origin) as mgr:
        async with mgr.ask("/endless") as response:
            await response.__anext__()
        await until(lambda: origin.asked[0].reset == CANCEL)
        await all_back(mgr, origin)
        assert await mgr.get() == b"hello"
        assert len(origin.talks) == 1


async def test_an_answer_that_is_dropped_is_reset() -> None:
    origin = Origin({"/": lambda asked: asked.head(200)})
    async with managed(origin) as mgr:
        response: Any = await mgr.ask()
        with pytest.warns(ResourceWarning):
            del response
        await until(lambda: origin.asked[0].reset == CANCEL)
        await all_back(mgr, origin)


# -- 6: GOAWAY ------------------------------------------------------------------------------------------


async def test_goaway_lets_some_finish_and_sends_the_others_again() -> None:
    origin = Origin({"/": silent})
    async with managed(origin, max_per_host=1) as mgr:
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(lambda: mgr.get("/", method="POST", content=b"not idempotent"))
            await until(lambda: len(origin.asked) == 6)
            origin.routes["/"] = Asked.ok
            first = origin.talks[0]
            mgr.server.do(lambda: first.peer.send(goaway(5)))  # three of them were begun
            mgr.server.do(lambda: origin.answer(3))
        assert len(origin.asked) == 9
        assert len(origin.talks) == 2
        assert len({asked.talk for asked in origin.asked[6:]}) == 1
        await until(lambda: first.peer.gone)
        assert await mgr.get() == b"hello"
        assert len(origin.talks) == 2


async def test_a_graceful_goaway_takes_its_time() -> None:
    origin = Origin({"/": silent})
    async with managed(origin) as mgr, anyio.create_task_group() as tasks:
        tasks.start_soon(mgr.get)
        await until(lambda: len(origin.asked) == 1)
        first = origin.talks[0]
        mgr.server.do(lambda: first.peer.send(goaway(2**31 - 1)))
        origin.routes["/"] = Asked.ok
        assert await mgr.get() == b"hello"
        mgr.server.do(lambda: first.peer.send(goaway(1)))
        mgr.server.do(lambda: origin.asked[0].ok(b"late"))
        await until(lambda: first.peer.gone)


async def test_goaway_with_an_error_tells_it() -> None:
    def answer(asked: Asked) -> None:
        asked.head(200)
        asked.talk.peer.send(goaway(asked.id, 11, b"too many \x1b[2J pings"))
        asked.talk.peer.close()

    async with managed(Origin({"/": answer})) as mgr, mgr.ask() as response:
        with pytest.raises(http.BadAnswer, match="ENHANCE_YOUR_CALM") as caught:
            await response.read()
        assert "\x1b" not in str(caught.value)


# -- 7: dead, but open ----------------------------------------------------------------------------------


async def test_silence_after_a_ping_is_death() -> None:
    origin = Origin({"/": silent})
    async with managed(origin, {"ping_after": 0.05}) as mgr:
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with anyio.fail_after(5), pytest.raises(http.ReadError, match="silent"):
                    await mgr.ask("/", "POST")

            tasks.start_soon(ask)
            await until(lambda: bool(origin.asked))
            mgr.server.pause_reading()
        await until(lambda: mgr.open == 0)


async def test_the_watchdog_does_not_queue_behind_a_write_that_is_stuck() -> None:
    origin = Origin({"/": lambda asked: asked.talk.peer.pause()}, {WINDOW: 2**30}, early=True)
    async with managed(origin, {"ping_after": 0.1}) as mgr:
        with anyio.fail_after(5), pytest.raises(http.ReadError, match="silent"):
            await mgr.get()
            async with mgr.ask("/", "POST", content=b"x" * 30_000_000):
                pass
        await until(lambda: mgr.open == 0)


async def test_pings_are_answered_and_keep_a_connection() -> None:
    origin = Origin()
    async with managed(origin, {"ping_after": 0.02}) as mgr:
        await mgr.get()
        await until(lambda: origin.talks[0].pings >= 3)
        await mgr.get()
        assert len(origin.talks) == 1


async def test_nobody_is_pinged_by_default() -> None:
    origin = Origin()
    async with managed(origin) as mgr:
        await mgr.get()
        await anyio.sleep(0.1)
        await mgr.get()
        assert origin.talks[0].pings == 0


# -- 8: one blocked write holds nobody else -------------------------------------------------------------


async def test_a_write_that_is_stuck_holds_up_no_reading_and_no_leaving() -> None:
    origin = Origin({"/slow": lambda asked: asked.head(200), "/big": silent}, {WINDOW: 2**30})
    async with managed(origin, max_per_host=1) as mgr:
        async with mgr.ask("/slow") as response:
            mgr.server.do(lambda: origin.talks[0].widen(2**30))
            mgr.server.pause_reading()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: mgr.get("/big", method="POST", content=b"x" * 30_000_000))
                await turns(100)
                mgr.server.do(lambda: origin.asked[0].data(b"content"))
                with anyio.fail_after(5):
                    assert await response.__anext__() == b"content"
                    with anyio.move_on_after(0.05):
                        await mgr.get()
                tasks.cancel_scope.cancel()
            mgr.server.resume_reading()
            mgr.server.do(lambda: origin.asked[0].data(b"", end=True))
            assert await response.read() == b""
        await all_back(mgr, origin)
        assert await mgr.get() == b"hello"
        assert len(origin.talks) == 1


# -- 10: refused, or misdirected ------------------------------------------------------------------------


async def test_a_refused_request_is_sent_again() -> None:
    def answer(asked: Asked) -> None:
        asked.ok() if len(origin.asked) > 2 else asked.refuse()

    origin = Origin({"/": answer})
    async with managed(origin) as mgr, mgr.ask("/", "POST", content=b"once") as response:
        assert await response.read() == b"hello"
        assert response.retried
    assert [asked.body for asked in origin.asked] == [b"once"] * 3


async def test_content_that_was_not_asked_for_yet_is_sent_again() -> None:
    def answer(asked: Asked) -> None:
        asked.refuse() if len(origin.asked) == 1 else asked.head(100)

    async def content() -> AsyncIterator[bytes]:
        yield b"once"

    origin = Origin({"/": answer}, early=True)
    async with managed(origin) as mgr:
        exchange = mgr.ask("/", "POST", content=content(), headers={"Expect": "100-continue"})
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                async with exchange as response:
                    assert await response.read() == b"late"

            tasks.start_soon(ask)
            await until(lambda: len(origin.asked) == 2 and origin.asked[1].ended)
            assert origin.asked[1].body == b"once"
            mgr.server.do(lambda: origin.asked[1].ok(b"late"))


async def test_a_request_that_is_always_refused_fails() -> None:
    origin = Origin({"/": Asked.refuse})
    async with managed(origin) as mgr:
        with pytest.raises(http.Refused):
            await mgr.get()
    assert len(origin.asked) == 5


async def test_a_misdirected_request_is_tried_on_another_connection() -> None:
    def answer(asked: Asked) -> None:
        asked.ok() if asked.talk is not origin.talks[0] else asked.ok(b"not here", 421)

    origin = Origin({"/421": answer})
    async with managed(origin) as mgr:
        await mgr.get()
        assert await mgr.get("/421", method="POST", content=b"x") == b"hello"
        assert len(origin.talks) == 2


# -- flow control ---------------------------------------------------------------------------------------


async def test_a_slow_reader_stops_nobody_and_fills_no_memory() -> None:
    size = 20_000_000
    origin = Origin({"/big": lambda asked: asked.ok(b"x" * size)})
    async with managed(origin, {"window": 100_000}) as mgr:
        async with mgr.ask("/big") as response:
            for _ in range(20):
                assert await mgr.get() == b"hello"
            left = mgr.server.do(lambda: len(origin.talks[0].queue[0][1]))
            assert size - left <= 200_000
            assert len(await response.read()) == size
        assert len(origin.talks) == 1


async def test_content_is_asked_for_only_as_the_peer_takes_it() -> None:
    yielded = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal yielded
        for _ in range(1000):
            yielded += 10_000
            yield b"x" * 10_000

    origin = Origin({"/slow": silent}, hold=True)
    async with managed(origin) as mgr, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: mgr.get("/slow", method="POST", content=content()))
        await until(lambda: bool(origin.asked) and len(origin.asked[0].body) == 65535)
        assert await mgr.get() == b"hello"
        assert yielded <= 65535 + 20_000
        tasks.cancel_scope.cancel()


async def test_the_rest_of_a_request_that_is_not_wanted_is_not_sent() -> None:
    def answer(asked: Asked) -> None:
        asked.head(413)
        asked.data(b"too much", end=True)
        asked.refuse(0)  # NO_ERROR, RFC 9113 8.1

    origin = Origin({"/": answer}, early=True, hold=True)
    async with managed(origin) as mgr:
        async with mgr.ask("/", "POST", content=b"x" * 1_000_000) as response:
            assert (response.status, await response.read()) == (413, b"too much")
        await all_back(mgr, origin)
        assert origin.talks[0].gone != GOAWAY
