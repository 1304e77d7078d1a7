"""A random walk over the whole manager: many users, and chaos from all sides, on real sockets.

Users do what users do, good and bad; each decides by a random generator of its own, so that a seed
means the same walk however the loop orders the tasks. `Walk.chaos` cancels, deallocates, steals,
changes limits, collects garbage, and makes the servers push, close and reset.

What a user may meet is decided by what happened since it got its connection: an end of stream or
foreign bytes on a used connection are failures of the pool unless the server did something to this
very connection after the hand-out. The servers act from the loop's own thread and have done so when
they return, so that "after" is exact.
"""

from __future__ import annotations

import gc
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .users import PUSHED, Fate, Loan, Place, User

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive import ConnectionManager
    from tests.support import Server

USERS = 14


@dataclass(eq=False)
class Walk:
    """One walk: its places, its limits and its books."""

    seed: int
    manager: ConnectionManager
    places: list[Place]
    dead: list[Place]
    per_host: int = 3
    in_all: int = 8
    max_waiting: float = math.inf
    connect_timeout: float | None = None
    fates: dict[Server, Fate] = field(default_factory=dict)
    scopes: list[anyio.CancelScope] = field(default_factory=list)
    pending: set[int] = field(default_factory=set)
    revoked: set[int] = field(default_factory=set)
    loans: set[Loan] = field(default_factory=set)
    dropped: int = 0
    served: int = 0

    def __post_init__(self) -> None:
        self.fates = {place.server: Fate() for place in self.places if place.server is not None}
        # The most that was ever allowed: what was lent under higher limits stays.
        self.bounds = (self.per_host, self.in_all)

    # -- the whole -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Walk, then see that nothing was lost."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._chaos)
            async with anyio.create_task_group() as users:
                for number in range(USERS):
                    users.start_soon(User(self, number).live)
            group.cancel_scope.cancel()
        gc.collect()
        await anyio.lowlevel.checkpoint()
        self.check()
        await self._every_slot_works()

    async def _every_slot_works(self) -> None:
        self.manager.set_limits(max_per_host=3, max_open=8)
        for place in self.places:
            tokens = [b"slot %d" % number for number in range(3)]
            conns = [await place.allocate(self.manager, timeout=5) for _ in tokens]
            for conn, token in zip(conns, tokens, strict=True):
                await conn.send(token)
            for conn, token in zip(conns, tokens, strict=True):
                got = b""
                while len(got) < len(token):
                    got += await conn.receive()
                    if conn.uses == 1:
                        got = PUSHED.sub(b"", got)  # pushed before anybody had it
                assert got == token, f"{got!r} instead of {token!r} on {conn!r}"
            for conn in conns:
                conn.release()
        stats = self.manager.stats()
        assert (stats.lent, stats.waiting) == (0, 0), stats
        ended = stats.immediate + stats.deferred + stats.new + stats.timeouts + stats.cancelled
        assert stats.requests == ended + sum(stats.failed.values()), stats

    def check(self) -> None:
        """Compare what the peers count with the limits, and the manager's numbers with each other."""
        per_host, in_all = self.bounds
        total = 0
        for server in self.fates:
            keys = sum(place.server is server for place in self.places)
            assert server.peak <= per_host * keys, f"{server!r} had more than {per_host} for {keys} keys"
            total += server.connections
        assert total <= in_all, f"{total} connections, {in_all} allowed"
        stats = self.manager.stats()
        assert stats.open <= in_all, stats
        assert stats.open == stats.connecting + stats.lent + stats.idle + stats.closing, stats
        ended = stats.immediate + stats.deferred + stats.new + stats.timeouts + stats.cancelled
        served = stats.requests - ended - sum(stats.failed.values()) - stats.waiting
        assert 0 <= served <= stats.lent, stats
        for name in ("open", "lent", "idle", "waiting", "requests", "opened", "cancelled"):
            assert getattr(stats, name) == sum(getattr(key, name) for key in stats.keys.values()), name

    # -- chaos ---------------------------------------------------------------------------------------

    async def _chaos(self) -> None:
        rng = random.Random(f"chaos {self.seed}")
        deeds: list[Callable[[random.Random], None]] = [
            self._cancel_somebody,
            self._cancel_somebody,
            self._revoke,
            self._steal,
            self._move_limits,
            self._act_as_server,
            self._act_as_server,
            lambda _: self.check(),
            lambda _: void(gc.collect()),
        ]
        while True:
            rng.choice(deeds)(rng)
            await anyio.sleep(rng.random() * 0.004)

    def _cancel_somebody(self, rng: random.Random) -> None:
        if self.scopes:
            rng.choice(self.scopes).cancel()

    def _revoke(self, rng: random.Random) -> None:
        number = rng.randrange(1, max(self.pending, default=1) + 1)
        if self.pending and rng.random() < 0.8:
            number = rng.choice(sorted(self.pending))
        try:
            found = self.manager.deallocate(number)
        except ValueError:
            assert number > self.manager.stats().requests
            return
        if found:
            self.revoked.add(number)

    def _steal(self, rng: random.Random) -> None:
        """End somebody's connection from another task, maybe while it is inside receive."""
        if self.loans:
            loan = rng.choice(sorted(self.loans, key=lambda loan: id(loan)))
            loan.stolen = True
            rng.choice([loan.conn.discard, loan.conn.release])()

    def _move_limits(self, rng: random.Random) -> None:
        per_host, in_all = rng.choice([(3, 8), (2, 5), (4, 9), (1, 3)])
        if rng.random() < 0.3:
            self.manager.set_limits(max_per_host=per_host, max_open=in_all)
            self.bounds = (max(self.bounds[0], per_host), max(self.bounds[1], in_all))

    def _act_as_server(self, rng: random.Random) -> None:
        server = rng.choice(list(self.fates))
        fate = self.fates[server]
        deed = rng.randrange(6)
        if deed == 0:
            fate.ends += 1
            server.disconnect_all()
        elif deed == 1:
            fate.ends += 1
            server.reset_all()
        elif deed == 2:
            fate.ends += 1
            server.half_close_all()
        else:
            fate.pushes += 1
            server.push(b"<%d>" % fate.pushes)


def void(_: object) -> None:
    """Forget a result."""
