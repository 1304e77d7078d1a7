"""heritage poe 1.36 to 1.44: which names are looked up, by whom, and what an answer does."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from keepalive import ConnectionManager, Resolution, ResolveError
from tests.support import Server, has_ipv6
from tests.support.requests import Awaited, exchange
from tests.support.resolvers import HOST, GatedResolver, TableResolver
from tests.support.waiting import until


async def test_literals_and_localhost_are_never_looked_up(echo_server: Server) -> None:
    """heritage poe 1.36, 1.37, contract: neither IPv4 nor IPv6 addresses reach a resolver, nor does
    localhost."""
    resolver = TableResolver()
    async with ConnectionManager(resolver=resolver) as mgr:
        for addr in (HOST, "localhost", "LOCALHOST.", "peer.localhost"):
            async with mgr.allocate("http", addr, echo_server.port, 5) as conn:
                await exchange(conn)
        if has_ipv6():
            with Server(host="::1") as server:
                async with mgr.allocate("http", "::1", server.port, 5) as conn:
                    await exchange(conn)
    assert resolver.asked == []


async def test_everything_else_is(echo_server: Server) -> None:
    """heritage poe 1.37: also what only looks like an address."""
    resolver = TableResolver(**{"peer.test": HOST, "1.2.3": HOST, "999.0.0.1": HOST})
    async with ConnectionManager(resolver=resolver) as mgr:
        for addr in resolver.table:
            async with mgr.allocate("http", addr, echo_server.port, 5) as conn:
                await exchange(conn)
    assert resolver.asked == list(resolver.table)


async def test_one_look_up_for_all_who_ask_at_a_time(echo_server: Server, line_server: Server) -> None:
    """heritage poe 1.38: whatever the ports, and whatever is behind."""
    resolver = GatedResolver()
    async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
        requests = [
            Awaited(group, mgr.allocate("http", "peer", server.port, 5, for_port=for_port))
            for server in (echo_server, line_server)
            for for_port in (1, 1, 2)
        ]
        await until(lambda: bool(resolver.asked))
        await anyio.wait_all_tasks_blocked()
        assert resolver.asked == ["peer"]
        resolver.open()
        for request in requests:
            (await request.connection()).release()
        assert resolver.asked == ["peer"]
        assert (echo_server.accepted, line_server.accepted) == (3, 3)


async def test_its_failure_is_everybody_s(echo_server: Server) -> None:
    """heritage poe 1.39: each gets an error of its own, for its own request."""
    resolver = GatedResolver()
    reason = OSError("no such name")
    async with ConnectionManager(resolver=resolver) as mgr, anyio.create_task_group() as group:
        requests = [Awaited(group, mgr.allocate("http", "peer", port, 5)) for port in (80, 80, 81, 82)]
        await until(lambda: bool(resolver.asked))
        resolver.open(reason)
        errors = [await request.error() for request in requests]
        assert len({id(error) for error in errors}) == 4
        for request, error in zip(requests, errors, strict=True):
            assert isinstance(error, ResolveError)
            assert (error.function, error.request_id) == ("resolve", request.request.id)
            assert error.__cause__ is reason
        assert resolver.asked == ["peer"]
        assert (mgr.stats().open, mgr.stats().failed) == (0, {"resolve": 4})


class Odd:
    """A resolver that answers anything."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def resolve(self, host: str) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Resolution(()), "peer has no address"),
        (Resolution(("not an address",)), "peer has no address"),
        (None, "NoneType"),
        (("127.0.0.1",), "tuple"),
        (ValueError("odd"), "odd"),
        (LookupError(), "LookupError"),
        (OSError(5, "strange"), "strange"),
    ],
)
async def test_answers_that_help_nobody(echo_server: Server, answer: object, text: str) -> None:
    """heritage poe 1.34, 3.22: no address, nothing of the kind, an error: the request fails, and no other."""
    async with ConnectionManager(max_open=1, resolver=Odd(answer)) as mgr:
        with pytest.raises(ResolveError, match=text) as caught:
            await mgr.allocate("http", "peer", echo_server.port, 5)
        number = answer.errno if isinstance(answer, OSError) else None
        assert (caught.value.function, caught.value.error_num) == ("resolve", number)
        async with mgr.allocate("http", HOST, echo_server.port, 5) as conn:
            await exchange(conn)


async def test_a_name_is_looked_up_when_its_turn_comes(echo_server: Server) -> None:
    """heritage poe 1.41, contract: a request beyond the limits waits for room, not for its name."""
    resolver = TableResolver(peer=HOST)
    async with ConnectionManager(max_open=1, resolver=resolver) as mgr, anyio.create_task_group() as group:
        held = await mgr.allocate("http", HOST, echo_server.port, 5)
        request = Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5))
        await anyio.wait_all_tasks_blocked()
        assert resolver.asked == []
        held.release()
        async with await request.connection() as conn:
            await exchange(conn)
        assert resolver.asked == ["peer"]
