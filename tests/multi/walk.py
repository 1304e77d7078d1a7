"""Random steps through a `World`, and what must hold between any two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.multi import PeerState
from keepalive.multi.core.dispatch import Dispatch
from keepalive.multi.core.states import Limits

from .world import Account, FakeWire, World

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = {
    "narrow": Limits(5, 5, 7, 6, max_connecting=2, max_output=40),
    "wide": Limits(20, 50, 30, 30, max_connecting=100, max_output=4000),
    "single": Limits(5, 5, 7, 6, max_connecting=2, max_output=40, max_open=1),
    "few": Limits(5, 5, 7, 6, max_connecting=100, max_output=40, max_open=4),
}


class Walk(World):
    """A world that moves by itself."""

    def attempts_end(self) -> None:
        trying = [record for record in self.live if record.opening and record.failing is None]
        if not trying:
            return
        record = self.rng.choice(trying)
        if self.scarce and self.rng.random() < self.refusing:
            self.finds_no_descriptor(record)
            return
        record.opening = False
        if self.rng.random() < 0.8:
            record.wire = FakeWire(record)
            record.wire.room = self.rng.choice((0, 5, 1000))
            record.stuck = self.now
            self.core.connected(record.inner, record.wire, self.now)
        else:
            record.failing = ("connect", 111, "refused")
            self.core.failed(record.inner, *record.failing, self.now)

    def attempt_is_given_up(self) -> None:
        trying = [record for record in self.live if record.opening and record.failing is None]
        if trying:
            self.cut(self.rng.choice(trying))

    def _wired(self) -> tuple[Account, FakeWire] | None:
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
            self.core.readable(record.inner, self.now)

    def end_comes(self) -> None:
        if found := self._wired():
            record, wire = found
            wire.reset = wire.reset or self.rng.random() < 0.4
            wire.ended = wire.readable = True
            if self.rng.random() < 0.6:  # else the event is still to come
                self.core.readable(record.inner, self.now)

    def room_comes(self) -> None:
        if found := self._wired():
            record, wire = found
            wire.room += self.rng.randint(1, 30)
            if wire.watched:
                wire.watched = False
                self.core.writable(record.inner, self.now)

    def time_goes_by(self) -> None:
        self.now += self.rng.choice((0.5, 1.0, 3.0))
        if self.alarm is not None and self.alarm <= self.now:
            self.alarm = None
            self.core.tick(self.now)
        for record in self.live:
            if record.shut:
                continue
            held = record.inner in self.core.lifecycle.held and record.end_of_life() > self.now
            if record.deadline() <= self.now and held:
                assert self.core.places.paused or self.asked, "held up by nobody"
                record.since = self.now  # it is not the peer who is late
            assert record.deadline() > self.now, "somebody should have been timed out"

    def turn(self) -> None:
        if self.asked:
            self.asked = False
            self.core.run_deferred(self.now)

    def stall_or_go_on(self) -> None:
        if self.core.places.paused:
            self.core.resume(self.now)
        elif self.rng.random() < 0.3:
            self.core.pause()

    def descriptors_come_and_go(self) -> None:
        self.scarce = not self.scarce
        self.refusing = self.rng.choice((0.5, 0.9))
        trying = [record for record in self.live if record.opening and record.failing is None]
        if self.scarce and trying:  # an attempt that has got further
            self.finds_no_descriptor(self.rng.choice(trying))

    def finds_no_descriptor(self, record: Account) -> None:
        record.opening, record.put_off = False, True
        self.refused = self.now
        self.core.no_room(record.inner, self.now)

    def places_move(self) -> None:
        if self.closing:
            self.closing -= 1
            self.core.freed(self.now)
        elif self.borrowed:
            self.borrowed -= 1
            self.core.freed(self.now)
        elif self.core.borrow():
            self.borrowed += 1
            assert self.places() <= self.limits.max_open

    def step(self) -> None:
        steps: tuple[Callable[[], None], ...] = (
            self.command, self.attempts_end, self.bytes_come, self.end_comes, self.room_comes,
            self.time_goes_by, self.turn, self.stall_or_go_on, self.descriptors_come_and_go, self.places_move,
            self.attempt_is_given_up,
        )  # fmt: skip
        self.rng.choices(steps, (60, 40, 60, 10, 40, 10, 60, 25, 2, 20, 10))[0]()
        self.check()

    def check(self) -> None:
        """Compare what can be seen between two steps."""
        core, places = self.core, self.core.places
        opened = sum(record.opening for record in self.live)
        assert places.connecting == opened
        if places.taken > opened:
            self.held = self.now
        assert places.taken == self.places() <= self.limits.max_open
        queued = [r for r in self.live if not r.shut and not r.opening and r.wire is None and r.told]
        if not places.paused and queued:
            full = places.connecting == self.limits.max_connecting or self.places() == self.limits.max_open
            assert full or self.alarm is not None, "somebody waits for nothing"
            assert full or places.room < self.limits.max_open, "somebody waits for nothing"
        assert set(core.records) == {r.peer.id for r in self.live if not r.shut}
        if not self.asked:
            assert all(not record.shut for record in self.live), "an end that nobody will be told of"
            if not places.paused:
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
        self.core.places.paused = False
        self.core.die(self.now)
        while self.asked:
            self.turn()
        assert not self.live
        assert all(record.told[-1] == "on_disconnected" for record in self.records.values())
        tried = set(self.order)
        firsts = list(dict.fromkeys(self.order))
        assert firsts == [number for number in self.arrival if number in tried], "out of order"
        core, places, lifecycle = self.core, self.core.places, self.core.lifecycle
        assert not places.connecting
        assert places.taken == self.closing + self.borrowed
        left = (
            core.records, places.queue, places.put_off,
            lifecycle.held, lifecycle.to_read, lifecycle.emptied, core.deferred,
        )  # fmt: skip
        assert [len(things) for things in left] == [0] * len(left)
        assert core.timers.next() == float("inf"), "a timer of nobody"


def walk(name: str, seed: int, steps: int, core: type[Dispatch] = Dispatch) -> Walk:
    """Walk; AssertionError tells the step at which a promise was broken."""
    world = Walk(seed, CONFIGS[name], core)
    step = 0
    try:
        for step in range(steps):  # noqa: B007  # told when it fails
            world.step()
        world.finish()
    except BaseException as exc:
        exc.add_note(f"walk({name!r}, seed={seed}), step {step}")
        raise
    return world
