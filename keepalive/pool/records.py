"""The pool's books: one record per request, per connection and per key. Plain data, no rules."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from keepalive.base.types import NEVER

from .states import OPENING, Failure

if TYPE_CHECKING:
    from keepalive.base.timer_queue import Entry
    from keepalive.base.types import CloseReason, Key, Reuse

    from .states import SlotState, WaiterState
    from .waitqueue import WaitQueue


class Counters:
    """Totals of one key; every request ends in exactly one of the outcomes."""

    __slots__ = (
        "cancelled",
        "closed",
        "deferred",
        "failed",
        "immediate",
        "new",
        "opened",
        "requests",
        "timeouts",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.immediate = 0
        self.deferred = 0
        self.new = 0
        self.opened = 0
        self.timeouts = 0
        self.cancelled = 0
        self.failed: dict[str, int] = {}
        self.closed: dict[CloseReason, int] = {}

    def add(self, other: Counters) -> None:
        """Add another key's totals to these."""
        for name in ("requests", "immediate", "deferred", "new", "opened", "timeouts", "cancelled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for phase, n in other.failed.items():
            self.failed[phase] = self.failed.get(phase, 0) + n
        for reason, n in other.closed.items():
            self.closed[reason] = self.closed.get(reason, 0) + n


class HostState:
    """What the pool knows of one key. ``idle`` is in order of release, the warmest last."""

    __slots__ = (
        "claim",
        "closing",
        "count",
        "counters",
        "entry",
        "extra",
        "failed_at",
        "failures",
        "idle",
        "key",
        "opening",
        "pause",
        "queue",
        "trouble",
        "unused",
        "warming",
    )

    def __init__(self, key: Key) -> None:
        self.key = key
        self.count = 0  # its slots (opening, reserved, lent, idle and closing), and the places they borrow
        self.closing = 0
        self.extra = 0  # places borrowed by its attempts and not called back; those count as closing
        self.opening: OrderedDict[Slot, None] = OrderedDict()
        self.idle: dict[Slot, None] = {}
        self.unused: dict[Slot, None] = {}  # idle, and never handed out: as good as new
        self.queue: WaitQueue | None = None
        self.claim = 0  # the number under which it stands in line for room, 0 when it does not
        self.entry: Entry | None = None  # in the agenda: when its spare attempts are given up
        self.warming = 0  # so many attempts were started for nobody, by a warm-up
        self.failures = 0  # attempts that failed since one succeeded
        self.failed_at = 0.0  # the last of them
        self.trouble: tuple[str, Exception | None] = ("", None)  # its phase and its error
        self.pause: Pause | None = None  # while it lasts, no attempt is started
        self.counters = Counters()


class Pause:
    """The time after too many failures in which a key is left alone."""

    __slots__ = ("entry", "host")

    def __init__(self, host: HostState) -> None:
        self.host = host
        self.entry: Entry | None = None  # in the agenda: when it ends


class Slot:
    """One connection, from the start of its attempt to its end. It counts against both limits."""

    __slots__ = (
        "born",
        "dies",
        "entry",
        "expires",
        "extra",
        "host",
        "id",
        "idle_since",
        "link",
        "patience",
        "phase",
        "shelved",
        "state",
        "uses",
        "waiter",
    )

    def __init__(self, number: int, host: HostState) -> None:
        self.id = number
        self.host = host
        self.state: SlotState = OPENING
        # Any: the pool is made for any kind of connection and never looks inside.
        self.link: Any = None
        self.phase = "resolve"
        self.uses = 0
        self.shelved = False  # it has been idle
        self.born = 0.0  # while it opens: when its phase began
        self.dies = NEVER
        self.idle_since = 0.0
        self.expires = NEVER
        self.entry: Entry | None = None  # in the agenda
        self.waiter: Waiter | None = None
        self.extra = 0  # places borrowed for further sockets of its attempt
        self.patience = Failure.CONNECT_TIMEOUT  # what has run out when its attempt is due


class Waiter:
    """One request, from `submit` to its end."""

    __slots__ = (
        "covered",
        "deadline",
        "entry",
        "error",
        "failure",
        "fresh",
        "host",
        "id",
        "phase",
        "phase_since",
        "phases",
        "reuse",
        "since",
        "slot",
        "state",
        "waker",
    )

    # `Pool.enter` sets these: an `__init__` would cost it as much as all the rest.
    id: int
    host: HostState
    since: float
    deadline: float
    fresh: bool
    state: WaiterState
    slot: Slot | None
    reuse: Reuse | None
    entry: Entry | None
    """Its place in the agenda."""
    waker: Any
    """Any: whatever the shell parks its task on; the pool never looks inside."""

    phases: tuple[float, float, float] | None
    """When it ends in any case; seconds to be queued; seconds from when an attempt stands for it."""
    covered: bool
    """Whether an attempt stands for it; set when it is queued."""
    failure: Failure
    """Why it failed; set when it does."""
    phase: str
    """What it was waiting for when it failed; set when it does."""
    phase_since: float
    """When that began; set with it where an attempt stood for it when its own time ran out."""
    error: Exception | None
    """What failed the attempt that failed it; set when that happens."""
