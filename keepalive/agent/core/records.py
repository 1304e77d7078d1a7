"""The records of loans."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keepalive.base.timer_queue import Entry
    from keepalive.base.types import Key

    from .policy import Policy


_REMEMBERED = 4096


class Stage(Enum):
    """How far a loan has come."""

    ASKED = auto()
    """Entered into the pool, which has not said yet whether it must wait."""
    WAITING = auto()
    """Somebody else must give something back, or an attempt must succeed."""
    OUT = auto()
    """The borrower has the connection, or soon will."""
    ENDED = auto()
    """Given back, cut, cancelled or failed."""


class Effect(Enum):
    """What the desk wants done."""

    ENTER = auto()
    """Put the loan's request into the pool."""
    WITHDRAW = auto()
    """Take it out again; what it may be served with meanwhile is reported all the same."""
    LEND = auto()
    """Send the connection to the borrower."""
    ANSWER = auto()
    """Tell the borrower why there is none: (loan, failure)."""
    REFUSE = auto()
    """Tell it that there will be none: (client, number, kind, text)."""
    RETURN = auto()
    """Give the connection back to the pool for reuse."""
    DISCARD = auto()
    """End it for good."""
    CUT = auto()
    """End it although its borrower has it still, and tell him."""
    RECALL = auto()
    """Tell the borrower that somebody waits: what it merely keeps is to come back."""
    DROP = auto()
    """End a client that breaks the rules: (client, text)."""


class Pool:
    """The loans of one pool: one user's, or those of all users that share it.

    :ivar manager: the shell's; never looked into here
    :ivar crowded: the pool has no room for another connection of any key
    :ivar waiting: how many requests wait, by key
    :ivar keepable: loans that their borrowers may keep for a while after use, by key
    """

    __slots__ = ("_allowed", "crowded", "keepable", "manager", "policy", "waiting")

    def __init__(self, policy: Policy, manager: Any = None) -> None:
        self.policy = policy
        self._allowed: dict[Key, bool] = {}
        self.manager = manager
        self.crowded = False
        self.waiting: dict[Key, int] = {}
        self.keepable: dict[Key, dict[Loan, None]] = {}

    def go_by(self, policy: Policy) -> None:
        """Go by another policy from now on."""
        self.policy = policy
        self._allowed.clear()

    def allows(self, key: Key) -> bool:
        """Say whether a key may be connected to; remembered, within bounds, for it is asked at each loan."""
        allowed = self._allowed.get(key)
        if allowed is None:
            if len(self._allowed) >= _REMEMBERED:
                self._allowed.clear()
            allowed = self._allowed[key] = self.policy.allows(key)
        return allowed

    def wanted(self, key: Key) -> bool:
        """Say whether somebody waits for what a connection of this key would give."""
        return key in self.waiting or (self.crowded and bool(self.waiting))


class Client:
    """One borrower.

    :ivar peer: the shell's; never looked into here
    :ivar pool: where it borrows; None until it has introduced itself
    :ivar sticky: it keeps connections for a while after use
    :ivar last: the highest number it has used
    :ivar heard: when it last said anything
    :ivar patience: seconds of silence after which its loans are cut
    """

    __slots__ = ("gone", "heard", "last", "loans", "out", "patience", "peer", "pool", "sticky", "timer")

    def __init__(self, peer: Any, now: float) -> None:
        self.peer = peer
        self.pool: Pool | None = None
        self.sticky = False
        self.last = 0
        self.loans: dict[int, Loan] = {}
        self.out = 0
        self.heard = now
        self.patience = 0.0
        self.gone = False
        self.timer: Entry | None = None


class Loan:
    """One request of a client, and the connection that it leads to.

    :ivar terms: how it was asked for; the shell's
    :ivar conn: the connection, from when it is served; the shell's
    :ivar request: the pool's request while there is one; the shell's
    :ivar recalled: the borrower knows that it may not keep it
    :ivar since: when it was asked for
    :ivar sock: the socket that was lent; the shell's
    :ivar family: of that socket
    :ivar token: it stands for a connection that is in another agent's hands
    :ivar keep_for: how long the borrower says it may stay idle; the shell's
    """

    __slots__ = (
        "client",
        "conn",
        "family",
        "keep_for",
        "key",
        "number",
        "pool",
        "recalled",
        "request",
        "since",
        "sock",
        "stage",
        "terms",
        "token",
    )

    def __init__(self, client: Client, number: int, key: Key, pool: Pool, terms: Any) -> None:
        self.client = client
        self.number = number
        self.key = key
        self.pool = pool
        self.terms = terms
        self.stage = Stage.ASKED
        self.conn: Any = None
        self.request: Any = None
        self.recalled = True
        self.since = 0.0
        self.sock: Any = None
        self.family = 1  # a relay's socket pair; see socket.AF_UNIX
        self.token = False
        self.keep_for: float | None = None
