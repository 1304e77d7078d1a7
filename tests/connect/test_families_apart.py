"""A resolver that tells the families apart: dialling begins with the first one (RFC 8305 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectError, ConnectionManager, Resolution, ResolveError
from tests.support import Server, has_ipv6, refused_port

if TYPE_CHECKING:
    from collections.abc import Callable


class Apart:
    """Tells parts in the given order; each waits until the test lets it go on, but for the first."""

    def __init__(self, *parts: tuple[str, ...]) -> None:
        self.parts = parts
        self.go_on = anyio.Event()
        self.ended = anyio.Event()

    async def resolve(self, host: str) -> Resolution:
        raise AssertionError("the other way exists")

    async def resolve_parts(self, host: str, part: Callable[[Resolution], None]) -> Resolution:
        try:
            for number, addresses in enumerate(self.parts):
                if number:
                    await self.go_on.wait()
                part(Resolution(addresses, 60.0))
            if not any(self.parts):
                raise OSError("no such name")
            return Resolution(tuple(address for some in self.parts for address in some), 60.0)
        finally:
            self.ended.set()


async def test_the_preferred_family_does_not_wait_for_the_other() -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    with Server(host="::1") as server:
        names = Apart(("::1",), ("127.0.0.1",))
        async with ConnectionManager(resolver=names) as mgr:
            async with mgr.allocate("t", "two.test", server.port, 5) as conn:
                await conn.send(b"x")
                assert await conn.receive() == b"x"
            names.go_on.set()


async def test_the_late_family_has_a_moment_only() -> None:
    with Server() as server:
        names = Apart(("127.0.0.1",), ("::1",))
        async with ConnectionManager(resolver=names) as mgr:
            async with mgr.allocate("t", "two.test", server.port, 5) as conn:
                await conn.send(b"x")
                assert await conn.receive() == b"x"
            assert mgr.stats().open == 1


async def test_what_comes_late_is_tried_when_the_first_failed() -> None:
    with Server(host="127.0.0.2") as server:
        names = Apart(("127.0.0.1",), ("127.0.0.2",))
        async with ConnectionManager(resolver=names) as mgr:
            request = mgr.allocate("t", "two.test", server.port, 5)
            await anyio.lowlevel.checkpoint()
            names.go_on.set()
            async with request as conn:
                await conn.send(b"x")
                assert await conn.receive() == b"x"


async def test_all_parts_fail() -> None:
    with refused_port() as port:
        names = Apart(("127.0.0.1",), ("127.0.0.3",))
        names.go_on.set()
        async with ConnectionManager(resolver=names) as mgr:
            with pytest.raises(ConnectError) as caught:
                await mgr.allocate("t", "two.test", port, 5)
            assert caught.value.error_num is not None


async def test_no_part_at_all() -> None:
    names = Apart((), ())
    names.go_on.set()
    async with ConnectionManager(resolver=names) as mgr:
        with pytest.raises(ResolveError, match="no such name"):
            await mgr.allocate("t", "two.test", 1, 5)


async def test_cancelled_between_the_parts() -> None:
    with refused_port() as port:
        names = Apart(("127.0.0.1",), ("127.0.0.2",))
        async with ConnectionManager(resolver=names) as mgr:
            with anyio.move_on_after(0.1):
                await mgr.allocate("t", "two.test", port, 5)
            mgr.allocate("t", "two.test", port, 0.2).cancel()
            mgr.shutdown()
            with anyio.fail_after(5):
                await names.ended.wait()


async def test_bound_to_the_family_that_comes_late() -> None:
    with Server(host="127.0.0.1") as server:
        names = Apart(("::1",), ("127.0.0.1",))
        names.go_on.set()
        async with (
            ConnectionManager(resolver=names, bind_address="127.0.0.1") as mgr,
            mgr.allocate("t", "two.test", server.port, 5) as conn,
        ):
            await conn.send(b"x")
            assert await conn.receive() == b"x"
