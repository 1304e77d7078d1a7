"""A world for the core: wires, time and users, and an outside opinion of what may be told to whom."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from anyio import BrokenResourceError

from keepalive.multi import BlockFilter, LineFilter, OutputFull, Peer, PeerState
from keepalive.multi.core.dispatch import Dispatch
from keepalive.multi.core.places import SHORTAGE
from keepalive.multi.core.states import Callbacks, EndReason, Limits, Record

if TYPE_CHECKING:
    from keepalive.multi.driver import Driver


class Oops(Exception):
    """What a user's callback raises."""


class BrokenPromise(BaseException):
    """The core did what it must not; no `except Exception` of its own may catch this."""


class FakeWire:
    """One connection. The other side puts bytes in, and takes as many as there is room for."""

    layered = False
    unsent = False

    def __init__(self, record: Account) -> None:
        self.record = record
        self.readable = self.eof = self.eof_sent = False
        self.ended = self.reset = False
        self.coming = bytearray()
        self.room = 0
        self.watched = False
        self.hurried = False

    def try_receive(self, max_bytes: int, /) -> bytes | None:
        assert not self.record.shut
        if self.reset:
            raise BrokenResourceError from ConnectionResetError(errno.ECONNRESET, "reset")
        data = bytes(self.coming[: min(max_bytes, 7)])
        del self.coming[: len(data)]
        self.readable = bool(self.coming) or self.ended
        if data:
            self.record.came += data
            return data
        if self.ended:
            self.eof = True
            return b""
        return None

    def try_send(self, data: bytes | memoryview, /) -> int:
        assert not self.record.shut
        assert not self.eof_sent
        if self.record.world.rng.random() < 0.05:
            self.reset = self.ended = self.readable = True
        if self.reset:
            raise BrokenResourceError from BrokenPipeError(errno.EPIPE, "broken pipe")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.record.arrived += taken
        if taken:
            self.record.stuck = self.record.world.now
        return len(taken)

    def attributes(self) -> dict[Any, Any]:
        return {}

    def send_eof(self) -> None:
        assert not self.eof_sent
        self.eof_sent = True


@dataclass(eq=False)
class Account:
    """What the world knows of one peer."""

    world: World
    inner: Record
    peer: Peer
    told: list[str] = field(default_factory=list)
    wire: FakeWire | None = None
    opening: bool = False
    put_off: bool = False  # there was no descriptor
    born: float = 0.0
    lifetime: float = 0.0
    shut: bool = False
    asked_shutdown: bool = False
    raised: bool = False
    kind: str = "line"
    came: bytearray = field(default_factory=bytearray)
    accepted: bytearray = field(default_factory=bytearray)
    arrived: bytearray = field(default_factory=bytearray)
    since: float = 0.0
    stuck: float = 0.0
    timeout: float = 0.0
    input_timeout: float = 0.0
    failing: tuple[str, int, str] | None = None

    def unit(self) -> tuple[bytes, int] | None:
        """Say, in the world's own words, what the next unit is, and how many bytes it takes."""
        if self.kind == "block":
            return (bytes(self.came[:4]), 4) if len(self.came) >= 4 else None
        line, end, _ = bytes(self.came).partition(b"\n")
        return (line.removesuffix(b"\r"), len(line) + 1) if end else None

    def deadline(self) -> float:
        """Say when its patience ends."""
        limits, state = self.world.limits, self.peer.state
        if state is PeerState.FLUSHING:
            return min(self.since + limits.shutdown_timeout, self.end_of_life())
        if self.put_off or state not in (PeerState.CONNECTING, PeerState.CONNECTED):
            return float("inf")
        end = self.since + self.timeout if self.timeout else float("inf")
        broken = self.wire is not None and self.wire.reset  # which will be told, however long it takes
        if state is PeerState.CONNECTED and len(self.arrived) < len(self.accepted) and not broken:
            end = min(end, self.stuck + limits.write_timeout)
        return min(end, self.end_of_life())

    def end_of_life(self) -> float:
        """Say when it has lived for as long as it may."""
        begun = self.opening or self.wire is not None
        return self.born + self.lifetime if self.lifetime and begun else float("inf")


class World:
    """Effects, clock and users of one core."""

    def __init__(self, seed: int, limits: Limits, core: type[Dispatch] = Dispatch) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.limits = limits
        self.records: dict[int, Account] = {}
        self.live: list[Account] = []
        self.asked = False
        self.alarm: float | None = None
        self.inside = 0  # how deep in user code
        self.in_command = 0
        self.wild = True  # whether callbacks do something of their own
        self.order: list[int] = []  # of attempts
        self.arrival: list[int] = []
        self.errors = 0
        self.scarce = False  # the system refuses descriptors
        self.refusing = 0.5  # so many of them
        self.refused = -9.0  # when it did that last
        self.held = 0.0  # when a place was last taken, but for attempts that found no descriptor
        self.closing = 0  # ended attempts with their descriptors still open
        self.borrowed = 0
        names = Callbacks.__slots__
        self.core = core(Callbacks(**{name: self._callback(name) for name in names}), limits, self)
        self.last_id = 0

    def clock(self) -> float:
        return self.now

    # -- effects ------------------------------------------------------------------------------------

    def park(self) -> Any:
        raise NotImplementedError

    def check_here(self) -> None:
        pass

    def open(self, inner: Record) -> bool:
        record = self.records[inner.id]
        assert not record.opening
        assert record.wire is None
        assert self.places() < self.limits.max_open
        before = [r.inner.id for r in self.live if r.put_off and not r.shut and r.inner.id < inner.id]
        assert not before, "somebody else has waited for longer"
        record.born = self.now
        if self.scarce and self.rng.random() < self.refusing:
            record.put_off = True
            self.refused = self.now
            return False
        record.put_off = False
        record.opening = True
        self.order.append(inner.id)
        if inner.state is PeerState.CONNECTING:
            record.since = self.now
        assert sum(r.opening for r in self.live) <= self.limits.max_connecting
        if self.rng.random() < 0.1:
            record.failing = ("bind", errno.EADDRINUSE, "in use")
            self.core.fail_later(inner, *record.failing)
        return True

    def close(self, inner: Record) -> bool:
        record = self.records[inner.id]
        assert not record.shut
        record.shut = True
        if record.opening:
            self.held = self.now
        if record.opening and self.rng.random() < 0.5:
            self.closing += 1
            record.opening = False
            return False
        record.opening = False
        return True

    def places(self) -> int:
        """Count the places that are taken."""
        held = sum(not record.shut and (record.opening or record.wire is not None) for record in self.live)
        return held + self.closing + self.borrowed

    def watch_writable(self, inner: Record) -> None:
        wire = self.records[inner.id].wire
        assert wire is not None
        wire.watched = True

    def set_no_delay(self, inner: Record) -> None:
        wire = self.records[inner.id].wire
        assert wire is not None
        assert not wire.hurried
        wire.hurried = True

    def call_soon(self) -> None:
        self.asked = True

    def wake_at(self, when: float) -> None:
        self.alarm = when

    def log_error(self, name: str, record: Record, exc: BaseException) -> None:
        if not isinstance(exc, Oops):
            raise BrokenPromise from exc
        self.errors += 1

    # -- what users are told ------------------------------------------------------------------------

    def _callback(self, name: str) -> Any:
        def callback(peer: Peer, *args: Any) -> None:
            try:
                self.told(name, self.records[peer.id], args)
                if name == "on_initialize":
                    self.arrival.append(peer.id)
            except Oops:
                raise
            except Exception as exc:
                raise BrokenPromise from exc

        return callback

    def told(self, name: str, record: Account, args: tuple[Any, ...]) -> None:
        told, peer = record.told, record.peer
        first = name == "on_initialize"
        assert first == (not told)
        assert first or not self.inside, "called in the middle of user code"
        assert told[-1:] != ["on_disconnected"], "something after the end"
        over = name in ("on_failure", "on_error", "on_timeout", "on_disconnected")
        assert record.shut == over
        assert (peer.state is PeerState.CLOSED) == over
        connected = "on_success" in told
        quiet = record.asked_shutdown and not record.raised
        getattr(self, f"_told_{name[3:]}", lambda *_: None)(record, args, connected, quiet)
        told.append(name)
        self._user_code(name, record)

    def _told_success(self, record: Account, args: Any, connected: bool, quiet: bool) -> None:
        assert not connected
        assert not quiet
        record.since, record.timeout = self.now, record.input_timeout
        assert record.peer.timeout == record.input_timeout

    def _told_failure(self, record: Account, args: Any, connected: bool, quiet: bool) -> None:
        assert not connected
        assert not quiet
        if args[0] == "socket":
            assert not record.opening
            assert self.now - self.refused <= 3 * 3.0, "nobody was refused lately: there are descriptors"
            assert args[1] == errno.EMFILE
            assert not self.places(), "somebody could have made room"
            assert self.now - self.held >= SHORTAGE, "given up too soon"
        else:
            assert args == record.failing

    def _told_input(self, record: Account, args: Any, connected: bool, quiet: bool) -> None:
        assert connected
        assert not record.asked_shutdown
        assert not self.core.places.paused
        expected = record.unit()
        assert expected is not None
        assert args == (expected[0],)
        del record.came[: expected[1]]
        record.since = self.now

    def _told_flushed(self, record: Account, args: Any, connected: bool, quiet: bool) -> None:
        assert connected
        assert not record.asked_shutdown
        assert record.arrived == record.accepted

    def _told_error(self, record: Account, args: Any, connected: bool, quiet: bool) -> None:
        assert not quiet
        operation, number, text = args
        if operation.startswith("on_"):
            assert record.raised
            assert (number, text) == (0, "oops")
            return
        wire = record.wire
        assert connected
        assert wire is not None
        if (operation, number, text) == ("read", 0, ""):
            assert wire.eof
        else:
            assert wire.reset
            assert (operation, number) in (("read", errno.ECONNRESET), ("write", errno.EPIPE))

    def _told_timeout(self, record: Account, args: Any, connected: bool, quiet: bool) -> None:
        assert not quiet
        assert args == ()
        reason = record.peer.reason
        if reason is EndReason.LIFETIME:
            assert record.lifetime
            assert self.now >= record.born + record.lifetime
        elif reason is EndReason.WRITE_TIMEOUT:
            assert self.now >= record.stuck + self.limits.write_timeout
            assert record.arrived != record.accepted
        else:
            assert record.timeout
            assert self.now >= record.since + record.timeout
            assert (reason is EndReason.INPUT_TIMEOUT) == connected
            assert not (self.core.places.paused and record.unit()), "it was not the peer who was late"

    def _told_disconnected(self, record: Account, args: Any, connected: bool, quiet: bool) -> None:
        self.live.remove(record)
        assert record.accepted.startswith(record.arrived)
        wire = record.wire
        if record.peer.reason is EndReason.SHUTDOWN and wire is not None and not wire.reset:
            assert record.arrived == record.accepted
            assert wire.eof_sent or wire.eof

    def _user_code(self, name: str, record: Account) -> None:
        if not self.wild or self.inside > 2:
            return
        self.inside += 1
        try:
            if name == "on_input" and self.rng.random() < 0.05:
                self.core.pause()  # as a full queue of events does
            while self.rng.random() < 0.25:
                self.command()
            if self.rng.random() < 0.03:
                if name not in ("on_error", "on_disconnected"):
                    record.raised = True
                raise Oops("oops")
        finally:
            self.inside -= 1

    # -- commands -----------------------------------------------------------------------------------

    def command(self) -> None:
        """Do what a user may do, to any peer: dead ones, too."""
        rng = self.rng
        record = rng.choice(self.live) if self.live and rng.random() < 0.9 else None
        if record is None and self.records and rng.random() < 0.5:
            record = self.records[rng.randint(max(1, self.last_id - 30), self.last_id)]
        if record is None or (len(self.live) < 12 and rng.random() < 0.3):
            self.connect()
            return
        do = rng.choices((self.send, self.shutdown, self.cut, self.patience, self.exchange), (8, 1, 1, 1, 3))
        do[0](record)

    def connect(self) -> None:
        self.last_id += 1
        timeouts = (float(self.rng.choice((0, 5, 20))), float(self.rng.choice((0, 5, 50))))
        lifetime = float(self.rng.choice((0, 0, 0, 15)))
        codec = LineFilter()
        inner = Record(self.last_id, "tcp", "host", 1, codec, codec, *timeouts, lifetime)
        peer = Peer(cast("Driver", self), inner)
        record = Account(self, inner, peer, timeout=timeouts[0], input_timeout=timeouts[1], lifetime=lifetime)
        self.records[peer.id] = record
        self.live.append(record)
        self.core.enter(inner, self.now)

    def send(self, record: Account) -> None:
        peer = record.peer
        state = peer.state
        units = [bytes(self.rng.choices(b"abc", k=4)) for _ in range(self.rng.randint(1, 3))]
        end = b"" if isinstance(peer.output_filter, BlockFilter) else b"\n"
        data = b"".join(unit + end for unit in units)
        waiting = len(record.accepted) - len(record.arrived)
        if waiting == 0:
            record.stuck = self.now
        try:
            taken = peer.send(*units)
        except OutputFull:
            assert waiting + len(data) > self.limits.max_output
            return
        assert taken == (state not in (PeerState.FLUSHING, PeerState.CLOSED))
        if taken:
            assert waiting + len(data) <= self.limits.max_output
            record.accepted += data
            wire = record.wire
            if wire is None or not wire.reset:
                assert len(record.accepted) - len(record.arrived) == peer.waiting

    def shutdown(self, record: Account) -> None:
        peer = record.peer
        before = peer.state
        first = before not in (PeerState.FLUSHING, PeerState.CLOSED)
        if first:
            record.asked_shutdown = True
            record.since = self.now
        assert peer.shutdown() == first
        if first and not record.wire and not record.accepted:
            assert peer.reason is EndReason.SHUTDOWN

    def cut(self, record: Account) -> None:
        was_open = record.peer.state is not PeerState.CLOSED
        assert record.peer.close() == was_open
        assert record.shut

    def patience(self, record: Account) -> None:
        seconds = float(self.rng.choice((0, 1, 10)))
        record.peer.timeout = seconds
        if record.peer.state in (PeerState.CONNECTING, PeerState.CONNECTED):
            record.since = self.now
        record.timeout = seconds

    def exchange(self, record: Account) -> None:
        """Exchange the filters, at any moment."""
        record.kind = self.rng.choice(("line", "block"))
        codec = BlockFilter(4) if record.kind == "block" else LineFilter()
        if self.rng.random() < 0.5:
            record.peer.filter = codec
        else:
            record.peer.input_filter = codec
