"""The desk: who holds what, who must give it back, and what becomes of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from keepalive.base.timer_queue import TimerQueue

from .records import Client, Effect, Loan, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive.base.types import Key

    from .records import Pool

VERSIONS = (1,)
"""Of the messages: those that are understood, the preferred first."""


def common_version(offered: Iterable[int]) -> int | None:
    """Return the version that both sides speak; None if there is none."""
    known = frozenset(offered)
    return next((version for version in VERSIONS if version in known), None)


class Desk:
    """Lends what the pools have.

    Each method is one input. `effects` is what the shell then carries out, in order.

    :ivar draining: nothing more is lent
    :ivar out: how many connections are lent
    """

    def __init__(self) -> None:
        self.effects: deque[tuple[Effect, Any]] = deque()
        self.draining = False
        self.out = 0
        self._silent: TimerQueue[Client] = TimerQueue()

    # -- clients --------------------------------------------------------------------------------------

    def introduce(self, client: Client, pool: Pool, *, sticky: bool, patience: float | None) -> None:
        """Let a client borrow; it may ask for less patience than the pool has, never for more."""
        client.pool = pool
        client.sticky = sticky
        most = pool.policy.loan_timeout
        client.patience = most if patience is None else min(patience, most)

    def leave(self, client: Client) -> None:
        """Take back all that a client had: its process has ended, or it has left."""
        client.gone = True
        self._silent.withdraw(client)
        for loan in tuple(client.loans.values()):
            if loan.stage is Stage.OUT:
                # Nobody knows what was said on it last.
                self._end(loan, Effect.DISCARD)
            else:
                self._end(loan, Effect.WITHDRAW)

    def _drop(self, client: Client, text: str) -> None:
        self.effects.append((Effect.DROP, (client, text)))

    # -- requests -------------------------------------------------------------------------------------

    def ask(self, client: Client, number: int, key: Key, terms: Any, *, again: bool = False) -> Loan | None:
        """Enter a request, if it is allowed; `again` if it was entered at another agent before."""
        pool = client.pool
        if pool is None:
            self._drop(client, "a request before the greeting")
            return None
        if number <= client.last and not again:
            self._drop(client, f"the number {number} was used before")
            return None
        client.last = max(number, client.last)
        kind = self._forbidden(client, pool, key)
        if kind is not None:
            self.effects.append((Effect.REFUSE, (client, number, *kind)))
            return None
        loan = client.loans[number] = Loan(client, number, key, pool, terms)
        self.effects.append((Effect.ENTER, loan))
        return loan

    def adopt(self, client: Client, number: int, key: Key, conn: Any, *, recalled: bool, now: float) -> Loan:
        """Enter a loan that another agent has made."""
        assert client.pool is not None, "it was introduced"
        loan = client.loans[number] = Loan(client, number, key, client.pool, None)
        self._out(loan, conn, now)
        if not recalled:
            self._keepable(loan)
        return loan

    def _forbidden(self, client: Client, pool: Pool, key: Key) -> tuple[str, str] | None:
        if self.draining:
            return "closed", "the agent is being shut down"
        if not pool.allows(key):
            return (
                "denied",
                f"the agent's configuration allows no connection to it in the pool {pool.policy.name!r}",
            )
        most = pool.policy.max_requests
        if len(client.loans) >= most:
            return "full", f"this borrower has {most} requests and loans already (max_requests)"
        return None

    def waits(self, loan: Loan) -> None:
        """Note that the pool has nothing for a request at once. What others merely keep is called back."""
        if loan.stage is not Stage.ASKED:
            return
        loan.stage = Stage.WAITING
        pool = loan.pool
        pool.waiting[loan.key] = pool.waiting.get(loan.key, 0) + 1
        self.crowd(pool, crowded=pool.crowded)
        self._recall(pool, loan.key)

    def crowd(self, pool: Pool, *, crowded: bool) -> None:
        """Note whether the pool has room for another connection. If not, any key's can help who waits."""
        pool.crowded = crowded
        if crowded and pool.waiting:
            for key in tuple(pool.keepable):
                self._recall(pool, key)

    def _recall(self, pool: Pool, key: Key) -> None:
        for loan in pool.keepable.pop(key, ()):
            loan.recalled = True
            self.effects.append((Effect.RECALL, loan))

    def cancel(self, client: Client, number: int) -> None:
        """Cancel a request. One that has crossed with its connection stands: the borrower will return it."""
        loan = client.loans.get(number)
        if loan is not None and loan.stage is not Stage.OUT:
            self._end(loan, Effect.WITHDRAW)

    def served(self, loan: Loan, conn: Any, now: float) -> None:
        """Lend what the pool has for a request, or give it back if nobody wants it any more."""
        if loan.stage is Stage.ENDED:
            loan.conn = conn
            self.effects.append((Effect.RETURN, loan))
            return
        self._no_longer_waiting(loan)
        self._out(loan, conn, now)
        if loan.client.sticky and not loan.pool.wanted(loan.key):
            self._keepable(loan)
        self.effects.append((Effect.LEND, loan))

    def _out(self, loan: Loan, conn: Any, now: float) -> None:
        client = loan.client
        loan.conn = conn
        loan.stage = Stage.OUT
        if not client.out:
            client.heard = now  # who has only waited had no reason to say anything
        self.out += 1
        client.out += 1
        if client.timer is None:
            self._silent.enter(client, client.heard + client.patience)

    @staticmethod
    def _keepable(loan: Loan) -> None:
        loan.recalled = False
        loan.pool.keepable.setdefault(loan.key, {})[loan] = None

    def failed(self, loan: Loan, failure: Exception) -> None:
        """Answer a request that the pool could not serve."""
        if loan.stage is not Stage.ENDED:
            self._end(loan, None)
            self.effects.append((Effect.ANSWER, (loan, failure)))

    # -- the end of a loan ----------------------------------------------------------------------------

    def give_back(self, client: Client, number: int, *, fit: bool) -> Loan | None:
        """Take a connection back from its borrower, for reuse or to be closed.

        One that was cut meanwhile is no news; a number that was never lent breaks the rules.
        """
        loan = client.loans.get(number)
        if loan is not None and loan.stage is Stage.OUT:
            self._end(loan, Effect.RETURN if fit else Effect.DISCARD)
            return loan
        if loan is not None or number > client.last or number < 1:
            self._drop(client, f"{number} was not lent to it")
        return None

    def lost(self, loan: Loan) -> None:
        """End a loan that could not be delivered, or whose connection has failed on the agent's side."""
        if loan.stage is Stage.OUT:
            self._end(loan, Effect.DISCARD)

    def hand_over(self, loan: Loan) -> None:
        """Forget a loan that is another agent's from now on; nothing is done to its connection."""
        self._end(loan, None)

    def _end(self, loan: Loan, effect: Effect | None) -> None:
        client, pool = loan.client, loan.pool
        del client.loans[loan.number]
        if loan.stage is Stage.OUT:
            self.out -= 1
            client.out -= 1
            self._not_keepable(pool, loan)
        else:
            self._no_longer_waiting(loan)
        loan.stage = Stage.ENDED
        if effect is not None:
            self.effects.append((effect, loan))

    def _no_longer_waiting(self, loan: Loan) -> None:
        if loan.stage is Stage.WAITING:
            waiting = loan.pool.waiting
            waiting[loan.key] -= 1
            if not waiting[loan.key]:
                del waiting[loan.key]

    @staticmethod
    def _not_keepable(pool: Pool, loan: Loan) -> None:
        if not loan.recalled:
            loans = pool.keepable[loan.key]
            del loans[loan]
            if not loans:
                del pool.keepable[loan.key]

    # -- time -----------------------------------------------------------------------------------------

    @property
    def earliest(self) -> float:
        """When `tick` is to be called next."""
        return self._silent.next()

    def tick(self, now: float) -> None:
        """Cut the loans of those who have been silent for too long: they are stopped, or hang."""
        for client in self._silent.pop_due(now):
            if not client.out:
                continue
            due = client.heard + client.patience
            if due > now:
                self._silent.enter(client, due)
                continue
            for loan in tuple(client.loans.values()):
                if loan.stage is Stage.OUT:
                    self._end(loan, Effect.CUT)
