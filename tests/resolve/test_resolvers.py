"""Resolvers plugged in: who is asked, how often, and what a wrong answer does."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectionManager,
    ManagerClosed,
    Resolution,
    ResolveError,
    StaticResolver,
    SystemResolver,
)
from tests.support import Server
from tests.support.requests import exchange
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Asked:
    """A resolver that notes who is asked for, and answers by a function."""

    def __init__(self, answer: Callable[[str], Awaitable[Any]]) -> None:
        self.hosts: list[str] = []
        self.cancelled = 0
        self._answer = answer

    async def resolve(self, host: str) -> Resolution:
        """Return the addresses of a host name."""
        self.hosts.append(host)
        try:
            found: Resolution = await self._answer(host)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        return found


class Gate:
    """An answer that comes when it is let through."""

    def __init__(self) -> None:
        self.open = anyio.Event()

    async def __call__(self, host: str) -> Resolution:
        await self.open.wait()
        return Resolution(("127.0.0.1",))


async def loopback(host: str) -> Resolution:
    return Resolution(("127.0.0.1",))


async def fetch(manager: ConnectionManager, port: int, host: str = "some.test") -> None:
    async with manager.allocate("t", host, port, timeout=PATIENCE) as conn:
        await exchange(conn)


async def test_only_names_are_asked_for(echo_server: Server) -> None:
    resolver = Asked(loopback)
    async with ConnectionManager(resolver=resolver) as manager:
        for host in ("127.0.0.1", "localhost", "LocalHost.", "deep.localhost"):
            await fetch(manager, echo_server.port, host)
        assert resolver.hosts == []
        await fetch(manager, echo_server.port, "some.test")
        assert resolver.hosts == ["some.test"]


async def test_one_look_up_for_all(echo_server: Server) -> None:
    gate = Gate()
    resolver = Asked(gate)
    with Server() as other:
        async with ConnectionManager(resolver=resolver) as manager, anyio.create_task_group() as group:
            for port in (echo_server.port, other.port):
                for host in ("some.test", "SOME.test", "some.test."):
                    group.start_soon(fetch, manager, port, host)
            await turns()
            assert resolver.hosts == ["some.test"]
            gate.open.set()
        assert echo_server.accepted + other.accepted == 6


async def test_who_asked_first_may_go(echo_server: Server) -> None:
    gate = Gate()
    resolver = Asked(gate)
    with Server() as other:
        async with ConnectionManager(resolver=resolver, timeout=5) as manager:
            first = manager.allocate("t", "some.test", echo_server.port)
            second = manager.allocate("t", "some.test", other.port)
            await turns()
            assert first.cancel()
            await turns()
            gate.open.set()
            async with second as conn:
                await exchange(conn)
    assert resolver.hosts == ["some.test"]
    assert resolver.cancelled == 0


async def test_nobody_asks_any_more(echo_server: Server) -> None:
    """The look-up ends with its last asker, here with the manager; a spare attempt may ask till then."""
    resolver = Asked(Gate())
    async with ConnectionManager(resolver=resolver, connect_timeout=0.02) as manager:
        request = manager.allocate("t", "some.test", echo_server.port)
        await turns()
        request.cancel()
        manager.shutdown()
        await turns()
        assert resolver.cancelled == 1


async def test_a_refresh_ends_with_shutdown(echo_server: Server) -> None:
    """It has no asker who would go."""
    gate = Gate()
    gate.open.set()

    async def answer(host: str) -> Resolution:
        await gate(host)
        return Resolution(("127.0.0.1",), 0.0, stale=100.0)

    resolver = Asked(answer)
    async with ConnectionManager(resolver=resolver, keep_alive=0) as manager:
        await fetch(manager, echo_server.port)
        gate.open = anyio.Event()
        request = manager.allocate("t", "some.test", echo_server.port)
        await turns()
        assert len(resolver.hosts) == 2
        manager.shutdown()
        with pytest.raises(ManagerClosed):
            await request
        await turns()
        assert resolver.cancelled == 1


async def test_time_spent_on_a_name(echo_server: Server) -> None:
    resolver = Asked(Gate())
    async with ConnectionManager(resolver=resolver, connect_timeout=0.01) as manager:
        with pytest.raises(AllocateTimeout) as caught:
            await manager.allocate("t", "some.test", echo_server.port, timeout=0.05)
        assert caught.value.function == "resolve"  # connect_timeout does not count it
    assert resolver.cancelled == 1


# -- wrong answers -----------------------------------------------------------------------------------


async def no_such_name(host: str) -> Resolution:
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


async def boom(host: str) -> Resolution:
    raise RuntimeError("boom")


def answering(answer: Any) -> Callable[[str], Awaitable[Any]]:
    async def answered(host: str) -> Any:
        return answer

    return answered


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (no_such_name, "no such name"),
        (boom, "boom"),
        (answering(None), "NoneType"),
        (answering(("127.0.0.1",)), "tuple"),
        (answering(Resolution(())), "no address"),
        (answering(Resolution(("other.test",))), "no address"),
        (answering(Resolution((None,))), ""),  # type: ignore[arg-type]  # that is the point
    ],
)
async def test_a_wrong_answer_fails_all_who_asked(
    answer: Callable[[str], Awaitable[Any]], text: str, echo_server: Server
) -> None:
    resolver = Asked(answer)
    errors: list[ResolveError] = []

    async def ask_for(port: int) -> None:
        with pytest.raises(ResolveError) as caught:
            await manager.allocate("t", "some.test", port, timeout=PATIENCE)
        errors.append(caught.value)

    async with ConnectionManager(resolver=resolver) as manager:
        async with anyio.create_task_group() as group:
            group.start_soon(ask_for, echo_server.port)
            group.start_soon(ask_for, echo_server.port)
            group.start_soon(ask_for, 9)
        assert manager.stats().open == 0
        assert manager.stats().failed == {"resolve": 3}
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert (error.function, error.error_num, error.addr) == ("resolve", None, "some.test")
        assert text in error.error_str


async def test_a_look_up_cancelled_from_within(echo_server: Server, anyio_backend_name: str) -> None:
    """It answers those who asked, and the name can be asked for again."""
    if anyio_backend_name == "trio":
        pytest.skip("trio does not let one raise Cancelled")
    calls = 0

    async def answer(host: str) -> Resolution:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return Resolution(("127.0.0.1",))

    async with ConnectionManager(resolver=Asked(answer)) as manager:
        with pytest.raises(ResolveError, match="cancelled"):
            await manager.allocate("t", "some.test", echo_server.port, timeout=PATIENCE)
        await fetch(manager, echo_server.port)


async def test_the_end_waits_for_a_look_up_that_does_not_listen(echo_server: Server) -> None:
    ended = anyio.Event()

    async def answer(host: str) -> Resolution:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            ended.set()
        raise AssertionError

    async with ConnectionManager(resolver=Asked(answer)) as manager:
        manager.allocate("t", "some.test", echo_server.port)
        await turns()
        assert not ended.is_set()
    assert ended.is_set()


# -- those that come with the package ----------------------------------------------------------------


async def test_static_resolver(echo_server: Server) -> None:
    resolver = StaticResolver({"Some.Test.": "127.0.0.1", "two.test": ("127.0.0.1", "::1")})
    assert (await resolver.resolve("TWO.test.")).addresses == ("127.0.0.1", "::1")
    async with ConnectionManager(resolver=resolver) as manager:
        await fetch(manager, echo_server.port, "some.test")
        with pytest.raises(ResolveError, match="not in the table"):
            await fetch(manager, echo_server.port, "unknown.test")


async def test_system_resolver(echo_server: Server) -> None:
    assert "127.0.0.1" in (await SystemResolver().resolve("localhost")).addresses
    async with ConnectionManager() as manager:
        with pytest.raises(ResolveError) as caught:  # no question ever leaves this machine
            await fetch(manager, echo_server.port, "x" * 64 + ".test")
        assert caught.value.function == "resolve"
        assert caught.value.error_str
