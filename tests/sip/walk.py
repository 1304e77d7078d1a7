"""Random steps through a `World`, and what must hold between any two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepalive.sip import SipConfig
from keepalive.sip.core.flow import CONNECTING, HANDSHAKE, OPEN
from keepalive.sip.core.flows import Flows
from keepalive.sip.core.routes import TRANSACTION_MEMORY

from .world import NEVER, Message, Record, Waiter, World

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = {
    "narrow": SipConfig(
        raw=True, max_tid=2, min_expire=5.0, max_expire=20.0, max_pending=45.0, ping_expire=30.0,
        connect_timeout=4.0, response_timeout=8.0, message_timeout=6.0, max_queue=40, max_connections=6,
        max_per_peer=3,
    ),
    "patient": SipConfig(
        raw=True, max_tid=9, min_expire=1.0, max_expire=30.0, max_pending=90.0, ping_expire=75.0,
        connect_timeout=12.0, response_timeout=None, message_timeout=3.0, max_queue=60, max_connections=None,
    ),
}  # fmt: skip


class Walk(World):
    """A world that moves by itself."""

    def choose(self, *, stood: bool | None = None) -> Record | None:
        found = [record for record in self.live if stood is None or record.stood == stood]
        return self.rng.choice(found) if found else None

    # -- commands of users ------------------------------------------------------------------------------

    def command(self) -> None:
        self.rng.choices((self.submit, self.withdraw, self.user_closes, self.register), (12, 2, 1, 1))[0]()

    def submit(self) -> None:
        if (record := self.choose()) is not None:
            self.submit_to(record)

    def submit_to(self, record: Record, spare: float = 0.3) -> None:
        rng = self.rng
        message = Message(record, rng.randint(1, 12))
        kind = rng.choice(("request", "response", "response", "ping"))
        if kind == "request":
            message.key, message.expects_answer = b"%d" % rng.randint(1, 6), True
        elif kind == "response":
            message.key = rng.choice([*record.requests, b"%d" % rng.randint(1, 6)])
        else:
            message.expects_answer = True
        if not record.stood and not record.inbound and rng.random() < spare:
            message.fallback = self.resend
        who = rng.random()
        if who < 0.5:
            message.callback = self.callback_of(message)
        elif who < 0.8:
            message.parked = Waiter(self, message)
        message.awaited = message.parked is not None
        message.heeding = message.callback is not None
        record.given += 1
        message.number = record.given
        waiting = sum(len(one.data) for one in record.waiting)
        assert record.queued == waiting
        fits = waiting + len(message.data) <= self.config.max_queue
        taken = self.flows.enqueue(record, message, self.now)
        assert taken == fits
        if not fits:
            message.number = -1
            self.finished(message, "queue")
            return
        record.waiting.append(message)
        if kind == "request":
            assert message.key is not None
            assert message.opens_transaction == (message.key not in record.asked_for)
            record.asked_for[message.key] = None
        if message.expects_answer and record.stood and record.owes is None:
            record.owes = self.now
        if record.stood and len(record.waiting) == 1:
            self.write(record, rng.choice((0, 3, 1000, 1000)))
        if kind == "response":
            self.respond(record, message.key or b"")

    def respond(self, record: Record, key: bytes) -> None:
        if record.requests.get(key):
            record.life = self.now
        final = self.rng.random() < 0.7
        if final and key in record.requests:
            record.rests = record.last_used if record.requests[key] else record.rests
            record.requests[key] = False
        self.flows.response_sent(record, key, self.now, final=final)

    def withdraw(self) -> None:
        waiting = [message for record in self.live for message in record.waiting if message.observed]
        if not waiting:
            return
        message = self.rng.choice(waiting)
        record = message.record
        message.withdrawn, message.heeding, message.awaited = True, False, False
        self.flows.withdraw(message)
        if not message.sent:
            record.waiting.remove(message)
            if message.opens_transaction and message.key is not None:
                record.asked_for.pop(message.key, None)

    def complete_again(self) -> None:
        if self.done:
            self.flows.completions.complete(self.done.pop(), None)

    def user_closes(self) -> None:
        if (record := self.choose()) is not None:
            self.end(record, "closed")

    def register(self) -> None:
        if (record := self.choose(stood=True)) is not None:
            record.registered = self.now + self.rng.choice((0.0, 10.0, 50.0))
            self.flows.keep(record, record.registered)

    # -- what peers and the kernel do -------------------------------------------------------------------

    def arrives(self) -> None:
        place = (self.rng.choice(("a", "b", "c")), self.rng.randint(1, 2))
        counted = len(self.live) + len(self.draining) + self.flows.extra
        most, each = self.config.max_connections, self.config.max_per_peer
        full = most is not None and counted >= most
        full = full or (each is not None and sum(one.peer[0] == place[0] for one in self.live) >= each)
        assert self.flows.limit_reached(place[0]) == full
        if full or len(self.live) > 12:
            return
        record = Record(self, place, self.rng.choice((CONNECTING, HANDSHAKE, OPEN)))
        self.live.append(record)
        self.flows.add(record, self.now)
        if record.state is OPEN:
            self.stands(record)

    def extra_comes_and_goes(self) -> None:
        self.flows.extra = self.rng.choice((0, 0, 1))

    def attempt_ends(self) -> None:
        if (record := self.choose(stood=False)) is not None:
            if self.rng.random() < 0.8:
                self.stands(record)
            else:
                self.end(record, "connect")

    def stands(self, record: Record) -> None:
        consent = not record.inbound and self.rng.random() < 0.5
        record.stood, record.life = True, self.now
        if consent:
            record.kept_back, record.consent_due = [], self.now + self.config.connect_timeout
        if any(message.expects_answer for message in record.waiting):
            record.owes = self.now
        self.flows.opened(record, self.now, confirm=consent)
        assert record.usable
        self.write(record, self.rng.choice((0, 3, 1000)))

    def bytes_come(self) -> None:
        if (record := self.choose(stood=True)) is not None:
            record.coming = True
            if self.full:
                record.stalled = (
                    record.stalled or self.rng.random() < 0.5
                )  # else the poller has not told it yet
            elif self.rng.random() < 0.8:
                self.read(record)

    def inbox_fills_or_empties(self) -> None:
        self.full = not self.full
        if not self.full:
            for record in [one for one in self.live if one.stalled]:
                if not record.ended:
                    self.read(record)

    def room_comes(self) -> None:
        if (record := self.choose(stood=True)) is not None:
            self.write(record, self.rng.choice((2, 10, 1000)))

    def peer_ends(self) -> None:
        if (record := self.choose()) is not None:
            self.end(record, self.rng.choice(("peer", "reset")))

    def framing_is_lost(self) -> None:
        if (record := self.choose(stood=True)) is not None:
            self.end(record, "framing", drain=True)

    def drained(self) -> None:
        if self.draining:
            record = self.rng.choice(self.draining)
            if self.rng.random() < 0.5:
                self.flows.close(record)
            else:
                self.end_again(record)

    def end_again(self, record: Record) -> None:
        before = dict(self.flows.closed_by)
        self.flows.end(record, "again", None, "again", self.now)
        assert dict(self.flows.closed_by) == before
        assert record.shut

    def turn(self) -> None:
        if self.asked:
            self.asked = False
            for callback, error in self.flows.completions.due():
                callback(error)

    # -- time -------------------------------------------------------------------------------------------

    def time_goes_by(self) -> None:
        self.now += self.rng.choice((0.5, 0.5, 1.0, 3.0))
        ticks = 0
        while self.alarm <= self.now:
            self.tick()
            ticks += 1
            assert ticks < 50, "it never rests"
        self.check_times()

    def silence(self) -> None:
        """Let nothing else happen for a while."""
        for _ in range(self.rng.randint(5, 25)):
            self.time_goes_by()

    def user_is_slow(self) -> None:
        """Answer all requests of a connection, long after the last of them, and then say nothing more."""
        self.silence()
        if (record := self.choose(stood=True)) is not None:
            self.write(record, 1000)
            for key in [key for key, is_open in record.requests.items() if is_open]:
                self.respond(record, key)
        self.silence()

    def tick(self) -> None:
        self.alarm = NEVER
        self.most = len(self.live)
        self.flows.tick(self.now)
        for record in self.live:
            if record.consent_due > self.now:
                continue
            if record.stalled:  # it may have been refused: it is we who do not read
                record.consent_due = self.now + self.config.connect_timeout
            else:
                self.consents(record)
        limit = self.config.response_timeout
        for record in self.live:
            if record.transaction_keys is None and record.requests:
                assert record.rests + TRANSACTION_MEMORY <= self.now, "transactions are forgotten too soon"
                assert not any(record.requests.values()), "open transactions are forgotten"
                record.requests.clear()
            if limit is not None and record.owes is not None and record.owes + limit <= self.now:
                assert record.stalled, "its silence was not seen"
                record.owes = None

    def check_times(self) -> None:
        """Compare with the rules in their plain form: nobody may be late."""
        config, now = self.config, self.now
        for record in self.live:
            assert record.stood or record.since + config.connect_timeout > now, "not open in time"
            assert record.consent_due > now, "messages are held back for too long"
            assert record.part is None or record.deadline is not None
            assert record.part is None or record.part + config.message_timeout > now, "not complete in time"
            late = config.response_timeout is not None and record.owes is not None
            assert not late or (record.owes or 0) + (config.response_timeout or 0) > now, (
                "silent for too long"
            )
            assert not self.overdue(record, len(self.live)), "quiet for too long"
        assert all(record.drains > now for record in self.draining), "still open"
        assert self.flows.routes.next() > now, "transactions are kept for too long"

    # -- the whole --------------------------------------------------------------------------------------

    def step(self) -> None:
        steps: tuple[tuple[Callable[[], None], int], ...] = (
            (self.command, 40), (self.arrives, 8), (self.attempt_ends, 10), (self.bytes_come, 25),
            (self.room_comes, 15), (self.time_goes_by, 25), (self.turn, 25), (self.peer_ends, 1),
            (self.framing_is_lost, 1), (self.drained, 1), (self.inbox_fills_or_empties, 2),
            (self.extra_comes_and_goes, 2), (self.complete_again, 2), (self.silence, 1),
            (self.user_is_slow, 1),
        )  # fmt: skip
        self.rng.choices([step for step, _ in steps], [weight for _, weight in steps])[0]()
        self.check()

    def check(self) -> None:
        flows = self.flows
        assert set(flows.all) == {*self.live, *self.draining}
        assert flows.expiry.count == len(self.live)
        assert dict(flows.closed_by) == dict(self.ends)
        assert flows.completions.sent == self.sent
        assert dict(flows.completions.failed) == dict(self.failed)
        assert self.asked or not self.uncalled, "nobody will call back"
        for record in self.live:
            assert list(record.queue or ()) == record.waiting
            assert record.unconfirmed == record.kept_back
            assert set(record.awaited or ()) == set(record.asked_for)
            assert record.unanswered == ({k for k, is_open in record.requests.items() if is_open} or None)
            assert record.last_received == record.life
            assert record.pending == record.waits()
            assert record.usable == (record.stood or not record.inbound)
            if record.requests:
                assert record.transaction_keys == list(record.requests)

    def finish(self) -> None:
        """Let everything end, and see that nothing is left."""
        record = Record(self, ("d", 1), CONNECTING)
        self.live.append(record)
        self.flows.add(record, self.now)
        self.submit_to(record, spare=1.0)
        self.closing = True
        self.flows.shutdown(self.now)
        for callback, error in self.flows.completions.rest():
            callback(error)
        self.asked = False
        assert not self.live
        assert not self.uncalled
        assert not self.draining
        self.check()
        self.now += 1000.0
        self.flows.tick(self.now)
        self.check()


def walk(name: str, seed: int, steps: int, make: type[Flows[Any]] = Flows) -> Walk:
    """Walk so many steps."""
    world = Walk(seed, CONFIGS[name], make)
    for _ in range(steps):
        world.step()
    world.finish()
    return world
