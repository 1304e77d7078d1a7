"""What users do: wrong units, callbacks that raise, wrong arguments, ends in the middle of everything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive.multi import (
    ClientClosed,
    EndReason,
    LineFilter,
    MultiClient,
    PeerState,
    StreamFilter,
)
from tests.manager.test_fork import forking, in_child
from tests.support import (
    Deaf,
    Server,
    full_backlog,
    refused_port,
)

from .kit import Log

if TYPE_CHECKING:
    from keepalive import Resolution
    from keepalive.multi import Peer


async def test_refused_units_are_told_at_the_call() -> None:
    log = Log()
    with Server() as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            for units in ((b"good", b"b\nad"), (b"x" * 65537,), ("text",), (b"good", None), ()):
                with pytest.raises((ValueError, TypeError)):
                    peer.send(*units)
            peer.send(bytearray(b"fine"), memoryview(b"too"))
            await log.until(lambda: len(log.inputs(peer)) == 2)
            assert log.inputs(peer) == [b"fine", b"too"]


@pytest.mark.parametrize("name", ["on_initialize", "on_success", "on_input", "on_flushed"])
async def test_a_callback_that_raises_ends_its_own_peer(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(peer: Peer, *_: object) -> None:
        if peer.heap.get("bad"):
            raise RuntimeError("my mistake")

    own = {name: fail}
    if name != "on_success":
        own["on_success"] = lambda peer, *_: peer.send(b"x") and None
    log = Log(**own)
    with Server() as server:
        async with log.client() as client:
            good = client.connect(server.host, server.port)
            bad = client.connect(server.host, server.port, heap={"bad": True})
            await log.ended(bad)
            good.send(b"alive")
            await log.until(lambda: b"alive" in log.inputs(good))
    assert log.of(bad)[-2:] == [("error", name, 0, "my mistake"), ("disconnected",)]
    assert bad.reason is EndReason.ERROR
    assert "my mistake" in caplog.text


async def test_a_callback_may_raise_what_is_no_exception_too() -> None:
    """As `result` of a cancelled future does, which has nothing to do with the task that runs here."""

    def fail(peer: Peer, *_: object) -> None:
        raise asyncio.CancelledError("of something else")

    log = Log(on_input=fail, on_failure=fail)
    with Server() as server, refused_port() as port:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            peer.send(b"one", b"two")
            refused = client.connect("127.0.0.1", port)
            await log.ended(peer, refused)
    assert log.of(peer)[3:] == [
        ("input", b"one"), ("error", "on_input", 0, "of something else"), ("disconnected",)
    ]  # fmt: skip
    assert log.words(refused) == "initialize failure error disconnected"


async def test_callbacks_of_the_end_may_raise_too(caplog: pytest.LogCaptureFixture) -> None:
    def fail(peer: Peer, *_: object) -> None:
        raise RuntimeError("my mistake")

    log = Log(on_failure=fail, on_error=fail, on_disconnected=fail)
    with refused_port() as port:
        async with log.client() as client:
            peer = client.connect("127.0.0.1", port)
            await log.ended(peer)
    assert log.words(peer) == "initialize failure error disconnected"
    assert len(caplog.records) == 3


async def test_a_window_that_goes_on_after_the_end_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(on_disconnected=lambda peer: client.connect("127.0.0.1", 9))
    with full_backlog() as nowhere:
        async with log.client() as client:
            client.connect(nowhere.host, nowhere.port)
    assert not caplog.records
    assert log.count["initialize"] == log.count["disconnected"] == 1


async def test_wrong_arguments_are_refused_and_cost_nothing() -> None:
    # heritage tcpmulti 1.25.
    log = Log()
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        (("127.0.0.1", 0), {}, "port must be from 1"),
        (("127.0.0.1", 65536), {}, "port must be from 1"),
        (("127.0.0.1", "80"), {}, "port must be a port number"),
        (("127.0.0.1", True), {}, "port must be a port number"),
        (("", 80), {}, "addr must not be empty"),
        ((None, 80), {}, "addr must be a str"),
        ((b"127.0.0.1", 80), {}, "addr must be a str"),
        (("a b", 80), {}, "addr must not contain"),
        (("h", 80), {"scheme": "gopher"}, "scheme must be 'tcp' or a key"),
        (("h", 80), {"bind_address": "localhost"}, "bind_address must be an IPv4 or IPv6 address"),
        (("h", 80), {"bind_port": 70000}, "bind_port must be"),
        (("h", 80), {"connect_timeout": -1}, "connect_timeout must not be negative"),
        (("h", 80), {"input_timeout": "1"}, "input_timeout must be a number"),
        (("h", 80), {"input_timeout": float("nan")}, "input_timeout must not be"),
        (("h", 80), {"heap": 1}, "heap must be a mapping"),
    ]
    async with log.client() as client:
        for args, options, text in wrong:
            with pytest.raises((TypeError, ValueError), match=text):
                client.connect(*args, **options)
        assert len(client) == 0
        client.die()
        with pytest.raises(ClientClosed):
            client.connect("127.0.0.1", 80)
    assert log.told == []
    with pytest.raises(ClientClosed):
        client.connect("127.0.0.1", 80)
    with pytest.raises(RuntimeError, match="only once"):
        await client.__aenter__()


def test_wrong_options_are_refused() -> None:
    options: list[tuple[str, Any]] = [
        ("on_input", 1), ("filter", LineFilter()), ("connect_timeout", -1), ("input_timeout", "x"),
        ("write_timeout", float("nan")), ("shutdown_timeout", True), ("max_connecting", 0),
        ("max_output", 0), ("max_events", 0), ("resolver", 1), ("connectors", {"x": 1}),
        ("bind_address", "nowhere"), ("scheme", "gopher"), ("scheme", 1),
    ]  # fmt: skip
    for name, value in options:
        with pytest.raises((TypeError, ValueError), match=name):
            MultiClient(**{name: value})
    with pytest.raises(RuntimeError, match="not been entered"):
        MultiClient().connect("127.0.0.1", 1)
    assert repr(MultiClient()) == "<MultiClient new: peers=0 connecting=0 made=0>"


async def test_drain_and_aclose_with_grace() -> None:
    log = Log()
    with Server(Deaf(), receive_buffer=8192) as server:
        async with log.client(filter=StreamFilter) as client:
            peers = [client.connect(server.host, server.port) for _ in range(3)]
            for peer in peers:
                peer.send(bytes(8_000_000))
            await log.connected(*peers)
            with anyio.move_on_after(0.05) as scope:
                await peers[0].drain()
            assert scope.cancelled_caught
            server.resume_reading()
            async with anyio.create_task_group() as group:
                for peer in peers:
                    group.start_soon(peer.drain)
            await client.aclose(grace=5)
            assert {peer.reason for peer in peers} == {EndReason.SHUTDOWN}
            assert server.received == 24_000_000
    assert log.count["disconnected"] == 3


async def test_an_exception_leaves_the_block_as_it_is_cancelled_or_not() -> None:
    caught = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            async with MultiClient():
                raise ValueError("of the user")
        except ValueError as exc:
            caught = exc
    assert str(caught) == "of the user"


@forking
async def test_a_fork_leaves_the_parent_alone() -> None:
    log = Log()
    with Server() as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.connected(peer)

            def child() -> None:
                assert len(client) == 0
                assert peer.state is PeerState.CLOSED
                assert not peer.send(b"from the child")
                with pytest.raises(ClientClosed):
                    client.connect(server.host, server.port)

            in_child(child)
            peer.send(b"parent")
            await log.until(lambda: log.inputs(peer) == [b"parent"])


async def test_other_threads_are_refused() -> None:
    log = Log()
    with Server() as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            for call in (peer.shutdown, peer.close, client.die, lambda: peer.send(b"x")):
                with pytest.raises(RuntimeError, match="event loop"):
                    await anyio.to_thread.run_sync(call)
            assert peer.state is not PeerState.CLOSED


async def test_cancelled_in_the_middle_of_everything() -> None:
    class Never:
        async def resolve(self, host: str) -> Resolution:
            await anyio.sleep_forever()
            raise AssertionError

    log = Log()
    with Server() as server, full_backlog() as nowhere:
        with anyio.move_on_after(0.1):
            async with log.client(resolver=Never()) as client:
                for _ in range(5):
                    client.connect(server.host, server.port)
                    client.connect(nowhere.host, nowhere.port)
                    client.connect("name.test", 1)
                    client.connect(nowhere.host, nowhere.port, scheme="https")
                await anyio.sleep_forever()
        assert log.count["initialize"] == log.count["disconnected"] == 20
        await server.until(lambda s: s.connections == 0)
