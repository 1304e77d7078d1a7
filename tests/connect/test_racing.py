"""A race is ended, or its places are called back, at the worst moment: nothing stays open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectionManager, ManagerClosed, Resolution
from keepalive.connect.descriptors import DescriptorLine
from keepalive.connect.history import Failures
from keepalive.connect.racing import Racing
from tests.support.inside import driver_of
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Server


class Halves:
    """A resolver that tells the first address at once, and the rest never."""

    async def resolve(self, host: str) -> Resolution:
        raise AssertionError

    async def resolve_parts(self, host: str, part: Callable[[Resolution], None]) -> Resolution:
        """Tell a part."""
        part(Resolution(("127.0.0.1",)))
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("after", range(12))
async def test_given_up_at_any_turn(after: int, echo_server: Server) -> None:
    """Also between the first connection and the end of the task that waits for further addresses."""
    async with ConnectionManager(resolver=Halves()) as mgr:
        request = mgr.allocate("t", "half.test", echo_server.port)
        await turns(after)
        mgr.shutdown()
        await turns()
        assert mgr.stats().open == 0
        assert not driver_of(mgr).reactor.poller.links
        with pytest.raises(ManagerClosed):
            await request


class Link:
    """As much of a link as a race needs."""

    closed = False
    writer: Any = None

    def close(self) -> None:
        """Note it."""
        self.closed = True


class Connecting:
    """A socket whose fate is told by the test."""

    def __init__(self, number: int | None) -> None:
        self.link = Link()
        self.number = number

    def look(self) -> int | None:
        """Tell it."""
        assert not self.link.closed, "it is none of ours any more"
        return self.number


class World:
    """A net and places at once; the first place given back makes the others be called back."""

    poller: Any = None
    stagger = 0.0

    def __init__(self, *numbers: int | None) -> None:
        self.failures = Failures()
        self.line = DescriptorLine(self, make_room=None)  # type: ignore[arg-type]  # nobody waits in it
        self.fates = dict(zip("ABC", numbers, strict=True))
        self.sockets: dict[str, Connecting] = {}
        self.lent = 0
        self.recall: Callable[[], None] | None = None

    def clock(self) -> float:
        """Return the time: it stands."""
        return 0.0

    def reachable(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Return them all."""
        return addresses

    def begin(self, address: str, *_: object) -> Connecting:
        """Open a socket; the fates come when all are on their way."""
        self.sockets[address] = Connecting(None)
        if len(self.sockets) == len(self.fates):
            for name, number in self.fates.items():
                self.sockets[name].number = number
        return self.sockets[address]

    def take_extra(self, recall: Callable[[], None]) -> bool:
        """Lend a place."""
        self.lent += 1
        self.recall = recall
        return True

    def give_back_extra(self) -> None:
        """Take one back, and want the others too."""
        self.lent -= 1
        assert sum(not it.link.closed for it in self.sockets.values()) <= self.lent + 1
        recall, self.recall = self.recall, None
        if recall is not None and self.lent:
            recall()

    def run(self) -> Link:
        """Run a race to its end; nothing in it waits."""
        racing = Racing(self, self, 1, (), 2.0)  # type: ignore[arg-type]  # both by shape
        racing.add(tuple(self.fates))
        with pytest.raises(StopIteration) as caught:
            racing.run().send(None)
        link = caught.value.value
        assert isinstance(link, Link)
        return link


@pytest.mark.parametrize("winner", "ABC")
def test_places_are_called_back_while_the_winner_is_taken(winner: str) -> None:
    world = World(*(0 if name == winner else None for name in "ABC"))
    assert world.run() is world.sockets[winner].link
    assert [it.link.closed for it in world.sockets.values()] == [name != winner for name in "ABC"]
    assert world.lent == 0


def test_places_are_called_back_while_one_fails() -> None:
    world = World(111, 111, 0)
    assert world.run() is world.sockets["C"].link
    assert (world.lent, world.sockets["B"].link.closed) == (0, True)
