"""The pool's records: one per request, per connection and per key. Plain data, no rules."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from keepalive.base.types import NEVER

from .states import OPENING, QUEUED, Failure

if TYPE_CHECKING:
    from keepalive.base.timer_queue import Entry
    from keepalive.base.types import CloseReason, Key, Reuse

    from .states import KeyLimits, SlotState, WaiterState
    from .waitqueue import WaitQueue


MANY = 1 << 30
"""What one attempt may stand for, as long as nobody knows how many shares its connection will have."""


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


class Shares:
    """How a connection is lent to many at once.

    :ivar capacity: how many may have a share
    :ivar lent: how many have one, those that did not fetch it yet included
    :ivar unfetched: the requests that have one and did not fetch it yet, oldest first
    """

    __slots__ = ("capacity", "lent", "unfetched")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lent = 0
        self.unfetched: dict[Waiter, None] = {}


class Slot:
    """One connection, from the start of its attempt to its end. It counts against both limits."""

    __slots__ = (
        "expires",
        "extra",
        "id",
        "idle_since",
        "link",
        "opened_at",
        "overdue",
        "per_key",
        "phase",
        "phase_since",
        "retires_at",
        "shares",
        "state",
        "timer",
        "trusted_until",
        "uses",
        "waiter",
        "was_idle",
        "was_overdue",
    )

    def __init__(self, number: int, per_key: KeyState) -> None:
        self.id = number
        self.per_key = per_key
        self.state: SlotState = OPENING
        # Any: the pool is made for any kind of connection and never looks inside.
        self.link: Any = None
        self.phase = "resolve"  # what its attempt is doing
        self.phase_since = 0.0
        self.overdue = Failure.CONNECT_TIMEOUT  # what has run out when its attempt is due
        self.was_overdue = False
        self.extra = 0  # slots more that its attempt has, for further sockets
        self.uses = 0
        self.was_idle = False
        self.opened_at = 0.0
        self.retires_at = NEVER  # when its lifetime ends
        self.idle_since = 0.0
        self.expires = NEVER
        self.trusted_until = NEVER  # until then it is handed out as it is; never later than `expires`
        self.shares: Shares | None = None  # None: it has one user at a time
        self.timer: Entry | None = None
        self.waiter: Waiter | None = None  # the request it is reserved for

    def __str__(self) -> str:
        return f"connection {self.id}"


class Waiter:
    """One request, from `submit` to its end."""

    __slots__ = (
        "covered",
        "deadline",
        "error",
        "failure",
        "fresh",
        "id",
        "per_key",
        "phase",
        "phase_since",
        "phases",
        "reuse",
        "since",
        "slot",
        "state",
        "timer",
        "waker",
    )

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

    phases: tuple[float, float, float] | None
    """When it ends in any case; seconds to be queued; seconds from when an attempt stands for it."""

    def __init__(
        self,
        number: int,
        per_key: KeyState,
        now: float,
        deadline: float,
        fresh: bool,
        phases: tuple[float, float] | None = None,
    ) -> None:
        self.id = number
        self.per_key = per_key
        self.since = now
        self.deadline = deadline
        self.fresh = fresh
        self.phases = None if phases is None else (deadline, *phases)
        self.state: WaiterState = QUEUED
        self.slot: Slot | None = None  # the connection reserved for it
        self.reuse: Reuse | None = None
        self.timer: Entry | None = None
        # Any: whatever the driver parks its task on; the pool never looks inside.
        self.waker: Any = None

    def __str__(self) -> str:
        return f"request {self.id}"


class Pause:
    """The time after too many failures in which a key is left alone."""

    __slots__ = ("per_key", "timer")

    def __init__(self, per_key: KeyState) -> None:
        self.per_key = per_key
        self.timer: Entry | None = None  # when it ends


class KeyState:
    """What the pool has and knows of one key. `idle` is in order of release, the warmest last."""

    __slots__ = (
        "closing",
        "count",
        "counters",
        "extra",
        "failed_at",
        "failures",
        "idle",
        "key",
        "last_failure",
        "limits",
        "opening",
        "pause",
        "per_attempt",
        "position",
        "preconnecting",
        "preparing",
        "queue",
        "shared",
        "timer",
        "unlendable",
        "unused",
    )

    def __init__(self, key: Key, limits: KeyLimits) -> None:
        self.key = key
        self.limits = limits
        self.count = 0  # its slots (opening, reserved, lent, idle and closing), and the extra ones
        self.closing = 0
        self.extra = 0  # extra slots of its attempts, not recalled; recalled ones count as closing
        self.opening: OrderedDict[Slot, None] = OrderedDict()
        self.per_attempt = MANY if limits.shared else 1  # so many requests an attempt stands for
        self.preparing: dict[Slot, None] = {}  # checked or reset just now; each stands for a request too
        self.idle: dict[Slot, None] = {}
        self.unused: dict[Slot, None] = {}  # idle, and never handed out: as good as new
        self.unlendable: dict[Slot, None] = {}  # idle, but no request may have a share of it
        self.shared: dict[Slot, None] = {}  # with shares that are free, beside some that are lent
        self.queue: WaitQueue[Waiter] | None = None
        self.position = 0  # the number under which it waits for room, 0 when it does not
        self.timer: Entry | None = None  # when its spare attempts are given up
        self.preconnecting = 0  # so many attempts were started for nobody, by a preconnect
        self.failures = 0  # attempts that failed since one succeeded
        self.failed_at = 0.0  # the last of them
        self.last_failure: tuple[str, Exception | None] = ("", None)  # its phase and its error
        self.pause: Pause | None = None  # while it lasts, no attempt is started
        self.counters = Counters()

    @property
    def waiting(self) -> int:
        """How many requests wait for it."""
        return 0 if self.queue is None else self.queue.waiting

    @property
    def queue_phase(self) -> str:
        """What its requests wait for that no attempt stands for."""
        return "fleet" if self.limits.leased and self.count >= self.limits.max_per_host else "queue"

    @property
    def coming(self) -> int:
        """How many requests can be served by what is on its way."""
        return len(self.opening) * self.per_attempt + len(self.preparing)

    @property
    def surplus(self) -> int:
        """How many of its attempts nobody waits for."""
        if self.per_attempt == 1:
            return min(len(self.opening), max(0, len(self.opening) + len(self.preparing) - self.waiting))
        needed = -(-max(0, self.waiting - len(self.preparing)) // self.per_attempt)
        return max(0, len(self.opening) - needed)
