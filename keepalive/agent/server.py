"""The agent: it owns connections and lends them to other processes."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from keepalive.base.types import NEVER, Key
from keepalive.errors import KeepaliveError
from keepalive.transport.listener import Listener
from keepalive.transport.loops import current_runtime
from keepalive.transport.reactor import Reactor

from . import wire
from .channel import Channel
from .core.desk import VERSIONS, Desk, common_version
from .core.frames import TooLong
from .core.policy import policy_for
from .core.records import Effect, Stage
from .lender import Lender, failure, hang_up, sealed_by
from .peer import Peer, credentials, groups_of
from .relay import Relay

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from keepalive.transport.link import Link

    from .config import Config
    from .core.records import Loan

logger = logging.getLogger("keepalive")

SHORT_PAUSE = 0.1
"""Seconds until it is tried again to accept, where descriptors are short."""
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Agent:
    """Serves borrowers on listening Unix sockets, from its entry to its end. Switches tasks at its end only.

    :param config: who may do what
    :param listeners: listening Unix stream sockets; they become the agent's
    """

    def __init__(self, config: Config, listeners: Sequence[socket.socket]) -> None:
        self.config = config
        self.desk = Desk()
        self.peers: set[Peer] = set()
        self.lenders: dict[tuple[str, int | None], Lender] = {}
        self.succeed: Callable[[Peer], None] | None = None
        self._sockets = list(listeners)
        self._listeners: list[Listener] = []
        self._relays: dict[Loan, Relay] = {}
        self._acting = False
        self._armed = NEVER
        self._empty = anyio.Event()
        self._handlers: dict[type, Callable[[Peer, Any], None]] = {
            wire.Hello: self._hello,
            wire.Succeed: self._be_succeeded,
            wire.Allocate: self._allocate,
            wire.Release: self._release,
            wire.Discard: self._discard,
            wire.Cancel: self._cancel,
            wire.HalfClose: self._half_close,
            wire.Ping: self._ping,
            wire.Ask: self._ask,
        }
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
            Effect.DROP: self._drop,
        }

    # -- its life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.reactor = Reactor(current_runtime(), self._unread, self._abandoned)
        self.now = self.reactor.clock
        self._timer = self.reactor.timer(self._ring)
        self._again = self.reactor.timer(self._accept)
        for sock in self._sockets:
            sock.setblocking(False)
            self._listeners.append(Listener(sock, self.reactor.poller))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End everything: what is still lent is cut."""
        self.stop_listening()
        for peer in tuple(self.peers):
            self._gone(peer)
        self.act()
        with anyio.CancelScope(shield=True):
            for lender in self.lenders.values():
                lender.manager.shutdown()
            await self.reactor.wait_for_tasks()
            for lender in self.lenders.values():
                await lender.manager.__aexit__(None, None, None)
            self._timer.cancel()
            self._again.cancel()
            await self.reactor.aclose()

    def _abandoned(self) -> None:
        self.peers.clear()

    def stop_listening(self) -> None:
        """Accept nobody any more."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def drain(self, seconds: float) -> None:
        """Lend nothing more, tell everybody so, and wait for what is lent, for so many seconds at most."""
        self.desk.draining = True
        self.stop_listening()
        for peer in self.peers:
            peer.channel.post(wire.packed(wire.Leaving()))
        for lender in self.lenders.values():
            lender.manager.shutdown()
        with anyio.move_on_after(seconds):
            while self.desk.out or self._relays:
                self._empty = anyio.Event()
                await self._empty.wait()

    def reload(self, config: Config) -> None:
        """Go by another configuration from now on; who may borrow no more keeps what he has.

        TLS settings and the limits that `ConnectionManager.set_limits` cannot change hold for new pools only.
        """
        self.config = config
        groups_of.cache_clear()
        policies = {policy.name: policy for policy in config.policies}
        for (name, user), lender in tuple(self.lenders.items()):
            policy = policies.get(name)
            if policy is None:
                lender.manager.shutdown()
                del self.lenders[name, user]
                self.reactor.spawn(partial(self._close_when_returned, lender), lambda: None, "keepalive pool")
            else:
                lender.adjust(policy, config)

    async def _close_when_returned(self, lender: Lender) -> None:
        await lender.manager.aclose(grace=None)

    # -- clients --------------------------------------------------------------------------------------

    def _unread(self, link: Link) -> None:
        if isinstance(link, Channel):
            self._read(link.slot)
        elif isinstance(link, Listener):
            self._accept()

    def _accept(self) -> None:
        for listener in self._listeners:
            try:
                while (accepted := listener.try_accept()) is not None:
                    self._join(accepted[0])
            except OSError as exc:
                if exc.errno in _SHORT:
                    self._again.move(SHORT_PAUSE)
                else:
                    self._again.move(0)

    def _join(self, sock: socket.socket) -> None:
        channel = Channel(sock, self.reactor.poller, wire.MOST_ASKED)
        peer = channel.slot = Peer(channel, credentials(sock), self.now())
        self.peers.add(peer)

    def _read(self, peer: Peer) -> None:
        channel = peer.channel
        client = peer.client
        try:
            messages = channel.take()
            if messages is None:
                self._gone(peer)
            else:
                client.heard = self.now()
                for message in messages:
                    if not client.gone:
                        decoded = wire.of_client(message)
                        self._handlers[type(decoded)](peer, decoded)
        except OSError:
            self._gone(peer)
        except (TooLong, wire.BadMessage) as exc:
            self._drop((client, str(exc)))
        self.act()
        if channel.readable and not channel.closed:  # others have their turn first
            self.reactor.call_soon_threadsafe(partial(self._read_on, peer))

    def _read_on(self, peer: Peer) -> None:
        if not peer.client.gone:
            self._read(peer)

    def _gone(self, peer: Peer) -> None:
        if not peer.client.gone:
            peer.channel.close()
            self.peers.discard(peer)
            self.desk.leave(peer.client)

    def _drop(self, what: tuple[Any, str]) -> None:
        client, text = what
        if client.gone:
            return
        logger.warning("dropping %r: %s", client.peer, text)
        client.peer.channel.post(wire.packed(wire.Refusal(text, list(VERSIONS))))
        self._gone(client.peer)

    # -- what they say --------------------------------------------------------------------------------

    def _hello(self, peer: Peer, message: wire.Hello) -> None:
        version = common_version(message.versions)
        if peer.greeted or version is None:
            said = "it has greeted before" if peer.greeted else f"this agent speaks versions {VERSIONS}"
            self._drop((peer.client, said))
            return
        policy = policy_for(self.config.policies, peer.user, groups_of(peer.user, peer.group))
        if policy is None:
            self._drop((peer.client, f"the configuration has nothing for user {peer.user}"))
            return
        peer.greeted = True
        lender = self.lender(policy.name, None if policy.shared else peer.user)
        self.desk.introduce(peer.client, lender.pool, sticky=message.sticky, patience=message.patience)
        peer.channel.post(wire.packed(wire.Welcome(version, peer.client.patience, policy.name)))

    def lender(self, name: str, user: int | None) -> Lender:
        """Return the pool of that name, for all users or for one."""
        lender = self.lenders.get((name, user))
        if lender is None:
            policy = next(policy for policy in self.config.policies if policy.name == name)
            lender = self.lenders[name, user] = Lender(policy, self.config, self.desk)
        return lender

    def _be_succeeded(self, peer: Peer, message: wire.Succeed) -> None:
        if (
            self.succeed is None
            or peer.user not in (0, os.geteuid())
            or common_version(message.versions) is None
        ):
            self._drop((peer.client, "it may not take this agent's place"))
        else:
            self.succeed(peer)

    def _allocate(self, peer: Peer, message: wire.Allocate) -> None:
        self.desk.ask(peer.client, message.number, Key(*message.key), message)

    def _release(self, peer: Peer, message: wire.Release) -> None:
        loan = self.desk.give_back(peer.client, message.number, fit=True)
        if loan is not None:
            loan.keep_for = message.keep_for

    def _discard(self, peer: Peer, message: wire.Discard) -> None:
        self.desk.give_back(peer.client, message.number, fit=False)

    def _cancel(self, peer: Peer, message: wire.Cancel) -> None:
        self.desk.cancel(peer.client, message.number)

    def _half_close(self, peer: Peer, message: wire.HalfClose) -> None:
        loan = peer.client.loans.get(message.number)
        relay = None if loan is None else self._relays.get(loan)
        if relay is not None:
            relay.half_close()

    def _ping(self, peer: Peer, message: wire.Ping) -> None:
        pass

    def _ask(self, peer: Peer, message: wire.Ask) -> None:
        if peer.client.pool is None:
            self._drop((peer.client, "a question before the greeting"))
            return
        stats = peer.client.pool.manager.manager.stats()
        values = {field.name: getattr(stats, field.name) for field in fields(stats) if field.name != "keys"}
        plain = {name: value if isinstance(value, int) else dict(value) for name, value in values.items()}
        peer.channel.post(wire.packed(wire.Numbers(message.number, plain)))

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
        if not desk.out and not self._relays:
            self._empty.set()

    def _ring(self) -> None:
        self._armed = NEVER
        self.desk.tick(self.now())
        self.act()

    def _enter(self, loan: Loan) -> None:
        lender: Lender = loan.pool.manager
        try:
            conn = lender.enter(loan)
        except Exception as exc:  # a wrong argument too: it is the borrower's
            self.desk.failed(loan, exc)
            return
        if conn is not None:
            self.desk.served(loan, conn, self.now())
            return
        self.desk.waits(loan)
        self.reactor.spawn(partial(self._wait, loan, loan.request), _nothing, "keepalive loan")

    async def _wait(self, loan: Loan, request: Any) -> None:
        try:
            conn = await request
        except KeepaliveError as exc:
            self.desk.failed(loan, exc)
        else:
            self.desk.served(loan, conn, self.now())
        self.act()

    def _withdraw(self, loan: Loan) -> None:
        if loan.request is not None:
            loan.request.cancel()

    def _lend(self, loan: Loan) -> None:
        conn, channel = loan.conn, loan.client.peer.channel
        if loan.stage is not Stage.OUT or channel.closed:
            return
        lender: Lender = loan.pool.manager
        sock = lender.opened_socket(conn)
        loan.sock = sock
        sealed = None
        if sock is None:
            try:
                self._relays[loan] = relay = Relay(
                    self.reactor, conn, partial(self._over, loan), partial(self._relay_ended, loan)
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
            sock.family,
            sealed,
        )
        channel.post(wire.packed(message), sock.fileno(), partial(self._sent, loan))

    def _sent(self, loan: Loan, exc: OSError | None) -> None:
        relay = self._relays.get(loan)
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
        relay = self._relays.get(loan)
        if relay is not None:
            relay.release(loan.keep_for)
        else:
            loan.conn.release(loan.keep_for)

    def _end(self, loan: Loan) -> None:
        relay = self._relays.get(loan)
        if relay is not None:
            relay.discard()
        else:
            channel = loan.client.peer.channel
            if loan.sock is not None and channel.outbox:
                channel.withdraw(loan.sock.fileno())
            hang_up(loan.conn, loan.sock)

    def _cut(self, loan: Loan) -> None:
        logger.warning("%r has been silent: its connection to %s is cut", loan.client.peer, loan.key)
        self._end(loan)
        self._post(loan, wire.Cut(loan.number))

    def _recall(self, loan: Loan) -> None:
        self._post(loan, wire.Recall(loan.number))

    def _over(self, loan: Loan, clean: bool) -> None:
        if loan.stage is Stage.OUT:
            self._post(loan, wire.Over(loan.number, clean))

    def _relay_ended(self, loan: Loan) -> None:
        self._relays.pop(loan, None)
        self.act()


def _nothing() -> None:
    pass
