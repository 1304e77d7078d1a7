"""What is around the flows: a kernel, a clock, users, and what they remember of it all."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from keepalive.sip.core.flow import DRAINING, Flow, FlowState
from keepalive.sip.core.outgoing import Outgoing
from keepalive.sip.errors import send_error

if TYPE_CHECKING:
    from keepalive.sip import SipConfig
    from keepalive.sip.core.flows import Flows

NEVER = float("inf")


class BrokenPromise(BaseException):
    """A callback was told something wrong; no handler of errors shall swallow this."""


class Message(Outgoing):
    """A message, and what may become of it."""

    def __init__(self, record: Record, size: int) -> None:
        super().__init__(bytes(size), "there")
        self.record = record
        self.told: list[Any] = []
        self.withdrawn = self.heeding = self.awaited = False
        self.number = 0  # among those of its connection; -1 for one that was refused


class Waiter:
    """A task that awaits a message."""

    def __init__(self, world: World, message: Message) -> None:
        self.world, self.message = world, message

    def done(self) -> bool:
        return bool(self.message.told)

    def set_result(self, _: None, /) -> None:
        self.world.told(self.message, self.message.error)


class Record(Flow):
    """A connection, and what the world knows of it by itself."""

    def __init__(self, world: World, place: tuple[str, int], state: FlowState) -> None:
        super().__init__("tcp", place, world.now, None, state)
        self.world = world
        self.since = world.now
        self.given = self.called_back = 0
        self.stood = self.stopped = self.shut = False
        self.waiting: list[Message] = []  # not all with the kernel
        self.kept_back: list[Message] | None = None  # all with the kernel, waiting for consent
        self.consent_due = NEVER
        self.life = world.now  # when something came, or a request was answered
        self.lively = False  # it sends signs of life
        self.registered = 0.0
        self.owes: float | None = None
        self.part: float | None = None  # since when a message is incomplete
        self.requests: dict[bytes, bool] = {}  # received; whether open
        self.asked_for: dict[bytes, None] = {}  # sent
        self.rests = NEVER  # when it was used last, as its last open request was answered or none was opened
        self.coming = self.stalled = False
        self.drains = NEVER
        self.transactions = False  # open ones of which nobody else is told, at its end

    @property
    def unread(self) -> bool:
        return self.stalled

    def read_again(self) -> None:
        if self.drains == NEVER and self.state is DRAINING:
            self.world.drain(self)
        else:
            self.world.look(self)

    def stop(self) -> None:
        self.world.stop(self)

    def report_lost(self, reason: str, *, transactions: bool, stood: bool) -> None:
        self.world.lost(self, reason, transactions=transactions, stood=stood)

    def close(self) -> None:
        self.world.close(self)

    def waits(self) -> bool:
        """Say whether something is pending, as the world sees it."""
        open_ones = any(self.requests.values()) or self.asked_for or self.waiting or self.kept_back
        return bool(open_ones) or not self.stood or self.stalled


class World:
    """The outside of one pool's flows."""

    def __init__(self, seed: int, config: SipConfig, make: type[Flows[Any]]) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.config = config
        self.live: list[Record] = []
        self.draining: list[Record] = []
        self.alarm = NEVER
        self.asked = self.full = self.closing = False
        self.ends: Counter[str] = Counter()
        self.sent = 0
        self.failed: Counter[str] = Counter()
        self.done: list[Message] = []  # the one that was completed last
        self.uncalled: dict[Message | Record, None] = {}  # callbacks to come
        self.spoken_for: Record | None = None  # whose end it is that is under way
        self.most = 0  # connections when the tick began
        self.flows: Flows[Any] = make(config, self.wake_at, self.call_soon)

    # -- effects ----------------------------------------------------------------------------------------

    def wake_at(self, when: float) -> None:
        assert when < self.alarm, "it wakes earlier already"
        self.alarm = when

    def call_soon(self) -> None:
        assert not self.asked
        self.asked = True

    def look(self, record: Record) -> None:
        assert not record.ended
        if record.coming:
            if self.full:
                record.stalled = True
            else:
                self.read(record)

    def resend(self, out: Outgoing) -> None:
        assert isinstance(out, Message)
        record = out.record
        assert record is self.spoken_for
        assert record.stopped
        assert not record.stood
        assert not record.inbound
        assert out.fallback
        assert not self.closing
        record.waiting.remove(out)
        out.fallback = None
        self.flows.completions.complete(out, send_error("there", "other way", None))
        self.finished(out, "other way")

    def stop(self, record: Record) -> None:
        assert not record.stopped
        record.stopped = True
        self.spoken_for = record
        self.live.remove(record)
        outs = [*(record.kept_back or ()), *record.waiting]
        open_ones = {key for key, is_open in record.requests.items() if is_open} | set(record.asked_for)
        record.transactions = bool(open_ones - {out.key for out in outs if out.observed})

    def lost(self, record: Record, reason: str, *, transactions: bool, stood: bool) -> None:
        assert self.spoken_for is record
        self.spoken_for = None
        assert stood == record.stood
        self.judge(record, reason)
        assert transactions == record.transactions, "who is told of open transactions"
        assert not record.waiting
        assert not record.kept_back
        self.ends[reason] += 1
        self.flows.completions.call_soon(lambda _: self.lost_called(record), None)
        self.uncalled[record] = None

    def lost_called(self, record: Record) -> None:
        del self.uncalled[record]
        if any(isinstance(one, Message) and one.record is record for one in self.uncalled):
            raise BrokenPromise("told before its messages were")

    def drain(self, record: Record) -> None:
        assert record.stopped
        assert not self.closing
        record.drains = self.now + 1.0
        self.draining.append(record)

    def close(self, record: Record) -> None:
        assert record.stopped
        record.shut = True
        if record in self.draining:
            self.draining.remove(record)

    # -- what became of messages ------------------------------------------------------------------------

    def told(self, message: Message, error: Any) -> None:
        """Compare a completion with what the world knows; each message has one."""
        try:
            self._told(message, error)
        except AssertionError as exc:
            raise BrokenPromise from exc

    def _told(self, message: Message, error: Any) -> None:
        assert not message.told, "told twice"
        assert not message.withdrawn, "nobody wanted to know any more"
        message.told.append(error)
        assert message.error is error
        if error is None:
            assert message.sent == len(message.data)

    def callback_of(self, message: Message) -> Any:
        def callback(error: Any) -> None:
            if message.withdrawn:
                raise BrokenPromise("nobody wanted to know any more")
            if message not in self.uncalled:
                raise BrokenPromise("called back for nothing")
            del self.uncalled[message]
            record = message.record
            if 0 <= message.number <= record.called_back:
                raise BrokenPromise("called back out of order")
            record.called_back = max(record.called_back, message.number)
            self.told(message, error)
            while self.rng.random() < 0.2 and not self.closing:
                self.command()

        return callback

    def finished(self, message: Message, reason: str) -> None:
        """Note what must have been made known of a message."""
        assert message.finished, "nobody is told"
        assert message.flow is None
        assert message.told or not message.awaited, "who awaits it does not go on"
        self.done = [message]
        if message.heeding:
            self.uncalled[message] = None
        if reason:
            self.failed[reason] += 1
            assert message.error is not None
            assert message.error.reason == reason
        else:
            self.sent += 1
            assert message.error is None

    # -- the kernel -------------------------------------------------------------------------------------

    def read(self, record: Record) -> None:
        """Read what has come, as a connection does."""
        flows, rng = self.flows, self.rng
        record.coming = record.stalled = False
        record.life, record.owes = self.now, None
        sign = rng.random() < 0.1
        record.lively = record.lively or sign
        flows.received(record, self.now, sign=sign)
        self.consents(record)
        complete = not sign and rng.random() < 0.8
        if complete:
            self.message_comes(record)
        if record.ended:
            return
        if not sign and rng.random() < 0.3:
            record.part = self.now if record.part is None or complete else record.part
        elif not sign:
            record.part = None
        if record.part is not None or record.deadline is not None:
            flows.message_progress(record, started=record.part is not None, complete=complete)

    def consents(self, record: Record) -> None:
        """Note that the peer has not refused us."""
        assert record.unconfirmed is None, "messages are held back for nothing"
        for message in record.kept_back or ():
            self.finished(message, "")
        record.kept_back, record.consent_due = None, NEVER

    def message_comes(self, record: Record) -> None:
        key = b"%d" % self.rng.randint(1, 6)
        if self.rng.random() < 0.5:
            awaits = self.rng.random() < 0.7
            was = record.requests.pop(key, False)
            record.requests[key] = was or awaits
            while len(record.requests) > self.config.max_tid:
                del record.requests[next(iter(record.requests))]
            record.rests = record.last_used
            self.flows.request_received(record, key, awaits=awaits)
        else:
            key = self.rng.choice([*record.asked_for, key])
            record.asked_for.pop(key, None)
            self.flows.response_received(record, key)

    def write(self, record: Record, room: int) -> None:
        """Write as far as there is room, as a connection does."""
        while record.waiting and room:
            message = record.waiting[0]
            assert record.queue is not None
            assert record.queue[0] is message, "out of order"
            count = min(room, len(message.data) - message.sent)
            message.sent += count
            record.last_used = self.now
            room -= count
            if message.sent < len(message.data):
                return
            record.waiting.pop(0)
            if record.kept_back is not None:
                record.kept_back.append(message)
                self.flows.sent(record, message)
                assert not message.finished, "the peer may still refuse us"
            else:
                self.flows.sent(record, message)
                self.finished(message, "")

    # -- ends -------------------------------------------------------------------------------------------

    def end(self, record: Record, reason: str, *, drain: bool = False) -> None:
        self.flows.end(record, reason, None, reason, self.now, drain=drain)
        assert record.ended
        assert record.drains < NEVER or record.shut

    def judge(self, record: Record, reason: str) -> None:
        """Say whether a connection ends rightly, and what its messages must have been told."""
        config, now = self.config, self.now
        if record.consent_due <= now and not any(out.error for out in record.kept_back or ()):
            self.consents(record)  # in the same turn, before its end
        if reason == "timeout":
            assert not record.stood
            assert record.since + config.connect_timeout <= now
        elif reason == "silent":
            assert config.response_timeout is not None
            assert record.owes is not None
            assert record.owes + config.response_timeout <= now
            assert not record.coming, "it has said something"
        elif reason == "deadline":
            assert record.part is not None
            assert record.part + config.message_timeout <= now
        elif reason == "expired":
            assert not record.coming or record.waits(), "it has said something"
            assert self.overdue(record, self.most), "ended too soon"
        outs = [*(record.kept_back or ()), *record.waiting]
        record.kept_back, record.waiting = None, []
        attempt = not record.stood and not record.inbound
        for out in outs:
            assert not (attempt and out.fallback) or self.closing, "there was another way"
            self.finished(out, "connect" if attempt and reason == "timeout" else reason)

    def overdue(self, record: Record, count: int) -> bool:
        """Say whether a connection has been quiet for too long, by the rules in their plain form."""
        config, now = self.config, self.now
        limit = config.min_expire + (config.max_expire - config.min_expire) / max(1, count)
        return not (
            record.life + limit > now
            or record.registered > now
            or (record.waits() and record.life + config.max_pending > now)
            or (record.lively and record.life + config.ping_expire > now)
        )

    def command(self) -> None:
        raise NotImplementedError
