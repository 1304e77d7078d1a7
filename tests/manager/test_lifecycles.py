"""The hooks of a life cycle: set-up, check, reset, what comes while idle, goodbye."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectionManager,
    KeySettings,
    Lifecycle,
    QueueFull,
    SetupError,
)
from tests.support import Lines, Server, Silent
from tests.support.requests import at_rest
from tests.support.waiting import turns, until, until_equal

if TYPE_CHECKING:
    from keepalive import Connection, Key
    from keepalive.transport.stream import LinkStream


async def say(stream: LinkStream | Connection, word: bytes) -> bytes:
    await stream.send(word + b"\n")
    return await stream.receive_until(b"\n", 1000)


class Talk(Lifecycle[str]):
    """All hooks, each of which says its name; what they heard is in `told`."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def opened(self, stream: LinkStream, key: Key) -> str:
        self.told.append("opened")
        return (await say(stream, b"auth")).decode()

    async def check(self, stream: LinkStream, state: str) -> None:
        self.told.append("check")
        assert await say(stream, b"ping") == b"PING"

    async def reset(self, stream: LinkStream, state: str) -> None:
        self.told.append("reset")
        assert await say(stream, b"reset") == b"RESET"

    async def closing(self, stream: LinkStream, state: str) -> None:
        self.told.append("closing")
        await stream.send(b"quit\n")


class Opened(Lifecycle[bytes]):
    async def opened(self, stream: LinkStream, key: Key) -> bytes:
        return await say(stream, key.for_addr.encode())


def manager(lifecycle: Lifecycle[Any], **options: object) -> ConnectionManager:
    return ConnectionManager(lifecycles={"line": lifecycle}, **options)  # type: ignore[arg-type]  # by name


async def test_set_up_once_and_state_stays_from_user_to_user() -> None:
    with Server(Lines()) as server:
        async with manager(Opened()) as mgr:
            for uses in (1, 2, 3):
                async with await mgr.allocate("line", server.host, server.port, for_addr="me") as conn:
                    assert (conn.state, conn.uses) == (b"ME", uses)
                assert conn.state is None
        assert server.accepted == 1


async def test_what_the_set_up_read_too_far_is_the_first_users() -> None:
    class Greedy(Lifecycle[None]):
        async def opened(self, stream: LinkStream, key: Key) -> None:
            await stream.send(b"one\ntwo\n")
            await stream.receive_exactly(8)
            stream._put_back(stream._link, b"TWO\n")  # as receive_until does

    with Server(Lines()) as server:
        async with manager(Greedy()) as mgr, mgr.allocate("line", server.host, server.port) as conn:
            assert await conn.receive() == b"TWO\n"


async def test_set_up_that_fails_is_the_requests_error_and_costs_nothing() -> None:
    class Refuses(Lifecycle[None]):
        async def opened(self, stream: LinkStream, key: Key) -> None:
            msg = "wrong password"
            raise PermissionError(13, msg)

    with Server(Lines()) as server:
        async with manager(Refuses(), max_open=1) as mgr:
            for _ in range(3):
                with pytest.raises(SetupError, match="'line': wrong password") as caught:
                    await mgr.allocate("line", server.host, server.port)
                assert (caught.value.function, caught.value.error_num) == ("setup", 13)
                assert isinstance(caught.value.__cause__, PermissionError)
            at_rest(mgr)
            assert mgr.stats().failed == {"setup": 3}
            await server.until(lambda server: not server.connections)


@pytest.mark.parametrize("how", ["setup_timeout", "connect_timeout", "timeout"])
async def test_set_up_that_never_ends_is_cut(how: str) -> None:
    with Server(Silent()) as server:
        async with manager(Opened(), **{how: 0.05}) as mgr:
            with pytest.raises(AllocateTimeout, match=how) as caught:
                await mgr.allocate("line", server.host, server.port)
            assert caught.value.function == "setup"
            mgr.evict()
            await until(lambda: mgr.stats().open == (how == "timeout"))


async def test_cancelled_set_up_leaves_nothing() -> None:
    with Server(Silent()) as server:
        async with manager(Opened(), max_open=1) as mgr:
            with anyio.move_on_after(0.02):
                await mgr.allocate("line", server.host, server.port)
            mgr.shutdown()
            await until_equal(lambda: mgr.stats().open, 0)


async def test_check_after_long_idleness_only() -> None:
    talk = Talk()
    with Server(Lines()) as server:
        async with manager(talk, settings={"line": KeySettings(check_after=0)}) as mgr:
            async with await mgr.allocate("line", server.host, server.port):
                pass
            await until(lambda: mgr.stats().idle == 1)
            async with await mgr.allocate("line", server.host, server.port) as conn:
                assert conn.uses == 2
            await until_equal(lambda: talk.told, ["opened", "reset", "check", "reset"])
    with Server(Lines()) as server:
        talk = Talk()
        async with manager(talk, check_after=60) as mgr:
            for _ in range(2):
                async with await mgr.allocate("line", server.host, server.port):
                    pass
                await until(lambda: mgr.stats().idle == 1)
        assert "check" not in talk.told


@pytest.mark.parametrize("how", ["raises", "hangs"])
async def test_check_that_fails_is_never_the_requests(how: str) -> None:
    class Checks(Opened):
        async def check(self, stream: LinkStream, state: bytes) -> None:
            if how == "hangs":
                await anyio.sleep_forever()
            msg = "stale"
            raise ValueError(msg)

    with Server(Lines()) as server:
        async with manager(Checks(), check_after=0, check_timeout=0.05) as mgr:
            conns = [await mgr.allocate("line", server.host, server.port) for _ in range(3)]
            for conn in conns:
                conn.release()
            async with await mgr.allocate("line", server.host, server.port, timeout=5) as conn:
                assert conn.is_new
            assert mgr.stats().closed["check"] >= 1
            assert not mgr.stats().failed


async def test_release_returns_at_once_and_reset_is_in_the_managers_care() -> None:
    gate = anyio.Event()

    class Resets(Opened):
        async def reset(self, stream: LinkStream, state: bytes) -> None:
            await gate.wait()

    with Server(Lines()) as server:
        async with manager(Resets(), max_per_host=1) as mgr:
            conn = await mgr.allocate("line", server.host, server.port)
            conn.release()
            assert (mgr.stats().open, mgr.stats().idle, mgr.stats().lent) == (1, 0, 1)
            request = mgr.allocate("line", server.host, server.port, timeout=5)
            await turns()
            assert mgr.stats().waiting == 1
            gate.set()
            async with await request as conn:
                assert conn.uses == 2


async def test_reset_that_fails_closes_the_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    class Resets(Opened):
        async def reset(self, stream: LinkStream, state: bytes) -> None:
            raise RuntimeError

    with Server(Lines()) as server:
        async with manager(Resets(), max_per_host=1) as mgr:
            (await mgr.allocate("line", server.host, server.port)).release()
            async with await mgr.allocate("line", server.host, server.port, timeout=5) as conn:
                assert conn.is_new
            assert mgr.stats().closed == {"reset": 1}
    assert "reset of the life cycle of line://" in caplog.text


async def test_answers_while_idle_and_refuses() -> None:
    class Pong(Opened):
        def received(self, state: bytes, data: bytes) -> bytes | None:
            return {b"ping\n": b"pong\n", b"notice\n": b""}.get(data)

    with Server(Lines()) as server:
        async with manager(Pong()) as mgr:
            (await mgr.allocate("line", server.host, server.port)).release()
            before = server.received
            server.push(b"ping\n")
            await until(lambda: server.received > before)  # which the server answers: "PONG", refused
            await until_equal(lambda: mgr.stats().closed.get("unread", 0), 1)
            (await mgr.allocate("line", server.host, server.port)).release()
            server.push(b"notice\n")
            await turns()
            async with await mgr.allocate("line", server.host, server.port) as conn:
                assert conn.uses == 2
                assert await say(conn, b"x") == b"X"


async def test_goodbye_when_it_has_time_never_after_a_failure() -> None:
    heard: list[bytes] = []

    class Listening(Lines):
        def received(self, peer: object, data: bytes) -> None:
            heard.append(data)
            super().received(peer, data)  # type: ignore[arg-type]  # a Peer

    talk = Talk()
    with Server(Listening()) as server:
        async with manager(talk, check_after=None) as mgr:
            (await mgr.allocate("line", server.host, server.port)).release()
            await until(lambda: mgr.stats().idle == 1)
            assert mgr.evict() == 1
            assert mgr.stats().closing == 1
            await until(lambda: mgr.stats().open == 0)
            await until(lambda: heard[-1] == b"quit\n")
            (await mgr.allocate("line", server.host, server.port)).discard()
            assert mgr.stats().open == 0
            conn = await mgr.allocate("line", server.host, server.port)
            conn.release()
            await until(lambda: mgr.stats().idle == 1)
        await until(lambda: heard[-1] == b"quit\n")  # the end of the manager is no failure
    assert talk.told.count("closing") == 2


async def test_goodbye_that_never_ends_is_cut() -> None:
    class Clings(Opened):
        async def closing(self, stream: LinkStream, state: bytes) -> None:
            await anyio.sleep_forever()

    with Server(Lines()) as server:
        async with manager(Clings(), max_open=1) as mgr:
            (await mgr.allocate("line", server.host, server.port)).release()
            mgr.evict()
            assert mgr.stats().closing == 1
            async with await mgr.allocate("line", server.host, server.port, timeout=5) as conn:
                assert conn.is_new


async def test_preconnected_ones_are_set_up_too() -> None:
    with Server(Lines()) as server:
        async with manager(Opened()) as mgr:
            assert await mgr.preconnect("line", server.host, server.port, 2) == 2
            async with await mgr.allocate("line", server.host, server.port) as conn:
                assert conn.state == server.host.upper().encode()


async def test_dropped_unawaited_and_shut_down_in_each_phase() -> None:
    with Server(Lines()) as server:
        for wait in range(12):
            talk = Talk()
            async with manager(talk, check_after=0) as mgr:
                (await mgr.allocate("line", server.host, server.port)).release()
                await turns(wait)
                request = mgr.allocate("line", server.host, server.port)
                await turns(wait)
                request.cancel()
                await turns(wait)
                mgr.shutdown()
            assert mgr.stats().open == 0
        await server.until(lambda server: not server.connections)


class Wrong(Lifecycle[None]):
    def opened(self, stream: LinkStream, key: Key) -> None:  # type: ignore[override]  # the mistake
        """Be no coroutine function."""


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"lifecycles": {"line": Wrong()}}, TypeError, r"opened of lifecycles\['line'\] must be an async"),
        ({"lifecycles": {"line": object()}}, TypeError, "must be a Lifecycle"),
        ({"lifecycles": {"line": Talk}}, TypeError, "must be a Lifecycle"),
        ({"lifecycles": [Talk()]}, TypeError, "lifecycles must map"),
        ({"lifecycles": {"": Talk()}}, ValueError, "scheme must not be empty"),
        ({"setup_timeout": 0}, ValueError, "setup_timeout"),
        ({"check_timeout": -1}, ValueError, "check_timeout"),
        ({"check_after": "1"}, TypeError, "check_after"),
        ({"settings": {"line": {}}}, TypeError, r"settings\['line'\] must be KeySettings"),
        ({"settings": {1: KeySettings()}}, TypeError, "settings are for"),
        ({"settings": {("line", "h", "x"): KeySettings()}}, TypeError, "port"),
    ],
)
async def test_wrong_arguments_are_named(given: dict[str, object], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        ConnectionManager(**given)  # type: ignore[arg-type]  # the mistakes


async def test_settings_of_a_key_count_for_it_alone() -> None:
    with Server(Lines()) as server, Server(Lines()) as other:
        settings = {("tcp", server.host, server.port): KeySettings(max_per_host=1, keep_alive=0)}
        async with ConnectionManager(settings=settings, max_waiting=0) as mgr:
            async with await mgr.allocate("tcp", server.host, server.port):
                with pytest.raises(QueueFull, match="1 of 1 for this key"):
                    await mgr.allocate("tcp", server.host, server.port)
            assert mgr.stats().idle == 0
            conns = [await mgr.allocate("tcp", other.host, other.port) for _ in range(4)]
            for conn in conns:
                conn.release()
            assert mgr.stats().idle == 4


async def test_so_many_are_kept_ready_set_up_and_replaced_in_time() -> None:
    with Server(Lines()) as server:
        place = ("line", server.host, server.port)
        async with manager(Opened(), settings={place: KeySettings(min_idle=2, keep_alive=0.05)}) as mgr:
            await until(lambda: mgr.stats().idle == 2)
            async with await mgr.allocate(*place) as conn:
                assert conn.is_new
                assert conn.state == server.host.upper().encode()
                await until(lambda: mgr.stats().idle == 2)
            await until(lambda: server.accepted == 3 and mgr.stats().idle == 2)  # one too many expired
            mgr.set_limits(settings={place: KeySettings(min_idle=0, keep_alive=0.05)})
            await until(lambda: mgr.stats().open == 0)
            mgr.set_limits(settings={place: KeySettings(min_idle=1, max_lifetime=0.4)})
            await until(lambda: server.accepted >= 5)
            assert mgr.stats().open >= 1


async def test_nothing_is_kept_ready_where_nothing_is_kept_idle() -> None:
    with Server(Lines()) as server:
        place = ("line", server.host, server.port)
        async with manager(Opened(), keep_alive=0, settings={place: KeySettings(min_idle=2)}) as mgr:
            await turns()
            async with await mgr.allocate(*place):
                assert mgr.stats().open == 1
            assert (mgr.stats().open, mgr.stats().opened) == (0, 1)
