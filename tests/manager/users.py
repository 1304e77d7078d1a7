"""The users of the random walk, good and bad; see `walk`."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from keepalive import AllocateTimeout, ConnectError, Connection, QueueFull, RequestCancelled, TLSError

if TYPE_CHECKING:
    from keepalive import ConnectionManager, Request
    from tests.support import Server

    from .walk import Walk

ROUNDS = 30
PUSHED = re.compile(rb"<(\d+)>")
HALF_PUSHED = re.compile(rb"<\d*$")


class Oops(Exception):
    """What users raise in their blocks."""


@dataclass(eq=False)
class Place:
    """Something to connect to: a server and one of its keys, or an address without a server."""

    scheme: str
    addr: str
    port: int
    for_addr: str | None = None
    server: Server | None = None

    def allocate(self, manager: ConnectionManager, **more: Any) -> Request:
        """Request a connection."""
        return manager.allocate(self.scheme, self.addr, self.port, for_addr=self.for_addr, **more)


@dataclass(eq=False)
class Fate:
    """What the chaos has done to one server's connections so far."""

    pushes: int = 0
    ends: int = 0


@dataclass(eq=False)
class Loan:
    """One connection in one user's hands, and what was known when it got there."""

    conn: Connection
    fate: Fate
    pushes: int
    ends: int
    stolen: bool = False


class User:
    """One task that asks for connections again and again."""

    def __init__(self, walk: Walk, number: int) -> None:
        self.walk = walk
        self.number = number
        self.rng = random.Random(f"user {number} of {walk.seed}")
        self.turn = 0

    async def live(self) -> None:
        """Do all rounds."""
        habits = [
            *[self.exchange] * 6,
            self.give_back_by_hand,
            self.raise_inside,
            self.nest,
            self.half_close,
            self.leave_unread,
            self.forget_connection,
            self.forget_request,
            self.ask_the_dead,
        ]
        for self.turn in range(ROUNDS):
            habit = self.rng.choice(habits)
            with anyio.CancelScope() as scope:
                if self.rng.random() < 0.15:
                    scope.deadline = anyio.current_time() + self.rng.random() * 0.005
                self.walk.scopes.append(scope)
                try:
                    await habit(self.rng.choice(self.walk.places))
                except QueueFull as exc:
                    self.check_queue(str(exc))
                finally:
                    self.walk.scopes.remove(scope)

    def check_queue(self, text: str) -> None:
        """See that the queue was full. More may stand in it: those who have lost what was on its way."""
        found = re.search(r"(\d+) requests queued", text)
        assert found is not None
        assert int(found[1]) >= self.walk.max_waiting

    # -- getting a connection ------------------------------------------------------------------------

    async def get(self, place: Place, timeout: float = 5.0) -> Loan | None:
        """Allocate, and say None where that may fail."""
        walk, rng = self.walk, self.rng
        assert place.server is not None, "the dead are asked elsewhere"
        fate = walk.fates[place.server]
        request = place.allocate(walk.manager, timeout=timeout, fresh=rng.random() < 0.1)
        walk.pending.add(request.id)
        try:
            if rng.random() < 0.3:
                await anyio.lowlevel.checkpoint()
            conn = await request
        except RequestCancelled:
            assert request.id in walk.revoked, f"nobody cancelled {request!r}"
            return None
        except AllocateTimeout:
            assert timeout < 1 or walk.connect_timeout, f"{request!r} was never served"
            return None
        except (ConnectError, TLSError):
            # Its attempt may be older than the request itself.
            assert fate.ends, f"{request!r} failed, though the server did nothing"
            return None
        finally:
            walk.pending.discard(request.id)
        assert request.id not in walk.revoked, f"{request!r} was cancelled, and served"
        assert (conn.uses > 1) == (conn.from_cache is not None), conn
        walk.served += 1
        return Loan(conn, fate, fate.pushes, fate.ends)

    def may_have_ended(self, loan: Loan) -> bool:
        """Say whether the server has ended this connection since the hand-out."""
        # A new one may have been ended before it was first handed out.
        return loan.fate.ends > (loan.ends if loan.conn.uses > 1 else 0)

    # -- using it ------------------------------------------------------------------------------------

    def token(self, loan: Loan) -> bytes:
        """Make bytes that nobody else sends."""
        size = self.rng.choice([1, 1, 10, 300])
        return (b"user %d, turn %d, use %d;" % (self.number, self.turn, loan.conn.uses)) * size

    async def talk(self, loan: Loan) -> None:
        """Exchange some tokens, and see that every byte is one's own."""
        walk, conn = self.walk, loan.conn
        walk.loans.add(loan)
        try:
            for _ in range(self.rng.randrange(1, 3)):
                token = self.token(loan)
                await conn.send(token)
                raw = got = b""
                while len(got) < len(token):
                    raw += await conn.receive()
                    got = self.strip(loan, raw)
                assert got == token, f"{got[:60]!r} instead of {token[:60]!r}"
        except (EndOfStream, BrokenResourceError):
            assert self.may_have_ended(loan), f"{conn!r} was dead when it was handed out"
            raise Oops from None
        except ClosedResourceError:
            assert loan.stolen, f"{conn!r} was closed by nobody"
            raise Oops from None
        finally:
            walk.loans.discard(loan)

    def strip(self, loan: Loan, got: bytes) -> bytes:
        """Take out what the server pushed; on a used connection nothing old may be there."""
        old = loan.pushes if loan.conn.uses > 1 else 0
        for found in PUSHED.findall(got):
            assert int(found) > old, f"{loan.conn!r} held bytes pushed before its hand-out"
        whole = PUSHED.sub(b"", got)
        return HALF_PUSHED.sub(b"", whole)

    # -- habits --------------------------------------------------------------------------------------

    async def exchange(self, place: Place) -> None:
        """Do as the documentation says."""
        loan = await self.get(place, self.rng.choice([0.01, 5.0, 5.0]))
        if loan is not None:
            try:
                async with loan.conn:
                    await self.talk(loan)
            except Oops:
                pass

    async def give_back_by_hand(self, place: Place) -> None:
        """Release, free, discard or close, sometimes twice."""
        loan = await self.get(place)
        if loan is None:
            return
        conn = loan.conn
        try:
            await self.talk(loan)
        except BaseException as exc:
            conn.discard()
            if not isinstance(exc, Oops):
                raise
        else:
            how = self.rng.randrange(4)
            if how == 0 and not loan.stolen:
                self.walk.manager.free(conn)
            elif how == 1:
                conn.discard()
            elif how == 2:
                await conn.aclose()
            conn.release(keep_for=self.rng.choice([None, 0, 0.01]))

    async def raise_inside(self, place: Place) -> None:
        """Leave a block by an exception, before or after an exchange."""
        loan = await self.get(place)
        if loan is not None:
            try:
                async with loan.conn:
                    if self.rng.random() < 0.5:
                        await self.talk(loan)
                    raise Oops
            except Oops:
                pass

    async def nest(self, place: Place) -> None:
        """Ask for a second connection while holding one."""
        loan = await self.get(place)
        if loan is not None:
            async with loan.conn:
                await self.exchange(self.rng.choice(self.walk.places))

    async def half_close(self, place: Place) -> None:
        """Say goodbye and read to the end."""
        loan = await self.get(place)
        if loan is None:
            return
        try:
            async with loan.conn as conn:
                await self.talk(loan)
                await conn.send_eof()
                while True:
                    self.strip(loan, await conn.receive())
        except (Oops, EndOfStream):
            pass
        except BrokenResourceError:
            assert self.may_have_ended(loan), loan
        except ClosedResourceError:
            assert loan.stolen, loan

    async def leave_unread(self, place: Place) -> None:
        """Give it back with bytes still to read: nobody may ever see these."""
        loan = await self.get(place)
        if loan is None:
            return
        try:
            async with loan.conn as conn:
                await conn.send(b"unread!!")
                while await conn.receive(1) != b"u":
                    pass  # what the server pushed
        except (EndOfStream, BrokenResourceError):
            assert self.may_have_ended(loan), loan

    async def forget_connection(self, place: Place) -> None:
        """Drop the handle, used or unused, sometimes in a cycle of references."""
        loan = await self.get(place)
        if loan is None:
            return
        if self.rng.random() < 0.5:
            cycle: list[object] = [loan]
            cycle.append(cycle)
        try:
            if self.rng.random() < 0.5:
                await self.talk(loan)
            if self.rng.random() < 0.5:
                await loan.conn.send(b"an answer that nobody waits for")
        except (Oops, BrokenResourceError):
            pass
        finally:
            self.walk.dropped += not loan.stolen

    async def forget_request(self, place: Place) -> None:
        """Enter a request and never await it."""
        place.allocate(self.walk.manager, timeout=self.rng.choice([0, 0.01, 5]))
        if self.rng.random() < 0.5:
            request = place.allocate(self.walk.manager, timeout=5)
            await anyio.lowlevel.checkpoint()
            request.cancel()

    async def ask_the_dead(self, _: Place) -> None:
        """Ask for a refused or a hanging port."""
        request = self.rng.choice(self.walk.dead).allocate(self.walk.manager, timeout=0.02)
        try:
            async with request:
                raise AssertionError("somebody answers at a dead port")
        except (ConnectError, AllocateTimeout):
            pass
        except RequestCancelled:
            assert request.id in self.walk.revoked, f"nobody cancelled {request!r}"
