"""The agent: it owns connections and lends them to other processes."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from keepalive.base.types import Key
from keepalive.transport.listener import Listener
from keepalive.transport.loops import current_runtime
from keepalive.transport.reactor import Reactor

from . import wire
from .channel import Channel
from .core.desk import VERSIONS, Desk, common_version
from .core.frames import TooLong
from .core.policy import policy_for
from .core.records import Stage
from .lender import Lender
from .peer import Peer, credentials, groups_of
from .teller import Teller

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from keepalive.transport.link import Link

    from .config import Config

logger = logging.getLogger("keepalive")

MOST_STRANGERS = 1024
"""So many may be connected who have not greeted; one more, and the first is dropped if he has had time to."""
SHY = 5.0
"""Seconds for that."""
SHORT_PAUSE = 0.1
"""Seconds until it is tried again to accept, where descriptors are short."""
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Agent:
    """Serves borrowers on listening Unix sockets, from its entry to its end.

    :param config: who may do what
    :param listeners: listening Unix stream sockets; they become the agent's
    :param inherited: the schemes of what is to be taken over from another agent
    :ivar desk: what decides
    :ivar peers: those who are connected
    :ivar lenders: the pools, by name and user; None stands for all users of one that is shared
    """

    def __init__(
        self, config: Config, listeners: Sequence[socket.socket], inherited: frozenset[str] = frozenset()
    ) -> None:
        self.config = config
        self.desk = Desk()
        self.peers: set[Peer] = set()
        self._strangers: dict[Peer, None] = {}
        self.lenders: dict[tuple[str, int | None], Lender] = {}
        self._inherited = inherited
        self.on_succeed: Callable[[Peer], None] | None = None
        self.listeners: list[Listener] = []
        self._sockets = list(listeners)
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

    # -- its life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start. Does not switch tasks."""
        self.reactor = Reactor(current_runtime(), self._unread, self.peers.clear)
        self.now = self.reactor.clock
        self.teller = Teller(self.reactor, self.desk, self._gone)
        self._again = self.reactor.timer(self._accept)
        for sock in self._sockets:
            sock.setblocking(False)
            self.listeners.append(Listener(sock, self.reactor.poller))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End everything: what is still lent is cut."""
        self.stop_listening()
        for peer in tuple(self.peers):
            self._gone(peer)
        self.teller.act()
        with anyio.CancelScope(shield=True):
            for lender in self.lenders.values():
                lender.manager.shutdown()
            for relay in tuple(self.teller.relays.values()):
                relay.discard()
            await self.reactor.wait_for_tasks()
            for lender in self.lenders.values():
                await lender.manager.__aexit__(None, None, None)
            self.teller.close()
            self._again.cancel()
            await self.reactor.aclose()

    def stop_listening(self) -> None:
        """Accept nobody any more."""
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()

    async def drain(self, seconds: float) -> None:
        """Lend nothing more, tell everybody so, and wait for what is lent, for so many seconds at most."""
        self.desk.draining = True
        self.stop_listening()
        for peer in self.peers:
            peer.channel.post(wire.packed(wire.Leaving()))
        for lender in self.lenders.values():
            lender.manager.shutdown()
        with anyio.move_on_after(seconds):
            await self.teller.until_returned()

    def reload(self, config: Config) -> None:
        """Go by another configuration from now on; who may borrow no more keeps what he has.

        TLS settings and the limits that `ConnectionManager.set_limits` cannot change hold for new pools only.
        """
        self.config = config
        groups_of.cache_clear()
        policies = {policy.name: policy for policy in config.policies}
        for (name, user), lender in tuple(self.lenders.items()):
            policy = policies.get(name)
            if policy is not None:
                lender.adjust(policy, config)
                continue
            lender.pool.go_by(lender.pool.policy.closed())
            lender.manager.shutdown()
            del self.lenders[name, user]
            self.reactor.spawn(partial(_close_when_returned, lender), lambda: None, "keepalive pool")

    # -- clients --------------------------------------------------------------------------------------

    def _unread(self, link: Link) -> None:
        if isinstance(link, Channel):
            self._read(link.slot)
        elif isinstance(link, Listener):
            self._accept()

    def _accept(self) -> None:
        for listener in self.listeners:
            try:
                while (accepted := listener.try_accept()) is not None:
                    self._greet(accepted[0])
            except OSError as exc:
                short = exc.errno in _SHORT
                self._again.move(SHORT_PAUSE if short else 0)
                if short:
                    self._make_room()

    def _make_room(self) -> None:
        """Drop the first half of those who have not greeted, for the sake of their descriptors."""
        for peer in list(self._strangers)[: len(self._strangers) // 2 + 1]:
            self._read(peer)  # it may have, and was not heard yet
            if peer in self._strangers:
                self._gone(peer)

    def _greet(self, sock: socket.socket) -> None:
        """Take in who has just connected. Of those who say nothing for long only the last ones stay."""
        try:
            peer = self.join(sock, credentials(sock))
        except OSError:
            sock.close()
            raise
        self._strangers[peer] = None
        if len(self._strangers) > MOST_STRANGERS:
            first = next(iter(self._strangers))
            if self.now() - first.client.heard > SHY:
                self._gone(first)

    def join(self, sock: socket.socket, who: tuple[int, int, int], rest: bytes = b"") -> Peer:
        """Take a connected process in."""
        channel = Channel(sock, self.reactor.poller, wire.MOST_ASKED, rest)
        peer = channel.slot = Peer(channel, who, self.now())
        self.peers.add(peer)
        return peer

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
        except (TooLong, *wire.BadMessage) as exc:
            self.teller.drop((client, str(exc)))
        self.teller.act()
        if channel.readable and not channel.closed:  # others have their turn first
            self.reactor.call_soon_threadsafe(partial(self._read_on, peer))

    def _read_on(self, peer: Peer) -> None:
        if not peer.client.gone:
            self._read(peer)

    def _gone(self, peer: Peer) -> None:
        if not peer.client.gone:
            peer.channel.close()
            self.peers.discard(peer)
            self._strangers.pop(peer, None)
            self.desk.leave(peer.client)

    # -- what they say --------------------------------------------------------------------------------

    def _hello(self, peer: Peer, message: wire.Hello) -> None:
        version = common_version(message.versions)
        if peer.greeted or version is None:
            said = "it has greeted before" if peer.greeted else f"this agent speaks versions {VERSIONS}"
            self.teller.drop((peer.client, said))
            return
        policy = policy_for(self.config.policies, peer.user, groups_of(peer.user, peer.group))
        if policy is None:
            self.teller.drop((peer.client, f"the configuration has nothing for user {peer.user}"))
            return
        peer.greeted = True
        self._strangers.pop(peer, None)
        lender = self.lender(policy.name, None if policy.shared else peer.user)
        self.desk.introduce(peer.client, lender.pool, sticky=message.sticky, patience=message.patience)
        peer.channel.post(wire.packed(wire.Welcome(version, peer.client.patience, policy.name)))

    def lender(self, name: str, user: int | None) -> Lender:
        """Return the pool of that name, for all users or for one. There must be a policy of that name."""
        lender = self.lenders.get((name, user))
        if lender is None:
            policy = next(policy for policy in self.config.policies if policy.name == name)
            lender = self.lenders[name, user] = Lender(policy, self.config, self.desk, self._inherited)
        return lender

    def _be_succeeded(self, peer: Peer, message: wire.Succeed) -> None:
        known = common_version(message.versions) is not None
        if self.on_succeed is None or peer.user not in (0, os.geteuid()) or not known:
            self.teller.drop((peer.client, "it may not take this agent's place"))
        else:
            self.teller.uncork()
            self.on_succeed(peer)

    def _allocate(self, peer: Peer, message: wire.Allocate, *, again: bool = False) -> None:
        loan = self.desk.ask(peer.client, message.number, Key(*message.key), message, again=again)
        if loan is not None:
            loan.since = self.now()

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
        if loan is not None and loan.stage is Stage.OUT:
            self.teller.half_close(loan)

    def _ping(self, peer: Peer, message: wire.Ping) -> None:
        """Note that it was heard; which is done for any message."""

    def _ask(self, peer: Peer, message: wire.Ask) -> None:
        if peer.client.pool is None:
            self.teller.drop((peer.client, "a question before the greeting"))
            return
        self.teller.act()  # what it has said before counts
        stats = peer.client.pool.manager.manager.stats()
        values = {field.name: getattr(stats, field.name) for field in fields(stats) if field.name != "keys"}
        plain = {name: value if isinstance(value, int) else dict(value) for name, value in values.items()}
        peer.channel.post(wire.packed(wire.Numbers(message.number, plain)))

    # -- another agent's place ------------------------------------------------------------------------

    def where(self, name: str | None, user: int) -> tuple[str, int | None] | None:
        """Say which pool somebody of another agent's belongs to here; None if there is none."""
        policy = next((policy for policy in self.config.policies if policy.name == name), None)
        return None if policy is None else (policy.name, None if policy.shared else user)

    def ask_again(self, peer: Peer, terms: wire.Allocate, waited: float) -> None:
        """Enter a request that has waited at another agent."""
        left = None if terms.timeout is None else terms.timeout - waited
        self._allocate(peer, msgspec.structs.replace(terms, timeout=left), again=True)

    def forget_all(self) -> None:
        """Give up all borrowers and plain loans: they are another agent's by now."""
        self.stop_listening()
        self.desk.draining = True
        moved = [peer for peer in self.peers if not peer.channel.outbox]
        plain = [conn for peer in moved for conn in self.teller.forget(peer.client)]
        for lender in self.lenders.values():
            lender.manager.shutdown()  # before any place comes free: nothing may be opened here for who waits
        for conn in plain:
            conn.discard()
        for peer in tuple(self.peers):
            self._gone(peer)
        self.teller.act()


async def _close_when_returned(lender: Lender) -> None:
    await lender.manager.aclose(grace=None)
