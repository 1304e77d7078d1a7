"""An outside model of an agent: who has which descriptor, as the kernel would know it.

It plays the pool, the borrowers and the wires between; the desk decides. Each borrower keeps what it has
released by the rules of `Kept`. Nothing of the desk's own books is trusted: they are compared with what has
really happened.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from keepalive.agent.core.desk import Desk
from keepalive.agent.core.kept import Kept
from keepalive.agent.core.policy import Policy, Targets
from keepalive.agent.core.records import Client, Loan, Pool, Stage
from keepalive.base.types import NEVER, Key

if TYPE_CHECKING:
    from collections.abc import Callable

PER_KEY = 2
MAX_OPEN = 3
PATIENCE = 10.0
MOST = 6


class BrokenPromise(AssertionError):
    """Something that must not happen has happened."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise BrokenPromise(what)


def key_of(n: int) -> Key:
    return Key("http", f"host{n}", 80, "http", f"host{n}", 80)


FORBIDDEN = Key("ssh", "host0", 22, "ssh", "host0", 22)


class Conn:
    """A socket to a peer. `holder` has a copy of its descriptor, beside the agent."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.holder: Borrower | None = None
        self.closed = False
        self.shut = False


class Place:
    """What one borrower has of one key."""

    def __init__(self) -> None:
        self.kept: list[Ticket] = []
        self.waiting = 0


class Ticket:
    """A loan in a borrower's hands."""

    def __init__(self, number: int, conn: Conn, place: Place, may_keep: bool, now: float) -> None:
        self.number = number
        self.conn = conn
        self.per_key = place
        self.recalled = not may_keep
        self.lent_at = now
        self.until = 0.0


class Borrower:
    """A process. What it has been told waits in `mail` until it runs."""

    def __init__(self, world: World, sticky: float, kept: Callable[[float], Kept[Ticket]]) -> None:
        self.world = world
        self.client = Client(self, world.now)
        self.sticky = sticky
        self.kept = kept(sticky)
        self.keys: dict[Key, Place] = {}
        self.asked: dict[int, Key] = {}
        self.in_use: dict[int, Ticket] = {}
        self.tickets: dict[int, Ticket] = {}
        self.mail: deque[tuple[Any, ...]] = deque()
        self.answered: set[int] = set()
        self.number = 0
        self.gone = False

    def place(self, key: Key) -> Place:
        return self.keys.setdefault(key, Place())

    def ask(self, key: Key) -> None:
        place = self.place(key)
        if place.kept:
            ticket = self.kept.take(place)
            need(ticket.number in self.tickets and not ticket.conn.shut, "a kept connection is dead")
            self.in_use[ticket.number] = ticket
            return
        self.number += 1
        self.asked[self.number] = key
        place.waiting += 1
        self.world.say(self, "ask", self.number, key)

    def cancel(self, number: int) -> None:
        self.place(self.asked.pop(number)).waiting -= 1
        self.world.say(self, "cancel", number)

    def release(self, ticket: Ticket) -> None:
        del self.in_use[ticket.number]
        if not self.kept.keep(ticket, NEVER, self.world.now):
            self.give_back(ticket, fit=True)

    def give_back(self, ticket: Ticket, *, fit: bool) -> None:
        self.in_use.pop(ticket.number, None)
        del self.tickets[ticket.number]
        ticket.conn.holder = None
        self.world.say(self, "release" if fit else "discard", ticket.number)

    def expire(self) -> None:
        for ticket in self.kept.expired(self.world.now):
            self.give_back(ticket, fit=True)

    def read(self) -> None:
        """Take one message."""
        kind, number, *rest = self.mail.popleft()
        if kind == "lent":
            self._take(number, *rest)
        elif kind == "recall":
            ticket = self.tickets.get(number)
            if ticket is not None and self.kept.recall(ticket):
                self.give_back(ticket, fit=True)
        elif kind == "cut":
            ticket = self.tickets.pop(number, None)
            if ticket is not None:
                self.kept.remove(ticket)
                self.in_use.pop(number, None)
                ticket.conn.holder = None
        elif number in self.asked:
            self.place(self.asked.pop(number)).waiting -= 1

    def _take(self, number: int, conn: Conn, may_keep: bool) -> None:
        key = self.asked.pop(number, None)
        place = self.place(conn.key)
        ticket = Ticket(number, conn, place, may_keep, self.world.now)
        self.tickets[number] = ticket
        if key is None:
            self.give_back(ticket, fit=True)
            return
        need(key == conn.key, "a connection of another key")
        place.waiting -= 1
        self.in_use[number] = ticket


class World:
    """The agent's surroundings; `make` is the desk's class, perhaps with a bug."""

    def __init__(self, make: type[Desk] = Desk, kept: Callable[[float], Kept[Ticket]] = Kept) -> None:
        self.now = 100.0
        self.desk = make()
        self._kept = kept
        allowed = Targets(frozenset({"http"}), ("*",), (), ((1, 65535),))
        self.pool = Pool(Policy("web", None, frozenset(), (allowed,), False, PATIENCE, MOST))
        self.borrowers: list[Borrower] = []
        self.conns: list[Conn] = []
        self.idle: list[Conn] = []
        self.waiters: list[Loan] = []
        self.opening: list[Key] = []
        self.told: set[Loan] = set()  # its borrower knows that it may not keep it
        self.recalled: set[Loan] = set()
        self.heard: dict[Client, float] = {}

    # -- the pool ---------------------------------------------------------------------------------------

    def taken(self, key: Key | None = None) -> int:
        wanted = [conn.key for conn in self.conns] + self.opening
        return len(wanted) if key is None else wanted.count(key)

    def _enter(self, loan: Loan) -> None:
        for conn in self.idle:
            if conn.key == loan.key:
                self.idle.remove(conn)
                self.desk.served(loan, conn, self.now)
                return
        self.waiters.append(loan)
        self._open(loan.key)
        self.crowd()
        self.desk.waits(loan)

    def _open(self, key: Key) -> None:
        if self.taken(key) < PER_KEY:
            if self.taken() >= MAX_OPEN and self.idle:
                self._close(self.idle.pop(0))
            if self.taken() < MAX_OPEN:
                self.opening.append(key)
        self.crowd()

    def crowd(self) -> None:
        crowded = self.taken() >= MAX_OPEN
        if crowded != self.pool.crowded:
            self.desk.crowd(self.pool, crowded=crowded)

    def _close(self, conn: Conn) -> None:
        conn.closed = True
        self.conns.remove(conn)
        self.crowd()
        for loan in self.waiters:
            self._open(loan.key)

    def opened(self, key: Key) -> None:
        self.opening.remove(key)
        conn = Conn(key)
        self.conns.append(conn)
        self._spare(conn)

    def open_failed(self, key: Key) -> None:
        self.opening.remove(key)
        self.crowd()
        loan = next((loan for loan in self.waiters if loan.key == key), None)
        if loan is not None:
            self.waiters.remove(loan)
            self.desk.failed(loan, OSError("refused"))
        for other in self.waiters:
            self._open(other.key)

    def _spare(self, conn: Conn) -> None:
        loan = next((loan for loan in self.waiters if loan.key == conn.key), None)
        if loan is None:
            self.idle.append(conn)
            for other in self.waiters:
                self._open(other.key)
        else:
            self.waiters.remove(loan)
            self.desk.served(loan, conn, self.now)
            self.crowd()

    # -- borrowers ----------------------------------------------------------------------------------------

    def join(self, sticky: float, patience: float | None) -> None:
        borrower = Borrower(self, sticky, self._kept)
        self.borrowers.append(borrower)
        self.desk.introduce(borrower.client, self.pool, sticky=bool(sticky), patience=patience)
        self.heard[borrower.client] = self.now

    def say(self, borrower: Borrower, what: str, number: int, key: Key | None = None) -> None:
        if borrower.gone:
            return
        client = borrower.client
        client.heard = self.heard[client] = self.now
        if what == "ask":
            assert key is not None
            self.desk.ask(client, number, key, None)
        elif what == "cancel":
            self.desk.cancel(client, number)
        elif what != "ping":
            self.desk.give_back(client, number, fit=what == "release")
        self.act()

    def leave(self, borrower: Borrower) -> None:
        """Let a process end: the kernel closes its copies before anybody knows."""
        borrower.gone = True
        self.borrowers.remove(borrower)
        for conn in self.conns:
            if conn.holder is borrower:
                conn.holder = None
        for kind, _, *rest in borrower.mail:
            if kind == "lent":
                rest[0].holder = None
        self.desk.leave(borrower.client)
        self.act()

    # -- effects --------------------------------------------------------------------------------------------

    def act(self) -> None:
        effects = self.desk.effects
        while effects:
            effect, what = effects.popleft()
            getattr(self, f"_do_{effect.name.lower()}")(what)

    def _do_enter(self, loan: Loan) -> None:
        need(self.pool.policy.allows(loan.key), "a request for what is not allowed")
        need(len(loan.client.loans) <= MOST, "more than one borrower may have")
        if loan.stage is Stage.ASKED:
            self._enter(loan)

    def _do_withdraw(self, loan: Loan) -> None:
        if loan in self.waiters:
            self.waiters.remove(loan)

    def _once(self, client: Client, number: int) -> None:
        need(number not in client.peer.answered, "two answers")
        client.peer.answered.add(number)

    def _do_lend(self, loan: Loan) -> None:
        borrower, conn = loan.client.peer, loan.conn
        if loan.client.out == 1:
            self.heard[loan.client] = self.now
        if loan.stage is not Stage.OUT:
            return
        self._once(loan.client, loan.number)
        need(conn.holder is None, "lent twice")
        need(not conn.closed and conn not in self.idle, "lent and idle or closed")
        conn.holder = borrower
        if loan.recalled:
            self.told.add(loan)
        borrower.mail.append(("lent", loan.number, conn, not loan.recalled))

    def _do_answer(self, what: tuple[Loan, Exception]) -> None:
        loan = what[0]
        self._once(loan.client, loan.number)
        loan.client.peer.mail.append(("failed", loan.number))

    def _do_refuse(self, what: tuple[Client, int, str, str]) -> None:
        client, number, kind, _ = what
        self._once(client, number)
        client.peer.mail.append(("failed", number))
        need(kind != "full" or len(client.loans) >= MOST, "refused without need")

    def _do_return(self, loan: Loan) -> None:
        need(loan.conn.holder is None, "back in the pool while a borrower has it")
        need(loan.conn not in self.idle and not loan.conn.closed, "returned twice")
        self._spare(loan.conn)

    def _do_discard(self, loan: Loan) -> None:
        need(loan.conn not in self.idle and not loan.conn.closed, "discarded twice")
        loan.conn.shut = True
        self._close(loan.conn)

    def _do_cut(self, loan: Loan) -> None:
        quiet = self.now - self.heard[loan.client]
        need(quiet >= loan.client.patience, "cut although it was heard of")
        self._do_discard(loan)
        loan.client.peer.mail.append(("cut", loan.number))

    def _do_recall(self, loan: Loan) -> None:
        need(loan not in self.recalled, "recalled twice")
        self.recalled.add(loan)
        self.told.add(loan)
        loan.client.peer.mail.append(("recall", loan.number))

    def _do_drop(self, what: tuple[Client, str]) -> None:
        raise BrokenPromise(f"an honest borrower is dropped: {what[1]}")

    # -- what must hold ---------------------------------------------------------------------------------

    def check(self) -> None:
        desk, pool = self.desk, self.pool
        loans = [loan for borrower in self.borrowers for loan in borrower.client.loans.values()]
        out = [loan for loan in loans if loan.stage is Stage.OUT]
        need(desk.out == len(out), "the number of those lent")
        need(len({loan.conn for loan in out}) == len(out), "one connection, two loans")
        need(self.taken() <= MAX_OPEN, "too many")
        lent = {loan.conn for loan in out}
        need(lent | set(self.idle) == set(self.conns), "a connection is neither lent nor idle")
        need(not lent & set(self.idle), "a connection is lent and idle")
        for borrower in self.borrowers:
            of_it = [loan for loan in out if loan.client is borrower.client]
            need(borrower.client.out == len(of_it), "one borrower's number")
            for ticket in borrower.tickets.values():
                need(ticket.conn.shut or ticket.conn.holder is borrower, "somebody else has it")
        waiting: dict[Key, int] = {}
        for loan in loans:
            if loan.stage is Stage.WAITING:
                waiting[loan.key] = waiting.get(loan.key, 0) + 1
        need(pool.waiting == waiting, "who waits")
        need(
            {loan for loan in loans if loan.stage is Stage.WAITING} == set(self.waiters), "who waits, by name"
        )
        for loan in out:
            wanted = loan.key in waiting or (waiting and self.taken() >= MAX_OPEN)
            if wanted and loan.client.sticky:
                need(loan in self.told, "somebody waits, and the borrower may keep it")
            silent = self.now - self.heard[loan.client]
            need(silent <= loan.client.patience or desk.earliest <= self.now, "nobody will cut it")

    def tick(self) -> None:
        self.desk.tick(self.now)
        self.act()
        for borrower in self.borrowers:
            if borrower.client.out:
                silent = self.now - self.heard[borrower.client]
                need(silent < borrower.client.patience, "silent for too long, and not cut")

    def end(self) -> None:
        for borrower in tuple(self.borrowers):
            self.leave(borrower)
        need(not self.desk.out and not self.waiters, "something is left")
        need(not self.pool.waiting and not self.pool.keepable, "the pool's books are not empty")
        need(self.desk.earliest == NEVER, "a timer is left")
