"""Peers that misbehave, users that do, and very many of both."""

from __future__ import annotations

import asyncio
import errno
import random
import resource
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import Resolution, StaticResolver, TLSConnector
from keepalive.multi import (
    BlockFilter,
    ClientClosed,
    EndReason,
    LengthFilter,
    LineFilter,
    MultiClient,
    PeerState,
    StreamFilter,
)
from tests.manager.test_fork import forking, in_child
from tests.support import (
    Behaviour,
    Deaf,
    Greeting,
    Lines,
    Server,
    full_backlog,
    has_ipv6,
    refused_port,
)
from tests.support.inside import core_of

from .kit import Log

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from keepalive import Dial, Link
    from keepalive.multi import Filter, Peer
    from tests.support import Peer as Visitor


class Script(Behaviour):
    """Does something with each visitor as soon as it is there."""

    def __init__(self, act: Callable[[Visitor], None]) -> None:
        self.act = act

    def opened(self, peer: Visitor) -> None:
        self.act(peer)


class Farewell(Behaviour):
    """Says something and closes at once."""

    def __init__(self, words: bytes) -> None:
        self.words = words

    def opened(self, peer: Visitor) -> None:
        peer.send(self.words)
        peer.close()


async def test_a_reset_is_an_error_with_its_number() -> None:
    # heritage tcpmulti 1.18.
    log = Log()
    with Server() as server:
        async with log.client() as client:
            peers = [client.connect(server.host, server.port) for _ in range(3)]
            await log.connected(*peers)
            await server.until(lambda s: s.connections == 3)
            server.reset_all()
            await log.ended(*peers)
    for peer in peers:
        assert log.of(peer)[-2:] == [
            ("error", "read", errno.ECONNRESET, "Connection reset by peer"), ("disconnected",)
        ]  # fmt: skip


async def test_what_came_before_a_broken_send_is_not_lost() -> None:
    log = Log()
    with Server(Farewell(b"why\n")) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            peer.output_filter = StreamFilter()
            peer.send(bytes(4_000_000))
            await log.ended(peer)
    assert log.inputs(peer) == [b"why"]
    assert log.of(peer)[-2][0] == "error"


async def test_half_a_unit_is_no_unit() -> None:
    log = Log()
    with Server(Farewell(b"whole\nhal")) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.ended(peer)
    assert log.inputs(peer) == [b"whole"]
    assert log.of(peer)[-2:] == [("error", "read", 0, ""), ("disconnected",)]


async def test_a_flood_leaves_room_for_others() -> None:
    flood = b"x" * 63 + b"\n"

    class Flood(Lines):
        def opened(self, peer: Visitor) -> None:
            if not self.flooded:
                self.flooded = True
                peer.send(flood * 400_000)

        flooded = False

    log = Log()
    with Server(Flood()) as server, Server(Lines()) as calm:
        async with log.client() as client:
            noisy = client.connect(server.host, server.port)
            await log.until(lambda: log.count["input"] > 1000)
            quiet = client.connect(calm.host, calm.port)
            for n in range(5):
                quiet.send(b"turn %d" % n)
                with anyio.fail_after(5):
                    await log.until(lambda n=n: len(log.inputs(quiet)) > n)  # type: ignore[misc]  # a default binds it
            assert log.count["input"] < 400_000, "the flood was over before the others had their turn"
            noisy.close()


async def test_chatter_leaves_room_for_the_rest_of_the_loop() -> None:
    """There are more events than the kernel gives at once, and each one leads to another."""
    far: dict[int, socket.socket] = {}

    def success(peer: Peer) -> None:
        far[peer.id] = stack.enter_context(listener.accept()[0])
        far[peer.id].send(b"a word\n")

    def more(peer: Peer, unit: bytes) -> None:
        if log.count["input"] < 30_000:
            far[peer.id].send(b"another\n")

    log = Log(on_success=success, on_input=more)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200))
        async with log.client() as client:
            for _ in range(200):
                client.connect("127.0.0.1", listener.getsockname()[1])
            await log.until(lambda: log.count["input"] >= 1000)
            assert log.count["input"] < 10_000


async def test_a_stale_event_is_nobody_elses_success() -> None:
    """A descriptor may be closed and given out again while an event of its former owner waits its turn."""
    made: list[Peer] = []

    def swap(peer: Peer, unit: bytes) -> None:
        for other in list(client.peers.values()):
            if other is not peer and other not in made:
                other.close()
                made.append(client.connect(nowhere.host, nowhere.port))

    log = Log(on_input=swap)
    with Server() as server, full_backlog() as nowhere:
        async with log.client() as client:
            peers = [client.connect(server.host, server.port) for _ in range(5)]
            await log.connected(*peers)
            await server.until(lambda s: s.accepted == 5)
            server.push(b"now\n")  # so that all events are taken at once
            await log.until(lambda: len(made) == 4)
            await anyio.sleep(0.05)  # nothing may follow
            assert [peer.state.value for peer in made] == ["connecting"] * 4


async def test_bad_units_end_their_own_peer_only() -> None:
    class Picky:
        def decode(self, buffer: bytearray) -> bytes:
            raise KeyError("no sense in it")

        def encode(self, unit: bytes) -> bytes:
            return unit

    log = Log()
    with Server(Greeting(b"x" * 100)) as server:
        async with log.client() as client:
            long = client.connect(server.host, server.port)
            long.filter = LineFilter(max_size=98)
            huge = client.connect(server.host, server.port)
            huge.filter = LengthFilter(2, max_size=1000)
            odd = client.connect(server.host, server.port)
            odd.filter = Picky()
            fine = client.connect(server.host, server.port)
            fine.filter = BlockFilter(50)
            await log.ended(long, huge, odd)
            await log.until(lambda: len(log.inputs(fine)) == 2)
            assert fine.state is PeerState.CONNECTED
    assert log.of(long)[-2][1:] == ("decode", errno.EMSGSIZE, "a line of at least 99 bytes; the limit is 98")
    assert log.of(huge)[-2][1:] == ("decode", errno.EMSGSIZE, "a unit of 30840 bytes; the limit is 1000")
    assert log.of(odd)[-2][1:] == ("decode", 0, "'no sense in it'")


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


async def test_local_addresses() -> None:
    # heritage tcpmulti 1.23.
    log = Log()
    with Server() as server:
        async with log.client(bind_address="127.0.0.2") as client:
            own = client.connect(server.host, server.port)
            other = client.connect(server.host, server.port, bind_address=("127.0.0.3", 0))
            await log.connected(own, other)
            for peer, expected in ((own, "127.0.0.2"), (other, "127.0.0.3")):
                assert peer.socket is not None
                assert peer.socket.getsockname()[0] == expected
            assert other.socket is not None
            taken = other.socket.getsockname()[1]
            clash = client.connect(server.host, server.port, bind_address="127.0.0.3", bind_port=taken)
            wrong = client.connect(server.host, server.port, bind_address="::1")
            alien = client.connect(server.host, server.port, bind_address="192.0.2.1")
            await log.ended(clash, wrong, alien)
    assert log.of(clash)[1][:3] in (
        ("failure", "bind", errno.EADDRINUSE), ("failure", "connect", errno.EADDRNOTAVAIL)
    )  # fmt: skip
    assert log.of(wrong)[1][:3] == ("failure", "bind", errno.EAFNOSUPPORT)
    assert log.of(alien)[1][:3] == ("failure", "bind", errno.EADDRNOTAVAIL)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_all_addresses_are_tried_and_the_first_error_is_told() -> None:
    # heritage tcpmulti 1.13.
    table = StaticResolver({"two.test": ("::1", "127.0.0.1"), "none.test": ("127.0.0.1", "::1")})
    log = Log()
    with Server() as server, Server(host="::1") as six, refused_port() as port:
        async with log.client(resolver=table) as client:
            peer = client.connect("two.test", server.port)  # nobody listens there on ::1
            literal = client.connect("::1", six.port)
            none = client.connect("none.test", port)
            await log.connected(peer, literal)
            await log.ended(none)
            assert (peer.address, literal.address) == ("127.0.0.1", "::1")
    assert log.of(none)[1][1:3] == ("connect", errno.ECONNREFUSED)


async def test_an_address_that_is_silent_holds_nobody_up() -> None:
    """As the IPv6 address of a host does where IPv6 leads nowhere."""
    log = Log()
    with full_backlog("127.0.0.2") as nowhere, Server(port=nowhere.port) as server:
        table = StaticResolver({"two.test": (nowhere.host, server.host)})
        async with log.client(resolver=table) as client:
            peer = client.connect("two.test", server.port)
            peer.send(b"found")
            await log.until(lambda: log.inputs(peer) == [b"found"])
            assert peer.address == server.host
            bound = client.connect("two.test", server.port, bind_address="::1")
            await log.ended(bound)
    assert log.of(bound)[1][:3] == ("failure", "bind", errno.EAFNOSUPPORT)


async def test_tls(ca: Any, client_context: ssl.SSLContext) -> None:
    log = Log()
    with Server(Lines(), tls=ca.server()) as server:
        async with log.client(
            connectors={"https": TLSConnector(client_context), "strangers": TLSConnector()},
            scheme="https",
        ) as client:
            peer = client.connect("127.0.0.1", server.port)
            peer.send(b"early")
            await log.until(lambda: log.inputs(peer) == [b"EARLY"])
            peer.filter = StreamFilter()
            peer.send(b"x" * 3_000_000 + b"\n")
            assert peer.waiting > 0
            await log.until(lambda: sum(map(len, log.inputs(peer))) == 3_000_006)
            assert peer.waiting == 0
            peer.send(b"last\n")
            peer.shutdown()
            await log.ended(peer)
            await server.until(lambda s: s.received == 6 + 3_000_001 + 5)
            untrusted = client.connect("127.0.0.1", server.port, scheme="strangers")
            await log.ended(untrusted)
    assert peer.reason is EndReason.SHUTDOWN
    assert log.of(untrusted)[1][:3] == ("failure", "tls", 0)


async def test_a_greeting_that_came_with_the_handshake(ca: Any, client_context: ssl.SSLContext) -> None:
    log = Log()
    with Server(Greeting(b"hello\n"), tls=ca.server()) as server:
        async with log.client(connectors={"https": TLSConnector(client_context)}) as client:
            peers = [client.connect("127.0.0.1", server.port, scheme="https") for _ in range(10)]
            await log.until(lambda: log.count["input"] == 10)
            peers[0].close()
            server.disconnect_all()
            await log.ended(*peers)
    assert log.of(peers[1])[-2:] == [("error", "read", 0, ""), ("disconnected",)]


async def test_connectors_of_ones_own(unix_server: Server) -> None:
    class Broken:
        async def connect(self, dial: Dial) -> Link:
            dial.phase = "gateway"
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the gateway said no")

    log = Log()
    async with log.client(connectors={"far": Broken()}) as client:
        peer = client.connect("x", 1, scheme="far")
        local = client.connect(unix_server.host, 0, scheme="unix")
        local.send(b"there")
        await log.ended(peer)
        await log.until(lambda: log.inputs(local) == [b"there"])
        assert local.address is None
    assert log.of(peer)[1] == ("failure", "gateway", errno.ECONNREFUSED, "the gateway said no")


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


def a_million(seed: int, units: int) -> tuple[bytes, list[bytes], dict[int, Filter]]:
    """Make a stream, the units in it, and the filters to change to after some of them."""
    rng = random.Random(seed)
    codecs: list[Filter] = [LineFilter(), BlockFilter(7), LengthFilter(2), LineFilter(b"||")]
    codec = codecs[0]
    changes: dict[int, Filter] = {}
    stream, found = bytearray(), []
    for n in range(units):
        size = 7 if codec is codecs[1] else rng.randint(0, 30)
        unit = bytes(rng.choices(b"abc\t", k=size))
        found.append(unit)
        stream += codec.encode(unit)
        if rng.random() < 0.01:
            changes[n + 1] = codec = rng.choice(codecs)
    return bytes(stream), found, changes


async def test_a_million_units_with_filters_changed_at_random_places() -> None:
    """A third of a million on each loop."""
    stream, expected, changes = a_million(5, 333_334)
    got: list[bytes] = []
    done = anyio.Event()

    def take(peer: Peer, unit: bytes) -> None:
        got.append(unit)
        if (codec := changes.get(len(got))) is not None:
            peer.input_filter = codec
        if len(got) == len(expected):
            done.set()

    with Server(Script(lambda peer: peer.send(stream))) as server:
        async with MultiClient(on_input=take) as client:
            client.connect(server.host, server.port)
            with anyio.fail_after(60):
                await done.wait()
    assert got == expected


@contextmanager
def holding(backlog: int) -> Iterator[int]:
    """Accept connections in a thread and hold them: as lean as can be, for there are very many."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
        ending = threading.Event()

        def accept() -> None:
            accepted = []
            while not ending.is_set():
                accepted.append(listener.accept()[0])
            for sock in accepted:
                sock.close()

        thread = threading.Thread(target=accept)
        thread.start()
        stack.callback(thread.join)
        port = listener.getsockname()[1]
        try:
            yield port
        finally:
            ending.set()
            socket.create_connection(("127.0.0.1", port)).close()


async def test_ten_thousand_connections_that_cost_nothing_while_idle() -> None:
    """Both ends are in this process, so it needs 20,000 descriptors; with fewer, it takes what there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, (hard - 600) // 2)
    rings = connected = 0
    done = anyio.Event()

    def success(peer: Peer) -> None:
        nonlocal connected
        connected += 1
        if connected == count:
            done.set()

    try:
        with holding(4096) as port:
            async with MultiClient(on_success=success) as client:
                core = core_of(client)
                for _ in range(count):
                    client.connect("127.0.0.1", port)
                with anyio.fail_after(60):
                    await done.wait()
                assert len(client) == len(core.timers) == count
                tick = core.tick

                def ticked(now: float) -> None:
                    nonlocal rings
                    rings += 1
                    tick(now)

                core.tick = ticked  # type: ignore[method-assign]  # a look at what must not happen
                await anyio.sleep(0.3)
                assert rings == 0
                client.die()
                assert len(core.timers) <= 64
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
