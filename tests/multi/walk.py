"""Random steps through a `World`, and what must hold between any two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.multi import PeerState
from keepalive.multi.desk import Desk
from keepalive.multi.types import Limits

from .world import FakeWire, Record, World

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = {
    "narrow": Limits(5, 5, 7, 6, max_connecting=2, max_output=40),
    "wide": Limits(20, 50, 30, 30, max_connecting=100, max_output=4000),
    "few": Limits(5, 5, 7, 6, max_connecting=100, max_output=40, max_open=4),
}


class Walk(World):
    """A world that moves by itself."""

    def attempts_end(self) -> None:
        trying = [record for record in self.live if record.opening and record.failing is None]
        if not trying:
            return
        record = self.rng.choice(trying)
        record.opening = False
        if self.rng.random() < 0.8:
            record.wire = FakeWire(record)
            record.wire.room = self.rng.choice((0, 5, 1000))
            record.stuck = self.now
            self.desk.connected(record.peer, record.wire)
        else:
            record.failing = ("connect", 111, "refused")
            self.desk.failed(record.peer, *record.failing)

    def _wired(self) -> tuple[Record, FakeWire] | None:
        wired = [record for record in self.live if record.wire is not None and not record.shut]
        if not wired:
            return None
        record = self.rng.choice(wired)
        assert record.wire is not None
        return record, record.wire

    def bytes_come(self) -> None:
        if (found := self._wired()) and not found[1].ended:
            record, wire = found
            wire.coming += bytes(self.rng.choices(b"xyz\r\n", k=self.rng.randint(1, 40)))
            wire.readable = True
            self.desk.readable(record.peer)

    def end_comes(self) -> None:
        if found := self._wired():
            record, wire = found
            wire.reset = wire.reset or self.rng.random() < 0.4
            wire.ended = wire.readable = True
            if self.rng.random() < 0.6:  # else the event is still to come
                self.desk.readable(record.peer)

    def room_comes(self) -> None:
        if found := self._wired():
            record, wire = found
            wire.room += self.rng.randint(1, 30)
            if wire.watched:
                wire.watched = False
                self.desk.writable(record.peer)

    def time_goes_by(self) -> None:
        self.now += self.rng.choice((0.5, 1.0, 3.0))
        if self.alarm is not None and self.alarm <= self.now:
            self.alarm = None
            self.desk.tick(self.now)
        for record in self.live:
            if record.shut:
                continue
            held = record.peer in self.desk._held and record.end_of_life() > self.now
            if record.deadline() <= self.now and held:
                assert self.desk.stalled or self.asked, "held up by nobody"
                record.since = self.now  # it is not the peer who is late
            assert record.deadline() > self.now, "somebody should have been timed out"

    def turn(self) -> None:
        if self.asked:
            self.asked = False
            self.desk.catch_up()

    def stall_or_go_on(self) -> None:
        if self.desk.stalled:
            self.desk.resume()
        elif self.rng.random() < 0.3:
            self.desk.stall()

    def descriptors_come_and_go(self) -> None:
        self.scarce = not self.scarce
        trying = [record for record in self.live if record.opening and record.failing is None]
        if self.scarce and trying:  # an attempt that has got further
            record = self.rng.choice(trying)
            record.opening, record.put_off = False, True
            self.refused = self.now
            self.desk.no_room(record.peer)

    def places_move(self) -> None:
        if self.closing:
            self.closing -= 1
            self.desk.freed()
        elif self.borrowed:
            self.borrowed -= 1
            self.desk.freed()
        elif self.desk.borrow():
            self.borrowed += 1
            assert self.places() <= self.limits.max_open

    def step(self) -> None:
        steps: tuple[Callable[[], None], ...] = (
            self.command, self.attempts_end, self.bytes_come, self.end_comes, self.room_comes,
            self.time_goes_by, self.turn, self.stall_or_go_on, self.descriptors_come_and_go, self.places_move,
        )  # fmt: skip
        self.rng.choices(steps, (60, 40, 60, 10, 40, 10, 60, 10, 2, 20))[0]()
        self.check()

    def check(self) -> None:
        """Compare what can be seen between two steps."""
        desk = self.desk
        opened = sum(record.opening for record in self.live)
        assert desk.connecting == opened
        if desk.holding > opened:
            self.held = self.now
        assert desk.holding == self.places() <= self.limits.max_open
        queued = [r for r in self.live if not r.shut and not r.opening and r.wire is None and r.told]
        if not desk.stalled and queued:
            full = desk.connecting == self.limits.max_connecting or self.places() == self.limits.max_open
            assert full or self.alarm is not None, "somebody waits for nothing"
            assert full or desk._room < self.limits.max_open, "somebody waits for nothing"
        assert set(desk.peers) == {r.peer.id for r in self.live if not r.shut}
        if not self.asked:
            assert all(not record.shut for record in self.live), "an end that nobody will be told of"
            if not desk.stalled:
                self._check_nothing_lies_there()

    def _check_nothing_lies_there(self) -> None:
        for record in self.live:
            wire = record.wire
            if wire is None:
                continue
            if record.peer.state is PeerState.CONNECTED:
                assert not wire.coming, "bytes that nobody reads"
                assert record.unit() is None, "a unit that nobody is told of"
            waiting = len(record.arrived) < len(record.accepted)
            assert wire.watched or not waiting, "bytes that nobody sends"
            if record.peer.state is PeerState.FLUSHING:
                assert not wire.coming, "bytes that nobody reads"
                assert wire.eof_sent or waiting

    def finish(self) -> None:
        """Let everything end, and see that nothing is left."""
        self.wild = False
        self.desk.stalled = False
        self.desk.die()
        while self.asked:
            self.turn()
        assert not self.live
        assert all(record.told[-1] == "on_disconnected" for record in self.records.values())
        tried = set(self.order)
        firsts = list(dict.fromkeys(self.order))
        assert firsts == [number for number in self.arrival if number in tried], "out of order"
        desk = self.desk
        assert not desk.connecting
        assert desk.holding == self.closing + self.borrowed
        left = (desk.peers, desk._queue, desk._put_off, desk._held, desk._hot, desk._emptied, desk.later)
        assert [len(things) for things in left] == [0] * len(left)
        assert not any(entry[2] for entry in desk._timers._agenda._heap), "a timer of nobody"


def walk(name: str, seed: int, steps: int, desk: type[Desk] = Desk) -> Walk:
    """Walk; AssertionError tells the step at which a promise was broken."""
    world = Walk(seed, CONFIGS[name], desk)
    step = 0
    try:
        for step in range(steps):  # noqa: B007  # told when it fails
            world.step()
        world.finish()
    except BaseException as exc:
        exc.add_note(f"walk({name!r}, seed={seed}), step {step}")
        raise
    return world
