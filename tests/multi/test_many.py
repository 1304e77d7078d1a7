"""Very many units, and very many connections."""

from __future__ import annotations

import random
import resource
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import anyio

from keepalive.multi import (
    BlockFilter,
    LengthFilter,
    LineFilter,
    MultiClient,
)
from tests.support import (
    Behaviour,
    Server,
)
from tests.support.inside import core_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keepalive.multi import Filter, Peer
    from tests.support import Peer as Visitor


class Script(Behaviour):
    """Does something with each visitor as soon as it is there."""

    def __init__(self, act: Callable[[Visitor], None]) -> None:
        self.act = act

    def opened(self, peer: Visitor) -> None:
        self.act(peer)


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
