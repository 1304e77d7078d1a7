"""Without a free descriptor an attempt waits for one of ours, within its time limits."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from keepalive import AllocateTimeout, ConnectError, ConnectionManager
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLENTY = 60


@contextmanager
def descriptors(spare: int) -> Iterator[ExitStack]:
    """Leave so many descriptors free; the stack that is given holds the others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        held = stack.enter_context(ExitStack())
        taken: list[int] = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        for fd in taken[:spare]:
            os.close(fd)
        for fd in taken[spare:]:
            held.callback(os.close, fd)
        yield held


@pytest.fixture
def backlog() -> Iterator[int]:
    """Listen and accept nothing: the server's side takes no descriptor of this process."""
    with socket.create_server(("127.0.0.1", 0), backlog=4 * PLENTY) as sock:
        yield sock.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kept", [True, False])
async def test_requests_beyond_the_descriptors_are_served_in_turn(
    host: str, kept: bool, backlog: int
) -> None:
    served = 0
    async with ConnectionManager(timeout=30, max_open=PLENTY) as mgr:
        first = await mgr.allocate("t", "127.0.0.1", backlog)
        resolved = await mgr.allocate("t", host, backlog)  # its name is known from now on
        resolved.discard()

        async def one() -> None:
            nonlocal served
            async with mgr.allocate("t", host, backlog) as conn:
                await checkpoint()
                served += 1
                if not kept:
                    conn.discard()

        with descriptors(5):
            async with anyio.create_task_group() as group:
                for _ in range(PLENTY):
                    group.start_soon(one)
            first.discard()
    assert served == PLENTY


async def test_the_time_limit_of_the_attempt_holds(backlog: int) -> None:
    async with ConnectionManager(connect_timeout=0.1) as mgr:
        held = await mgr.allocate("t", "127.0.0.1", backlog)
        with descriptors(0), pytest.raises(AllocateTimeout, match="connect_timeout"):
            await mgr.allocate("t", "127.0.0.1", backlog)
        held.discard()


async def test_one_given_up_hands_its_turn_on(backlog: int) -> None:
    async with ConnectionManager() as mgr:
        held = await mgr.allocate("t", "127.0.0.1", backlog)
        with descriptors(0):
            given_up = mgr.allocate("t", "127.0.0.1", backlog, 0.1)
            other = mgr.allocate("u", "127.0.0.1", backlog, 10)
            with pytest.raises(AllocateTimeout):
                await given_up
            held.discard()
            (await other).discard()


async def test_an_idle_connection_gives_its_descriptor_up(backlog: int) -> None:
    async with ConnectionManager() as mgr:
        (await mgr.allocate("idle", "127.0.0.1", backlog)).release()
        with descriptors(0):
            (await mgr.allocate("other", "127.0.0.1", backlog, 10)).release()
        assert mgr.stats().idle == 1


async def test_descriptors_that_others_free_are_found(backlog: int) -> None:
    async with ConnectionManager() as mgr:
        held = await mgr.allocate("t", "127.0.0.1", backlog)
        with descriptors(0) as others:
            request = mgr.allocate("t", "127.0.0.1", backlog, 10)
            await until(lambda: mgr.stats().connecting == 1)
            others.close()
            (await request).discard()
        held.discard()


@pytest.mark.parametrize("scheme", ["t", "unix"])
async def test_the_error_is_clear_where_nothing_of_ours_is_open(
    scheme: str, backlog: int, tmp_path: Path
) -> None:
    addr, port = ("127.0.0.1", backlog) if scheme == "t" else (str(tmp_path / "none"), 0)
    async with ConnectionManager() as mgr:
        with descriptors(0), pytest.raises(ConnectError, match="no connection is open") as caught:
            await mgr.allocate(scheme, addr, port, 10)
        assert caught.value.error_num == errno.EMFILE
        with pytest.raises(ConnectError, match="No such file") if scheme == "unix" else ExitStack():
            (await mgr.allocate(scheme, addr, port, 10)).discard()
