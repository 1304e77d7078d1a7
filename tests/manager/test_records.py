"""Weak spots of the ancestor (heritage, poe 3): what requests leave, and what they tell (6, 9, 10, 22, 23,
27)."""

from __future__ import annotations

import errno
import gc
import socket
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    Connector,
    QueueFull,
    Resolution,
    ResolveError,
    Reuse,
    SystemResolver,
    TLSConnector,
    TLSError,
)
from tests.support import Server, full_backlog, refused_port
from tests.support.requests import Awaited, ask, exchange
from tests.support.resolvers import HOST, GatedResolver, TableResolver
from tests.support.waiting import until

if TYPE_CHECKING:
    import ssl

    from keepalive import Dial, Link, Request


class Context:
    """Something that a request carries along and that can be weakly referenced."""


async def fail(request: Request) -> type[BaseException]:
    """Await a request that fails; gives the kind of its error and keeps nothing else."""
    try:
        await request
    except AllocateError as exc:
        return type(exc)
    raise AssertionError("served")


@pytest.mark.parametrize("how", ["time out in the queue", "time out in a look-up", "no such name", "refused"])
async def test_failed_requests_leave_nothing(echo_server: Server, how: str) -> None:
    """heritage poe 3.6 (B6): no record, no context; their numbers are known to have ended."""
    async with ConnectionManager(
        max_per_host=1, resolver=GatedResolver() if "look-up" in how else TableResolver()
    ) as mgr:
        held = await ask(mgr, echo_server)
        with refused_port() as refused:
            target: dict[str, tuple[str, int]] = {
                "time out in the queue": (HOST, echo_server.port),
                "refused": (HOST, refused),
            }
            contexts = [Context() for _ in range(50)]
            known = [weakref.ref(context) for context in contexts]
            requests = [
                mgr.allocate(
                    "http", *target.get(how, ("peer", 80)), 0.02 if "out" in how else 5, context=context
                )
                for context in contexts
            ]
            contexts.clear()
            kinds = {await fail(request) for request in requests}
        assert kinds <= {AllocateTimeout, ResolveError, ConnectError}
        numbers = [request.id for request in requests]
        del requests
        gc.collect()
        assert not any(mgr.deallocate(number) for number in numbers)
        assert [ref for ref in known if ref() is not None] == []
        stats = mgr.stats()
        assert (stats.waiting, stats.queued, stats.lent) == (0, 0, 1)
        assert stats.timeouts + sum(stats.failed.values()) == 50
        held.release()


async def test_all_answers_have_one_shape(echo_server: Server) -> None:
    """heritage poe 3.9 (B8), 1.23, 1.28-30: new, deferred and immediate ones have number, echo and for_*."""
    behind: dict[str, Any] = {"for_scheme": "https", "for_addr": "far.test", "for_port": 443}
    async with ConnectionManager(max_per_host=1) as mgr:
        tag = object()
        first, second = (ask(mgr, echo_server, context=tag, **behind) for _ in range(2))
        kinds, numbers = [], []
        for request in (first, second, None):
            request = request or ask(mgr, echo_server, context=tag, **behind)
            async with request as conn:
                kinds.append(conn.from_cache)
                numbers.append(request.id)
                assert (conn.scheme, conn.addr, conn.port) == ("http", HOST, echo_server.port)
                assert (conn.for_scheme, conn.for_addr, conn.for_port) == ("https", "far.test", 443)
                assert conn.context is tag
        assert kinds == [None, Reuse.DEFERRED, Reuse.IMMEDIATE]
        assert [str(kind) for kind in kinds[1:]] == ["deferred", "immediate"]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > 0


async def test_keep_alive_zero_keeps_nothing_idle(echo_server: Server) -> None:
    """heritage poe 3.10 (B9): 0 means zero; who waits gets a released connection all the same."""
    async with ConnectionManager(keep_alive=0, max_per_host=1) as mgr:
        first, second = ask(mgr, echo_server), ask(mgr, echo_server)
        (await first).release()
        async with second as conn:
            assert conn.from_cache is Reuse.DEFERRED
            await exchange(conn)
        assert (mgr.stats().open, echo_server.connections, echo_server.accepted) == (0, 0, 1)


@pytest.mark.parametrize("timeout", [0, -1, 0.0])
async def test_timeout_zero(echo_server: Server, timeout: float) -> None:
    """heritage poe 3.10 (B9), 1.17: no time to wait, but an idle connection needs none."""
    async with ConnectionManager() as mgr:
        request = ask(mgr, echo_server, timeout)
        with pytest.raises(AllocateTimeout, match="no idle connection and no time to wait"):
            await request
        (await ask(mgr, echo_server)).release()
        async with ask(mgr, echo_server, timeout) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE


async def test_other_zeros(echo_server: Server) -> None:
    """heritage poe 3.10 (B9): a false context is a context, no waiting room is none, no limit may be zero."""
    for name in ("max_per_host", "max_open", "connect_timeout", "max_lifetime", "max_uses"):
        arguments: Any = {name: 0}
        with pytest.raises(ValueError, match=name):
            ConnectionManager(**arguments)
    async with ConnectionManager(max_waiting=0, max_per_host=1) as mgr:
        for context in (0, "", False, None):
            async with ask(mgr, echo_server, context=context) as conn:
                assert conn.context is context
                with pytest.raises(QueueFull):
                    ask(mgr, echo_server)


class Empty(dict[str, str]):
    """A resolver and a connector that happen to be false, as an empty cache is."""

    async def resolve(self, host: str) -> Resolution:
        return Resolution((HOST,))

    async def connect(self, dial: Dial) -> Link:
        return await dial.connect_tcp(dial.key.addr, dial.key.for_port)


async def test_false_is_not_missing(echo_server: Server, client_context: ssl.SSLContext) -> None:
    """heritage poe 3.10 (B9): what is given is used, whatever its truth value."""
    empty = Empty()
    assert not empty
    connectors: dict[str, Connector] = {"odd": empty, "tls": TLSConnector(client_context, over=empty)}
    async with ConnectionManager(resolver=empty, connectors=connectors) as mgr:
        async with mgr.allocate("http", "peer", echo_server.port, 5) as conn:
            await exchange(conn)
        async with mgr.allocate("odd", "peer", 2, 5, for_port=echo_server.port) as conn:
            await exchange(conn)
        with pytest.raises(TLSError):  # the echo server speaks none, but it was found
            await mgr.allocate("tls", "peer", 2, 5, for_port=echo_server.port)


async def test_failures_tell_phase_and_cause() -> None:
    """heritage poe 3.22: kinds of their own; an errno where there is one, the original error always."""
    missing = OSError("no such name")
    resolver = GatedResolver()
    resolver.open(missing)
    with refused_port() as refused, Server() as server:
        async with ConnectionManager(resolver=resolver) as mgr:
            with pytest.raises(ResolveError, match="no such name") as resolve:
                await mgr.allocate("http", "peer", 80, 5)
            assert (resolve.value.function, resolve.value.error_num) == ("resolve", None)
            assert resolve.value.__cause__ is missing
            with pytest.raises(ConnectError) as connect:
                await mgr.allocate("http", HOST, refused, 5)
            assert (connect.value.function, connect.value.error_num) == ("connect", errno.ECONNREFUSED)
            assert isinstance(connect.value.__cause__, ConnectionRefusedError)
            request = mgr.allocate("https", HOST, server.port, 5)  # an echo is no server hello
            with pytest.raises(TLSError) as tls:
                await request
            assert (tls.value.function, tls.value.error_num) == ("tls", None)
            assert tls.value.__cause__ is not None


async def test_the_system_s_resolver_says_why() -> None:
    """heritage poe 3.22: its error numbers are no errnos, so they are in the cause."""
    too_long_to_ask = ".".join(["x" * 60] * 5)  # so that no name server need be there
    async with ConnectionManager(resolver=SystemResolver()) as mgr:
        with pytest.raises(ResolveError) as caught:
            await mgr.allocate("http", too_long_to_ask, 80, 10)
        assert caught.value.error_num is None
        assert isinstance(caught.value.__cause__, socket.gaierror)


async def test_time_outs_tell_the_phase(echo_server: Server, silent_server: Server) -> None:
    """heritage poe 3.23: waiting, resolving, connecting and the handshake can be told apart."""
    # heritage pools 2.6.
    resolver = GatedResolver()
    async with ConnectionManager(
        max_per_host=1, resolver=resolver, connectors={"tls": TLSConnector()}
    ) as mgr:
        with full_backlog() as hanging:
            held = await ask(mgr, echo_server)
            requests = {
                "queue": ask(mgr, echo_server, 0.05),
                "resolve": mgr.allocate("http", "peer", 80, 0.05),
                "connect": mgr.allocate("http", HOST, hanging.port, 0.05),
                "tls": mgr.allocate("tls", HOST, silent_server.port, 0.05),
            }
            for phase, request in requests.items():
                with pytest.raises(
                    AllocateTimeout, match=f": {phase}: no connection within timeout=0.05 s"
                ) as it:
                    await request
                assert (it.value.function, it.value.error_num) == (phase, errno.ETIMEDOUT)
                assert "of 128 connections open" in it.value.error_str
            held.release()


async def test_everything_can_be_shown_at_any_time(echo_server: Server) -> None:
    """heritage poe 3.27: a debugger's look at anything, in any state, raises nothing and tells the state."""
    mgr = ConnectionManager()
    assert repr(mgr).startswith("<ConnectionManager new: open=0 ")
    resolver = GatedResolver()
    resolver.open()
    mgr = ConnectionManager(max_per_host=1, resolver=resolver)
    async with mgr, anyio.create_task_group() as group:
        request, waiting = ask(mgr, echo_server), ask(mgr, echo_server)
        assert (repr(request), repr(waiting)) == (
            f"<Request 1 for http://{HOST}:{echo_server.port}: queued>",
            f"<Request 2 for http://{HOST}:{echo_server.port}: queued>",
        )
        assert "open=1 connecting=1 lent=0 idle=0 closing=0 waiting=2 requests=2" in repr(mgr)
        conn = await request
        assert "claimed" in repr(request)
        assert "lent, use 1" in repr(conn)
        served = Awaited(group, waiting)
        conn.release()
        assert "given back" in repr(conn)
        assert "served" in repr(waiting)
        conn = await served.connection()
        mgr.shutdown()
        assert "<ConnectionManager closed: open=1 " in repr(mgr)
        echo_server.disconnect_all()
        await until(lambda: bool(repr(conn)))
        conn.discard()
        assert "given back" in repr(conn)
    assert "open=0" in repr(mgr)
