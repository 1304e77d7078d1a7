"""Hooks that do odd things, in odd moments."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from sniffio import current_async_library

from keepalive import ConnectionManager, Lifecycle, Request
from tests.support import Lines, Server, Silent
from tests.support.requests import all_gone
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    from keepalive import Key
    from keepalive.transport.stream import LinkStream


async def say(stream: LinkStream, word: bytes) -> bytes:
    await stream.send(word + b"\n")
    return await stream.receive_until(b"\n", 1000)


def cancelled() -> BaseException:
    """Return what awaiting a future raises that somebody else has cancelled."""
    return CancelledError() if current_async_library() == "asyncio" else RuntimeError()


def manager(lifecycle: Lifecycle[Any], **options: object) -> ConnectionManager:
    return ConnectionManager(lifecycles={"line": lifecycle}, **options)  # type: ignore[arg-type]  # by name


def ask(mgr: ConnectionManager, server: Server, timeout: float = 5) -> Request:
    return mgr.allocate("line", server.host, server.port, timeout)


class Hears(Lifecycle[None]):
    """What it is told to say to what comes while idle."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def received(self, state: None, data: bytes) -> bytes | None:
        if isinstance(self.answer, BaseException):
            raise self.answer
        answer: bytes | None = self.answer
        return answer


@pytest.mark.parametrize("wrong", ["text", "", 0, False, [], 5, CancelledError(), ValueError("odd")])
async def test_received_that_returns_what_it_may_not(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    with Server(Lines()) as server:
        async with manager(Hears(wrong)) as mgr:
            (await ask(mgr, server)).release()
            server.push(b"notice\n")
            await until_equal(lambda: dict(mgr.stats().closed), {"unread": 1})
    assert "received of the life cycle of line://" in caplog.text


async def test_received_that_fails_at_release_is_not_the_users(caplog: pytest.LogCaptureFixture) -> None:
    with Server(Lines()) as server:
        async with manager(Hears(CancelledError())) as mgr:
            conn = await ask(mgr, server)
            server.push(b"notice\n")
            assert mgr.stats().lent == 1
            await anyio.sleep(0.02)
            conn.release()
            await until_equal(lambda: dict(mgr.stats().closed), {"unread": 1})
    assert "received of the life cycle of line://" in caplog.text


@pytest.mark.parametrize("answer", [None, ValueError("odd")])
async def test_spare_whose_greeting_is_refused_is_closed(answer: object) -> None:
    """What was refused has been read: nobody may have the connection without it."""
    with Server(Lines()) as server:
        async with manager(Hears(answer)) as mgr:
            assert await mgr.preconnect("line", server.host, server.port) == 1
            server.push(b"go away\n")
            await until_equal(lambda: dict(mgr.stats().closed), {"unread": 1})


class Waits(Lifecycle[None]):
    """A check, or a reset, that has to wait for its answer."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    async def check(self, stream: LinkStream, state: None) -> None:
        if self.hook == "check":
            await say(stream, b"ping")

    async def reset(self, stream: LinkStream, state: None) -> None:
        if self.hook == "reset":
            await say(stream, b"ping")


@pytest.mark.parametrize("hook", ["check", "reset"])
async def test_time_limit_of_a_user_is_not_the_hooks(hook: str) -> None:
    with Server(Lines()) as server:
        async with manager(Waits(hook), check_after=0, max_per_host=1) as mgr:
            async with ask(mgr, server) as conn:
                conn.deadline = conn.time()  # its exchange is done, and would be too late by now
            async with ask(mgr, server) as conn:
                assert conn.uses == 2
            assert mgr.stats().closed == {}


@pytest.mark.parametrize("hook", ["check", "reset", "closing"])
async def test_hook_that_swallows_its_cancellation_ends_all_the_same(hook: str) -> None:
    entered = anyio.Event()

    async def clings() -> None:
        entered.set()
        for _ in range(2):
            try:
                await anyio.sleep_forever()
            except BaseException:  # the mistake
                pass

    class Clings(Lifecycle[None]):
        async def check(self, stream: LinkStream, state: None) -> None:
            if hook == "check":
                await clings()

        async def reset(self, stream: LinkStream, state: None) -> None:
            if hook == "reset":
                await clings()

        async def closing(self, stream: LinkStream, state: None) -> None:
            if hook == "closing":
                await clings()

    with anyio.fail_after(8), Server(Lines()) as server:
        async with manager(Clings(), check_after=0, check_timeout=0.05) as mgr:
            (await ask(mgr, server)).release()
            await turns()
            request = ask(mgr, server)
            if hook == "closing":
                (await request).release()
                await until(lambda: mgr.stats().idle == 1)
                mgr.evict()
            await entered.wait()
            request.cancel()
        assert mgr.stats().open == 0
        await all_gone(server)


@pytest.mark.parametrize("hook", ["opened", "check", "reset"])
async def test_hook_that_raises_a_cancellation_ends_that_connection(hook: str) -> None:
    """As one does that awaits a future which somebody else has cancelled."""

    class Raises(Lifecycle[None]):
        async def opened(self, stream: LinkStream, key: Key) -> None:
            if hook == "opened":
                raise cancelled()

        async def check(self, stream: LinkStream, state: None) -> None:
            if hook == "check":
                raise cancelled()

        async def reset(self, stream: LinkStream, state: None) -> None:
            if hook == "reset":
                raise cancelled()

    with Server(Lines()) as server:
        async with manager(Raises(), check_after=0, max_per_host=1) as mgr:
            for _ in range(3):
                try:
                    (await ask(mgr, server)).release()
                except OSError as exc:
                    assert hook == "opened", exc  # noqa: PT017  # only where it may
                await turns()
        await all_gone(server)


async def test_set_up_that_timed_out_by_its_own_clock_names_its_hook() -> None:
    class Slow(Lifecycle[None]):
        async def opened(self, stream: LinkStream, key: Key) -> None:
            with anyio.fail_after(0.02):
                await stream.receive()

    with Server(Silent()) as server:
        async with manager(Slow()) as mgr:
            with pytest.raises(OSError, match="opened of the life cycle of 'line': TimeoutError"):
                await ask(mgr, server)
