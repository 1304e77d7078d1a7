"""The teller carries out what the desk decides: requests, loans, returns, and the messages about them."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from keepalive.base.types import NEVER
from keepalive.errors import KeepaliveError
from keepalive.transport.link import Link

from . import tokens, wire
from .core.desk import VERSIONS
from .core.records import Effect, Stage
from .lender import Lender, failure, hang_up, sealed_by
from .relay import Relay

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from keepalive import Connection
    from keepalive.transport.reactor import Reactor

    from .channel import Channel
    from .core.desk import Desk
    from .core.records import Client, Loan

logger = logging.getLogger("keepalive")


class Teller:
    """What lies between the desk, the pools and the borrowers' channels.

    :param gone: called with each client that is dropped
    :ivar relays: the TLS connections that are lent
    """

    def __init__(self, reactor: Reactor, desk: Desk, gone: Callable[[Any], None]) -> None:
        self.desk = desk
        self.now = reactor.clock
        self.relays: dict[Loan, Relay] = {}
        self._reactor = reactor
        self._gone = gone
        self._timer = reactor.timer(self._ring)
        self._armed = NEVER
        self._acting = False
        self._empty = anyio.Event()
        self._gathering = False
        self._corked: list[Channel] = []
        self._does: dict[Effect, Callable[[Any], None]] = {
            Effect.ENTER: self._enter,
            Effect.WITHDRAW: self._withdraw,
            Effect.LEND: self._lend,
            Effect.ANSWER: self._answer,
            Effect.REFUSE: self._refuse,
            Effect.RETURN: self._return,
            Effect.DISCARD: self._end,
            Effect.CUT: self._cut,
            Effect.RECALL: self._recall,
            Effect.DROP: self.drop,
        }

    def close(self) -> None:
        """Do nothing more by itself."""
        self._timer.cancel()

    async def until_returned(self) -> None:
        """Wait until nothing is lent."""
        while self.desk.out or self.relays:
            self._empty = anyio.Event()
            await self._empty.wait()

    def drop(self, what: tuple[Any, str]) -> None:
        """End a client, and tell it why."""
        client, text = what
        if not client.gone:
            logger.warning("dropping %r: %s", client.peer, text)
            client.peer.channel.post(wire.packed(wire.Refusal(text, list(VERSIONS))))
            self._gone(client.peer)

    # -- effects --------------------------------------------------------------------------------------

    def act(self) -> None:
        """Carry out what the desk wants, then set the timer for its next deadline."""
        desk = self.desk
        effects = desk.effects
        if self._acting:
            return
        self._acting = True  # the managers call back while they act
        try:
            while effects:
                effect, what = effects.popleft()
                try:
                    self._does[effect](what)
                except Exception:
                    logger.exception("in the agent, at %s", effect)
        finally:
            self._acting = False
        if desk.earliest < self._armed:
            self._armed = desk.earliest
            self._timer.move(max(0.0, self._armed - self.now()))
        if not desk.out and not self.relays:
            self._empty.set()

    def _ring(self) -> None:
        self._armed = NEVER
        self.desk.tick(self.now())
        self.act()

    def _enter(self, loan: Loan) -> None:
        if loan.stage is not Stage.ASKED:
            return  # cancelled since
        lender: Lender = loan.pool.manager
        try:
            conn = lender.enter(loan)
        except Exception as exc:  # a wrong argument too: it is the borrower's
            self.desk.failed(loan, exc)
            return
        if conn is not None:
            self._served(loan, conn)
            return
        self.desk.waits(loan)
        self._reactor.spawn(partial(self._wait, loan, loan.request), _nothing, "keepalive loan")

    async def _wait(self, loan: Loan, request: Any) -> None:
        try:
            conn = await request
        except KeepaliveError as exc:
            self.desk.failed(loan, exc)
        else:
            self._served(loan, conn)
        # Many tasks wake in one turn of the loop; what they have for one borrower goes out together.
        self._gathering = True
        self.act()
        self._gathering = False

    def _served(self, loan: Loan, conn: Connection) -> None:
        """Tell the desk; the lender knows only now which of its sockets this is."""
        lender: Lender = loan.pool.manager
        found = lender.opened_socket(conn)
        if found is not None:
            loan.sock, loan.family = found
        self.desk.served(loan, conn, self.now())

    def _withdraw(self, loan: Loan) -> None:
        if loan.request is not None:
            loan.request.cancel()

    def _lend(self, loan: Loan) -> None:
        conn, channel = loan.conn, loan.client.peer.channel
        if loan.stage is not Stage.OUT or channel.closed:
            return
        sock, sealed = loan.sock, None
        if sock is not None:
            conn.look_away()
        else:
            try:
                self.relays[loan] = relay = Relay(
                    self._reactor, conn, partial(self._over, loan), partial(self._relay_ended, loan)
                )
            except OSError as exc:
                self._undelivered(loan, exc)
                return
            sock, sealed = relay.theirs, sealed_by(conn)
        message = wire.Lent(
            loan.number,
            conn.from_cache,
            conn.uses,
            conn.idle_for,
            conn.age,
            not loan.recalled,
            loan.family,
            sealed,
        )
        if self._gathering and not channel.corked:
            channel.corked = True
            self._corked.append(channel)
            if len(self._corked) == 1:
                self._reactor.call_soon_threadsafe(self.uncork)
        channel.post(wire.packed(message), sock.fileno(), partial(self._sent, loan))

    def uncork(self) -> None:
        """Send what was gathered."""
        corked, self._corked = self._corked, []
        for channel in corked:
            if not channel.closed:
                channel.flush()

    def _sent(self, loan: Loan, exc: OSError | None) -> None:
        relay = self.relays.get(loan)
        if relay is not None:
            relay.sent()
        if exc is not None and not loan.client.gone:
            self._undelivered(loan, exc)
            self.act()

    def _undelivered(self, loan: Loan, exc: OSError) -> None:
        self.desk.lost(loan)
        self._answer((loan, exc))

    def _answer(self, what: tuple[Loan, Exception]) -> None:
        loan, exc = what
        self._post(loan, failure(loan.number, exc))

    def _post(self, loan: Loan, message: wire.FromAgent) -> None:
        if not loan.client.gone:
            loan.client.peer.channel.post(wire.packed(message))

    def _refuse(self, what: tuple[Any, int, str, str]) -> None:
        client, number, kind, text = what
        client.peer.channel.post(wire.packed(wire.Failed(number, kind, "agent", None, text)))

    def _return(self, loan: Loan) -> None:
        relay = self.relays.get(loan)
        if relay is not None:
            relay.release(loan.keep_for)
        elif loan.token:
            loan.conn.discard()  # the other agent then finds what it is to do
        else:
            loan.conn.release(loan.keep_for)

    def _end(self, loan: Loan) -> None:
        relay = self.relays.get(loan)
        if relay is not None:
            relay.discard()
        else:
            channel = loan.client.peer.channel
            if loan.sock is not None and channel.outbox:
                channel.withdraw(loan.sock.fileno())
            hang_up(loan.conn, loan.sock)

    def half_close(self, loan: Loan) -> None:
        """Pass a borrower's end on, where its bytes pass through an agent."""
        relay = self.relays.get(loan)
        if relay is not None:
            relay.half_close()
        elif loan.token:
            tokens.tell(loan.sock, tokens.HALF_CLOSED)

    def forget(self, client: Client) -> list[Connection]:
        """Give up a client's requests and loans; return the connections that are another agent's by now.

        TLS stays: elsewhere tokens stand for it.
        """
        loans = tuple(client.loans.values())
        for loan in loans:
            self.desk.hand_over(loan)
        return [loan.conn for loan in loans if loan.conn is not None and loan not in self.relays]

    def follow(self, loan: Loan) -> None:
        """Tell the borrower of a token what the other agent says of the connection."""
        over = partial(self._over, loan)
        self._reactor.spawn(partial(tokens.follow, loan.conn, over), _nothing, "keepalive token")

    def obey(self, loan: Loan, token: socket.socket) -> None:
        """Do with a relay as the holder of its token says."""
        relay = self.relays.get(loan)
        if relay is None:
            token.close()
            return
        relay.token = token
        link = Link(token, self._reactor.poller)
        self._reactor.spawn(partial(tokens.obey, link, relay), link.close, "keepalive token")

    def _cut(self, loan: Loan) -> None:
        logger.warning("%r has been silent: its connection to %s is cut", loan.client.peer, loan.key)
        self._end(loan)
        self._post(loan, wire.Cut(loan.number))

    def _recall(self, loan: Loan) -> None:
        self._post(loan, wire.Recall(loan.number))

    def _over(self, loan: Loan, clean: bool) -> None:
        relay = self.relays.get(loan)
        if relay is not None and relay.token is not None:
            tokens.tell(relay.token, tokens.CLEAN if clean else tokens.BROKEN)
        elif loan.stage is Stage.OUT:
            self._post(loan, wire.Over(loan.number, clean))

    def _relay_ended(self, loan: Loan) -> None:
        self.relays.pop(loan, None)
        self.act()


def _nothing() -> None:
    pass
