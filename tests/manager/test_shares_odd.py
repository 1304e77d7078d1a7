"""Shared connections whose `run` does odd things, in odd moments."""

from __future__ import annotations

import gc
import logging
import os
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import ClosedResourceError
from sniffio import current_async_library

from keepalive import ConnectionManager, KeySettings, Lifecycle, Request, SetupError, TLSConnector
from tests.support import Lines, Server
from tests.support.requests import all_gone
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from keepalive import Key, Shares
    from keepalive.transport.stream import LinkStream
    from tests.support import Authority

    Run = Callable[[LinkStream, Shares], Awaitable[None]]


class Odd(Lifecycle[None]):
    """A resident that does what it is told."""

    def __init__(self, run: Run) -> None:
        self.told = run
        self.shares: list[Shares] = []

    async def run(self, stream: LinkStream, state: None, shares: Shares) -> None:
        self.shares.append(shares)
        await self.told(stream, shares)


async def serves(stream: LinkStream, shares: Shares) -> None:
    shares.capacity = 3
    while True:
        await stream.receive()


def manager(odd: Lifecycle[Any], **options: object) -> ConnectionManager:
    return ConnectionManager(lifecycles={"line": odd}, **options)  # type: ignore[arg-type]  # by name


def ask(mgr: ConnectionManager, server: Server, timeout: float = 5) -> Request:
    return mgr.allocate("line", server.host, server.port, timeout)


# -- before anybody has a share -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["returns", "raises", "retires"])
async def test_run_that_ends_at_once_fails_one_request_per_attempt(how: str) -> None:
    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.capacity = 3
        if how == "raises":
            msg = "no licence"
            raise ValueError(msg)
        if how == "retires":
            shares.retire()
            await anyio.sleep_forever()

    with Server(Lines()) as server:
        async with manager(Odd(run)) as mgr:
            for _ in range(2):
                with pytest.raises(SetupError, match="run of the life cycle of 'line'"):
                    await ask(mgr, server)
            assert (mgr.stats().failed, mgr.stats().requests) == ({"setup": 2}, 2)
        await all_gone(server)
        assert server.accepted <= 3


async def test_run_that_ends_before_its_first_borrower_came_is_no_loop() -> None:
    """It answers one request's failure per connection, as an attempt does."""

    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.capacity = 3
        await anyio.lowlevel.checkpoint()

    with Server(Lines()) as server:
        async with manager(Odd(run), max_per_host=1) as mgr:
            for _ in range(5):
                try:
                    (await ask(mgr, server, 1)).release()
                except SetupError as exc:
                    assert "run of the life cycle of 'line'" in str(exc)  # noqa: PT017  # either may come
        assert server.accepted <= 6


async def test_retired_before_it_set_a_capacity_fails_the_attempt() -> None:
    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.retire()
        await anyio.sleep_forever()

    with Server(Lines()) as server:
        async with manager(Odd(run)) as mgr:
            with pytest.raises(SetupError, match="retired"):
                await ask(mgr, server)


async def test_given_up_in_the_very_moment_of_its_capacity() -> None:
    mgr: ConnectionManager
    ended = anyio.Event()

    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.capacity = 1
        mgr.shutdown()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with Server(Lines()) as server:
        async with manager(Odd(run)) as mgr:
            request = ask(mgr, server)
            with anyio.fail_after(5):
                await ended.wait()
            assert request.cancel() is False
        await all_gone(server)


async def test_closed_by_its_own_set_up() -> None:
    class Closes(Odd):
        async def opened(self, stream: LinkStream, key: Key) -> None:
            await stream.aclose()

    odd = Closes(serves)
    with Server(Lines()) as server:
        async with manager(odd) as mgr:
            with pytest.raises(SetupError, match="opened of the life cycle of 'line': it has closed"):
                await ask(mgr, server)
    assert not odd.shares


@pytest.mark.parametrize("wrong", [True, 1.0, "3", None, -1, 1 << 40, float("nan")])
async def test_capacity_that_is_no_whole_number(wrong: object) -> None:
    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.capacity = wrong  # type: ignore[assignment]  # the mistake

    with Server(Lines()) as server:
        async with manager(Odd(run)) as mgr:
            with pytest.raises(SetupError, match="run of the life cycle of 'line': capacity must be"):
                await ask(mgr, server)


async def test_shared_that_raises() -> None:
    class Unsure(Odd):
        def shared(self, state: None) -> bool:
            raise RuntimeError

    with Server(Lines()) as server:
        async with manager(Unsure(serves)) as mgr:
            with pytest.raises(SetupError, match="shared of the life cycle of 'line'"):
                await ask(mgr, server)


# -- while some have shares ---------------------------------------------------------------------------


async def test_wrong_capacity_later_ends_that_connection_with_a_log(caplog: pytest.LogCaptureFixture) -> None:
    go = anyio.Event()

    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.capacity = 1
        await go.wait()
        shares.capacity = "2"  # type: ignore[assignment]  # the mistake

    with Server(Lines()) as server:
        async with manager(Odd(run), max_per_host=1) as mgr:
            conn = await ask(mgr, server)
            go.set()
            await until_equal(lambda: dict(mgr.stats().closed), {"ended": 1})
            conn.release()
    assert "run of the life cycle of line://" in caplog.text
    assert "capacity must be a whole number" in caplog.text


async def test_peer_that_goes_is_no_error_even_in_a_group(caplog: pytest.LogCaptureFixture) -> None:
    async def run(stream: LinkStream, shares: Shares) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await serves(stream, shares)

    with Server(Lines()) as server:
        async with manager(Odd(run)) as mgr:
            conn = await ask(mgr, server)
            server.disconnect_all()
            await until_equal(lambda: dict(mgr.stats().closed), {"ended": 1})
            conn.release()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_run_that_swallows_its_cancellation_ends_all_the_same() -> None:
    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.capacity = 1
        for _ in range(2):
            try:
                await anyio.sleep_forever()
            except BaseException:  # the mistake
                pass

    with anyio.fail_after(5), Server(Lines()) as server:
        async with manager(Odd(run)) as mgr:
            (await ask(mgr, server)).release()


async def test_cancelled_from_within_ends_that_connection() -> None:
    async def run(stream: LinkStream, shares: Shares) -> None:
        shares.capacity = 1
        await stream.receive()
        raise CancelledError if current_async_library() == "asyncio" else RuntimeError

    with Server(Lines()) as server:
        async with manager(Odd(run)) as mgr:
            conn = await ask(mgr, server)
            server.push(b"x")
            await until_equal(lambda: dict(mgr.stats().closed), {"ended": 1})
            conn.release()


async def test_limit_lowered_and_met_again_lends_what_is_free() -> None:
    with Server(Lines()) as server:
        async with manager(Odd(serves), max_per_host=2) as mgr:
            held = [await ask(mgr, server) for _ in range(4)]  # three on one, one on another
            assert mgr.stats().open == 2
            mgr.set_limits(max_per_host=1)
            held[0].release()
            held[3].release()
            assert mgr.stats().open == 1
            async with ask(mgr, server) as conn:
                assert conn.uses == 4
            for conn in held:
                conn.release()


async def test_time_limit_of_one_handle_is_not_the_connections() -> None:
    with Server(Lines()) as server:
        async with manager(Odd(serves)) as mgr, ask(mgr, server) as conn:
            with pytest.raises(ClosedResourceError):
                conn.deadline = conn.time() + 0.001
            await anyio.sleep(0.01)
            assert mgr.stats().closed == {}


async def test_free_takes_a_share_too() -> None:
    odd = Odd(serves)
    with Server(Lines()) as server:
        async with manager(odd) as mgr:
            first, second = await ask(mgr, server), await ask(mgr, server)
            mgr.free(first)
            with pytest.raises(ValueError, match="is not lent"):
                mgr.free(first)
            assert odd.shares[0].lent == 1
            mgr.free(second)
            assert mgr.stats().idle == 1


async def test_one_kept_ready_is_never_checked_beside_its_resident() -> None:
    class Checked(Odd):
        async def check(self, stream: LinkStream, state: None) -> None:
            raise AssertionError

    place_settings = KeySettings(min_idle=1, keep_alive=0.02, check_after=0)
    with Server(Lines()) as server:
        settings = {("line", server.host, server.port): place_settings}
        async with manager(Checked(serves), settings=settings) as mgr:
            await until(lambda: mgr.stats().idle == 1)
            await anyio.sleep(0.06)
            async with ask(mgr, server) as conn:
                assert conn.uses == 1
            assert "check" not in mgr.stats().closed


async def test_share_beside_another_was_idle_for_no_time() -> None:
    with Server(Lines()) as server:
        async with manager(Odd(serves)) as mgr, ask(mgr, server):
            await anyio.sleep(0.02)
            async with ask(mgr, server) as conn:
                assert conn.idle_for == 0


async def test_dropped_after_its_connection_died() -> None:
    with Server(Lines()) as server:
        async with manager(Odd(serves), max_per_host=1) as mgr:
            dropped = [await ask(mgr, server) for _ in range(3)]
            server.disconnect_all()
            await until_equal(lambda: dict(mgr.stats().closed), {"ended": 1})
            dropped.clear()
            gc.collect()
            async with ask(mgr, server) as conn:
                assert conn.is_new
            await turns()
            assert mgr.stats().open == mgr.stats().idle == 1


async def test_shared_over_tls_and_its_death(ca: Authority, client_context: ssl.SSLContext) -> None:
    with Server(Lines(), tls=ca.server()) as server:
        connectors = {"line": TLSConnector(client_context)}
        async with manager(Odd(serves), connectors=connectors) as mgr:
            held = [await ask(mgr, server) for _ in range(3)]
            assert len({conn.uses for conn in held}) == 3
            server.disconnect_all()
            await until_equal(lambda: dict(mgr.stats().closed), {"ended": 1})
            async with ask(mgr, server) as conn:
                assert conn.is_new
            for conn in held:
                conn.release()
            assert mgr.stats().idle == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_child_of_a_fork_closes_its_copy_and_the_parent_lends_on() -> None:
    odd = Odd(serves)
    with Server(Lines()) as server:
        async with manager(odd) as mgr:
            conn = await ask(mgr, server)
            child = os.fork()
            if not child:
                try:
                    odd.shares[0].capacity = 1
                    odd.shares[0].retire()
                    conn.release()
                    os._exit(0 if mgr.stats().open == 0 else 1)
                except BaseException:  # whatever it is, the parent must hear of it
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            async with ask(mgr, server) as other:
                assert (other.uses, odd.shares[0].lent) == (2, 2)
            conn.release()
            assert mgr.stats().idle == 1
