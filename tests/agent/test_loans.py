"""A borrower's manager is a manager: the same calls, results and errors, over an agent's connections."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from keepalive import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    ManagerClosed,
    QueueFull,
    RequestCancelled,
    ResolveError,
    Reuse,
    TLSError,
    http,
)
from keepalive import agent as agents
from tests.support import Greeting, HttpOrigin, Server, refused_port
from tests.support.waiting import turns, until, until_equal

from .kit import config, here, request

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from keepalive import Connection


async def test_borrower_speaks_to_the_peer_over_the_agents_connection(
    tmp_path: Path, echo_server: Server
) -> None:
    async with here(tmp_path) as ag, ag.connect() as mgr:
        async with await request(mgr, echo_server, context="mine") as conn:
            assert (conn.from_cache, conn.uses, conn.context) == (None, 1, "mine")
            assert (conn.scheme, conn.addr, conn.port) == ("http", echo_server.host, echo_server.port)
            await conn.send(b"hello")
            assert await conn.receive() == b"hello"
        async with request(mgr, echo_server) as conn:
            assert (conn.from_cache, conn.uses) == (Reuse.IMMEDIATE, 2)
            assert 0 <= conn.idle_for <= conn.age
            assert conn.extra(SocketAttribute.remote_port) == echo_server.port
        stats = await mgr.pool_stats()
        assert (stats.opened, stats.immediate, stats.requests) == (1, 1, 2)
    assert echo_server.accepted == 1


async def test_borrowers_of_one_user_share_connections_and_limits(
    tmp_path: Path, echo_server: Server
) -> None:
    async with here(tmp_path, max_per_host=1) as ag, ag.connect() as one, ag.connect() as two:
        conn = await request(one, echo_server)
        waiting = request(two, echo_server)
        async with anyio.create_task_group() as group:

            async def get() -> None:
                async with waiting as other:
                    assert other.from_cache is Reuse.DEFERRED

            group.start_soon(get)
            await turns()
            assert two.stats().waiting == 1
            conn.release()
    assert echo_server.accepted == 1


async def test_unread_bytes_close_the_connection_at_release(tmp_path: Path) -> None:
    with Server(Greeting(b"hello")) as server:
        async with here(tmp_path) as ag, ag.connect() as mgr:
            conn = await request(mgr, server)
            assert await conn.receive(2) == b"he"
            conn.release()
            await until(lambda: server.connections == 0)
            assert (await mgr.pool_stats()).closed.keys() <= {"unread", "discarded"}


async def test_what_is_read_ahead_counts_as_unread(tmp_path: Path) -> None:
    with Server(Greeting(b"a\nb")) as server:
        async with here(tmp_path) as ag, ag.connect() as mgr:
            conn = await request(mgr, server)
            assert await conn.receive_until(b"\n", 10) == b"a"
            assert await conn.receive_exactly(1) == b"b"
            conn.release()
            again = await request(mgr, server)
            assert again.uses == 2
            assert await again.send(b"\nxy") is None
            assert await again.receive_until(b"\n", 10) == b""
            again.release()
            await until(lambda: server.connections == 0)


async def test_release_after_the_peers_end_closes(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect() as mgr:
        conn = await request(mgr, echo_server)
        echo_server.half_close_all()
        with pytest.raises(EndOfStream):
            await conn.receive()
        conn.release()
        await until(lambda: echo_server.connections == 0)
        async with request(mgr, echo_server) as conn:
            assert conn.from_cache is None


async def test_idle_connection_that_the_peer_closes_is_not_lent(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect() as mgr:
        (await request(mgr, echo_server)).release()
        echo_server.disconnect_all()
        async with request(mgr, echo_server) as conn:
            await conn.send(b"x")
            assert await conn.receive() == b"x"


async def test_discard_closes_at_once(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect() as mgr:
        conn = await request(mgr, echo_server)
        conn.discard()
        await until(lambda: echo_server.connections == 0)
        with pytest.raises(ClosedResourceError):
            await conn.send(b"x")
        conn.release()
        conn.discard()


async def test_requests_that_come_together_get_each_its_own(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect() as mgr:
        for conn in [await request(mgr, echo_server) for _ in range(2)]:
            conn.release()
        first, second = [await asked for asked in [request(mgr, echo_server) for _ in range(2)]]
        first.discard()
        await until(lambda: echo_server.connections == 1)
        await second.send(b"x")
        assert await second.receive() == b"x"
        second.release()


async def test_dropped_connection_comes_back(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path, max_per_host=1) as ag, ag.connect() as mgr:
        conn = await request(mgr, echo_server)
        with pytest.warns(ResourceWarning):  # noqa: PT031  # the collector is what gives the warning
            del conn
            gc.collect()
        async with request(mgr, echo_server) as conn:
            assert conn.uses == 2


async def test_request_is_cancelled_with_its_task(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path, max_per_host=1) as ag, ag.connect() as mgr:
        conn = await request(mgr, echo_server)
        with anyio.move_on_after(0.02):
            await request(mgr, echo_server)
        assert mgr.stats().cancelled == 1
        assert mgr.stats().waiting == 0
        conn.release()
        (await request(mgr, echo_server)).release()
        await until_equal(lambda: ag.agent.desk.out, 0)


async def test_request_is_cancelled_by_its_number(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path, max_per_host=1) as ag, ag.connect() as mgr:
        conn = await request(mgr, echo_server)
        waiting = request(mgr, echo_server)
        assert mgr.deallocate(waiting.id)
        assert not mgr.deallocate(waiting.id)
        with pytest.raises(RequestCancelled):
            await waiting
        with pytest.raises(ValueError, match="never issued"):
            mgr.deallocate(99)
        conn.release()


async def test_dropped_request_is_cancelled(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect() as mgr:
        request(mgr, echo_server)
        gc.collect()
        await until_equal(lambda: ag.agent.desk.out, 0)
        await turns()
        assert mgr.stats().lent == 0


async def test_timeout_says_the_phase_and_the_pools_numbers(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path, max_per_host=1) as ag, ag.connect() as mgr:
        conn = await request(mgr, echo_server)
        with pytest.raises(AllocateTimeout, match="1 of 1 for this key") as caught:
            await request(mgr, echo_server, 0.05, context="mine")
        assert (caught.value.function, caught.value.context) == ("queue", "mine")
        with pytest.raises(AllocateTimeout):
            await request(mgr, echo_server, 0)
        assert mgr.stats().timeouts == 2
        conn.release()


async def test_failures_are_told_as_by_any_manager(tmp_path: Path, tls_server: Server) -> None:
    async with here(tmp_path, max_waiting=0, max_per_host=1) as ag, ag.connect() as mgr:
        with refused_port() as port, pytest.raises(ConnectError) as refused:
            await mgr.allocate("http", "127.0.0.1", port, 5)
        assert refused.value.error_num is not None
        with pytest.raises(ResolveError):
            await mgr.allocate("http", "nowhere.invalid", 80, 5)
        with pytest.raises(TLSError):
            await mgr.allocate("https", tls_server.host, tls_server.port, 5)
        conn = await mgr.allocate("http", tls_server.host, tls_server.port, 5)
        with pytest.raises(QueueFull):
            await mgr.allocate("http", tls_server.host, tls_server.port, 5)
        conn.discard()


async def test_wrong_arguments_are_told_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_agent_loss"):
        agents.connect("/x", on_agent_loss="weep")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="sticky"):
        agents.connect("/x", sticky=5)
    with pytest.raises(ValueError, match="loan_timeout"):
        agents.connect("/x", loan_timeout=0)
    mgr = agents.connect(tmp_path / "none")
    with pytest.raises(RuntimeError, match="not been entered"):
        mgr.allocate("http", "127.0.0.1", 80)
    async with here(tmp_path) as ag, ag.connect() as mgr:
        with pytest.raises(ValueError, match="port"):
            mgr.allocate("http", "127.0.0.1", 0)
        with pytest.raises(TypeError, match="addr"):
            mgr.allocate("http", None, 80)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(TypeError, match="timeout"):
            mgr.allocate("http", "127.0.0.1", 80, "soon")  # type: ignore[arg-type]  # that is the point
        with pytest.raises(ValueError, match="not a connection"):
            mgr.free(None)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(RuntimeError, match="only once"):
            await mgr.__aenter__()


async def test_end_cuts_what_is_in_use_and_fails_what_waits(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path, max_per_host=1) as ag:
        async with ag.connect() as mgr:
            conn = await request(mgr, echo_server)
            waiting = request(mgr, echo_server)
            mgr.shutdown()
            with pytest.raises(ManagerClosed):
                await waiting
            with pytest.raises(ManagerClosed):
                request(mgr, echo_server)
            await conn.send(b"x")
            assert await conn.receive() == b"x"
        with pytest.raises(ClosedResourceError):
            await conn.send(b"x")
        await until(lambda: echo_server.connections == 0)
        assert ag.agent.desk.out == 0


async def test_aclose_waits_for_what_is_in_use(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect() as mgr, anyio.create_task_group() as group:
        conn = await request(mgr, echo_server)
        group.start_soon(mgr.aclose, None)
        await turns()
        conn.release()
    assert echo_server.accepted == 1


async def test_unix_sockets_are_lent_too(tmp_path: Path, unix_server: Server) -> None:
    async with (
        here(tmp_path) as ag,
        ag.connect() as mgr,
        mgr.allocate("unix", unix_server.host, 0, 5) as conn,
    ):
        await conn.send(b"x")
        assert await conn.receive() == b"x"


# -- kept for a moment ----------------------------------------------------------------------------------


async def test_kept_connection_is_used_again_without_asking(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect(sticky=0.5) as mgr:
        (await request(mgr, echo_server)).release()
        assert mgr.stats().idle == 1
        async with request(mgr, echo_server) as conn:
            assert (conn.from_cache, conn.uses) == (Reuse.IMMEDIATE, 2)
            await conn.send(b"x")
            assert await conn.receive() == b"x"
        assert (await mgr.pool_stats()).requests == 1


async def test_kept_connection_goes_back_when_its_time_is_over(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect(sticky=0.02) as mgr:
        (await request(mgr, echo_server)).release()
        await until_equal(lambda: ag.agent.desk.out, 0)
        assert mgr.stats().idle == 0


async def test_kept_connection_is_called_back_when_somebody_waits(
    tmp_path: Path, echo_server: Server
) -> None:
    async with here(tmp_path, max_per_host=1) as ag, ag.connect(sticky=1) as one, ag.connect() as two:
        (await request(one, echo_server)).release()
        with anyio.fail_after(0.5):
            async with request(two, echo_server) as conn:
                assert conn.from_cache is Reuse.DEFERRED
                # Somebody waits again: the next release goes through the agent.
                waiting = request(one, echo_server)
                await turns()
            (await waiting).release()


async def test_kept_connection_makes_room_for_another_key(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path, max_open=1) as ag, ag.connect(sticky=1) as one, ag.connect() as two:
        (await request(one, echo_server)).release()
        with anyio.fail_after(0.5):
            (await request(two, echo_server, for_port=7)).release()


async def test_kept_connection_that_dies_is_not_used(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect(sticky=1) as mgr:
        (await request(mgr, echo_server)).release()
        echo_server.disconnect_all()
        async with request(mgr, echo_server) as conn:
            assert conn.from_cache is None
        echo_server.push(b"surprise")
        await until_equal(lambda: mgr.stats().idle, 0)


async def test_fresh_request_takes_no_kept_connection(tmp_path: Path, echo_server: Server) -> None:
    async with here(tmp_path) as ag, ag.connect(sticky=1) as mgr:
        (await request(mgr, echo_server)).release()
        async with request(mgr, echo_server, fresh=True) as conn:
            assert conn.from_cache is None


# -- TLS --------------------------------------------------------------------------------------------------


async def test_tls_is_the_agents(tmp_path: Path, tls_server: Server, client_context: ssl.SSLContext) -> None:
    async with here(tmp_path, config(client_context)) as ag, ag.connect() as mgr:
        async with request(mgr, tls_server, scheme="https") as conn:
            assert conn.extra(TLSAttribute.tls_version) == "TLSv1.3"
            await conn.send(b"hello")
            assert await conn.receive() == b"hello"
        await until_equal(lambda: len(ag.agent.teller.relays), 0)
        async with request(mgr, tls_server, scheme="https") as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
    assert tls_server.handshakes == 1


async def test_much_passes_through_the_agent_in_order(
    tmp_path: Path, tls_server: Server, client_context: ssl.SSLContext
) -> None:
    content = bytes(range(256)) * 8192
    async with here(tmp_path, config(client_context)) as ag, ag.connect() as mgr:
        async with request(mgr, tls_server, scheme="https") as conn, anyio.create_task_group() as group:
            group.start_soon(conn.send, content)
            got = bytearray()
            while len(got) < len(content):
                got += await conn.receive()
        assert got == content


async def test_unread_bytes_under_tls_close_the_connection(
    tmp_path: Path, tls_server: Server, client_context: ssl.SSLContext
) -> None:
    async with here(tmp_path, config(client_context)) as ag, ag.connect() as mgr:
        conn = await request(mgr, tls_server, scheme="https")
        await conn.send(b"hello")
        assert await conn.receive(2) == b"he"
        conn.release()
        await until(lambda: tls_server.connections == 0)


async def greeted(mgr: agents.AgentManager, server: Server) -> Connection:
    """Return a TLS connection whose server has finished its part of the handshake, too."""
    conn: Connection = await request(mgr, server, scheme="https")
    await conn.send(b"x")
    assert await conn.receive() == b"x"
    return conn


async def test_clean_end_and_torn_end_of_tls_differ(
    tmp_path: Path, tls_server: Server, client_context: ssl.SSLContext
) -> None:
    async with here(tmp_path, config(client_context)) as ag, ag.connect() as mgr:
        conn = await greeted(mgr, tls_server)
        tls_server.disconnect_all()
        with pytest.raises(EndOfStream):
            await conn.receive()
        conn.release()
        conn = await greeted(mgr, tls_server)
        tls_server.cut_all()
        with pytest.raises(anyio.BrokenResourceError):
            await conn.receive()
        conn.release()
        await until_equal(lambda: len(ag.agent.teller.relays), 0)


async def test_half_closed_tls_connection_still_receives(
    tmp_path: Path, client_context: ssl.SSLContext, ca: Any
) -> None:
    with Server(Answerer(), tls=ca.server()) as server:
        async with here(tmp_path, config(client_context)) as ag, ag.connect() as mgr:
            conn = await request(mgr, server, scheme="https")
            await conn.send(b"question")
            await conn.send_eof()
            assert await conn.receive_exactly(6) == b"answer"
            conn.release()
            await until_equal(lambda: len(ag.agent.teller.relays), 0)


class Answerer(Greeting):
    """Answers when the question has come to its end."""

    def opened(self, peer: Any) -> None:
        pass

    def received(self, peer: Any, data: bytes) -> None:
        pass

    def ended(self, peer: Any) -> None:
        peer.send(b"answer")
        peer.close()


# -- HTTP, and who may do what -------------------------------------------------------------------------------


async def test_deadline_of_a_connection_holds_and_goes_with_its_use(
    tmp_path: Path, silent_server: Server
) -> None:
    async with here(tmp_path) as ag, ag.connect(sticky=1) as mgr:
        conn = await request(mgr, silent_server)
        conn.deadline = mgr.time() + 0.02
        with pytest.raises(TimeoutError):
            await conn.receive()
        conn.release()
        async with request(mgr, silent_server) as conn:
            assert conn.deadline == float("inf")


async def test_http_client_works_over_an_agent(tmp_path: Path) -> None:
    with Server(HttpOrigin()) as server:
        async with here(tmp_path) as ag, ag.connect(sticky=0.05) as mgr:
            client = http.Client(mgr)
            for _ in range(5):
                async with client.request("GET", f"http://127.0.0.1:{server.port}/") as response:
                    assert await response.read() == b"hello"
        assert server.accepted == 1


async def test_process_without_an_agent_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(agents.AgentError, match="no agent at"):
        await agents.connect(tmp_path / "none").__aenter__()


async def test_target_that_is_not_listed_is_refused(tmp_path: Path, echo_server: Server) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        f"""
[pools.own]
users = ["*"]
[[pools.own.allow]]
schemes = ["http"]
hosts = ["127.0.0.0/8"]
ports = [{echo_server.port}]
"""
    )
    async with here(tmp_path, agents.load_config(file)) as ag, ag.connect() as mgr:
        (await request(mgr, echo_server)).release()
        for scheme, addr, port in (
            ("smtp", echo_server.host, echo_server.port),
            ("http", "localhost", echo_server.port),
            ("http", echo_server.host, 22),
        ):
            with pytest.raises(AllocateError, match="allows no connection") as caught:
                await mgr.allocate(scheme, addr, port, 5)
            assert caught.value.function == "agent"
    assert echo_server.accepted == 1
