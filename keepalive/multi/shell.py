"""The I/O of a client: sockets, names, connectors, the loop's timer. It decides nothing; see `_desk`."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from contextlib import suppress
from functools import lru_cache
from threading import get_ident
from typing import TYPE_CHECKING, Any

import anyio
from anyio import BrokenResourceError, EndOfStream

from keepalive.base.addresses import family_of, is_literal, target_of
from keepalive.base.failure import DialFailure
from keepalive.base.text import fit
from keepalive.base.types import Key, Phase
from keepalive.connect.descriptors import ran_out
from keepalive.connect.dial import Dial
from keepalive.connect.sockets import Net
from keepalive.connect.tcp import TCPConnector
from keepalive.pool.records import KeyState, Slot
from keepalive.resolve.service import LOOPBACK, Names
from keepalive.transport import fork as _fork
from keepalive.transport.link import Link
from keepalive.transport.poller import new_poller
from keepalive.transport.sessions import Sessions
from keepalive.transport.tasks import Lull

from .bells import Bell, Borrowed, Knock, Question, bind_local, other_family
from .desk import Desk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.connect.connector import Connector
    from keepalive.resolve.resolver import Resolver
    from keepalive.transport.runtime import Cancellable, Runtime

    from .peer import Peer
    from .types import Callbacks, Limits

logger = logging.getLogger("keepalive")

_KIND = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)
_UNDER_WAY = (0, errno.EINPROGRESS)
ROUNDS = 16
"""So often the kernel is asked for events in one turn of the loop, as long as there are some."""
# Below this no system takes the local port of an outgoing connection by itself.
_FIRST_EPHEMERAL = 1024

_RACE = TCPConnector()

literal = lru_cache(4096)(is_literal)


class Shell:
    """All that lives between a client's entry and its end."""

    def __init__(
        self,
        runtime: Runtime,
        resolver: Resolver,
        connectors: Mapping[str, Connector],
        callbacks: Callbacks,
        limits: Limits,
    ) -> None:
        self.clock = runtime.clock
        self.park = runtime.park
        self.thread = runtime.thread
        self.running = runtime.running
        self.desk = Desk(callbacks, limits, self, runtime.clock)
        self.poller = new_poller(runtime, self._unread, ROUNDS)
        self.harvests = 0
        self.poller.poll = self._counted(self.poller.poll)
        self.forked = False
        self._runtime = runtime
        self._names = Names(resolver, runtime, self._task_ended)
        self._connectors = connectors
        self._direct = None if "tcp" in connectors else "tcp"  # what needs no connector
        self._sessions = Sessions()
        self._timer = runtime.timer(self._ring)
        # What an attempt is doing: its socket, its question for a name, or its connector's task.
        self._opening: dict[Peer, Link | Question | Cancellable] = {}
        self._others: dict[Peer, tuple[deque[str], DialFailure | None]] = {}  # addresses to try yet
        self._questions: dict[str, Question] = {}
        self._leaving: set[Peer] = set()  # their connectors' tasks were told to end
        self._warned = False  # of a shortage of descriptors
        self._tasks = 0
        self._lull = Lull(lambda: self._tasks or self._names.tasks)
        _fork.watch(self)

    def _counted(self, poll: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
        def counted() -> list[Any]:
            self.harvests += 1
            return poll()

        return counted

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""
        if (get_ident() != self.thread or not self.running()) and not self.forked:
            msg = "a MultiClient and its peers belong to the event loop it was entered in"
            raise RuntimeError(msg)

    # -- what the desk wants ------------------------------------------------------------------------

    def open(self, peer: Peer) -> bool:
        """Start an attempt; see `Hands`."""
        try:
            if peer.scheme == self._direct and literal(peer.addr):
                return self._knock(peer, peer.addr, in_command=True)
            return self._open_otherwise(peer)
        except Exception as exc:  # the loop is at its end, for example
            logger.exception("opening %r", peer)
            self.desk.fail_later(peer, Phase.CONNECT, 0, fit(str(exc)))
            return True

    def _open_otherwise(self, peer: Peer) -> bool:
        connector = self._connectors.get(peer.scheme)
        if connector is not None:
            self._ask_connector(peer, connector)
            return True
        bare = peer.addr.lower().removesuffix(".")
        if bare == "localhost" or bare.endswith(".localhost"):
            return self._try_all(peer, LOOPBACK, in_command=True)  # RFC 6761 6.3
        self._ask_name(peer, peer.addr.lower())
        return True

    def shut(self, peer: Peer) -> bool:
        """End an attempt or a connection; see `Hands`."""
        link: Any = peer._link
        if link is None:
            self._others.pop(peer, None)
            link = self._opening.pop(peer, None)
            if isinstance(link, Question):
                link.peers.pop(peer, None)
                if not link.peers and link.task is not None:
                    link.task.cancel()
                return True
            if link is not None and not isinstance(link, Link):
                self._leaving.add(peer)
                link.cancel()
                return False
        if link is not None:
            try:
                link.close()
            except Exception:
                logger.exception("closing %r", peer)
        return True

    def want_room(self, peer: Peer) -> None:
        """Watch for room to send; see `Hands`."""
        link: Any = peer._link
        if link.writer is None:
            link.writer = Bell(self, peer, link)

    def hurry(self, peer: Peer) -> None:
        """Send small pieces at once; see `Hands`."""
        link: Any = peer._link
        if link.sock.family != socket.AF_UNIX:
            try:
                link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                pass  # it is broken, as the next attempt to send or receive will tell

    def soon(self) -> None:
        """Have `Desk.catch_up` called; see `Hands`."""
        if not self.forked:
            self._runtime.call_soon_threadsafe(self._catch_up)

    def wake_at(self, when: float) -> None:
        """Set the timer; see `Hands`."""
        self._timer.move(max(0.0, when - self.clock()))

    def report(self, name: str, peer: Peer, exc: BaseException) -> None:
        """Log what a callback, or a filter, raised."""
        logger.error("%s of %r raised", name, peer, exc_info=exc)

    # -- what the loop tells ------------------------------------------------------------------------

    def _catch_up(self) -> None:
        if not self.forked:
            self.desk.catch_up()

    def _ring(self) -> None:
        if not self.forked:
            self.poller.harvest()  # what has come in time counts, however late this timer is
            self.desk.tick(self.clock())

    def _unread(self, link: Link) -> None:
        peer: Any = link.slot
        if peer is not None and peer._link is not None:
            self.desk.readable(peer)

    # -- attempts -----------------------------------------------------------------------------------

    def _knock(self, peer: Peer, address: str, *, in_command: bool = False) -> bool:
        """Start connecting to one address; False if there is no descriptor for it."""
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, _KIND)
        except OSError as exc:
            if ran_out(exc):
                self._others.pop(peer, None)
                self._warn()
                return False
            failure = DialFailure("socket", exc.errno, os.strerror(exc.errno or 0))
            return self._refused(peer, failure, in_command)
        try:
            if not _KIND & ~socket.SOCK_STREAM:
                sock.setblocking(False)
            if peer.bind_address is not None:
                bind_local(sock, peer.bind_address)
            number = sock.connect_ex(
                (address, peer.port) if ":" not in address else target_of(address, peer.port)
            )
            if number not in _UNDER_WAY:
                raise OSError(number, os.strerror(number))
            link = Link(sock, self.poller)
        except (OSError, DialFailure) as exc:
            sock.close()
            failure = exc if isinstance(exc, DialFailure) else _of_connect(exc)
            return self._refused(peer, failure, in_command)
        link.slot = peer
        link.writer = Knock(self, peer, link, address)
        self._opening[peer] = link
        return True

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            text = "no free descriptor with %d places taken; further peers wait (see ulimit -n)"
            logger.warning(text, self.desk.holding)

    def answered(self, peer: Peer, link: Link, address: str) -> None:
        """Find out what has become of an attempt."""
        if self._opening.get(peer) is not link:
            return
        number = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if link.hung else 0
        if (
            not number
            and peer.port >= _FIRST_EPHEMERAL
            and (name := link.sock.getsockname())[1] == peer.port
            and name == link.sock.getpeername()
        ):
            number = errno.ECONNREFUSED  # TCP's simultaneous open with itself: nobody listens there
        del self._opening[peer]
        if number:
            link.close()
            if not self._refused(peer, _of_connect(OSError(number, os.strerror(number)))):
                self.desk.no_room(peer)
            return
        if self._others:
            self._others.pop(peer, None)
        peer.address = address
        self.desk.connected(peer, link)

    def _try_all(self, peer: Peer, addresses: tuple[str, ...], *, in_command: bool = False) -> bool:
        """Connect to one of several addresses; to those of localhost, which answer at once, in turn."""
        bound = peer.bind_address
        if bound is not None:
            addresses = tuple(found for found in addresses if family_of(found) in bound)
            if not addresses:
                return self._refused(peer, other_family(bound), in_command)
        if len(addresses) > 1:
            if not in_command:  # some may be silent: they are raced (RFC 8305), and that takes a task
                self._ask_connector(peer, _RACE)
                return True
            self._others[peer] = deque(addresses[1:]), None
        return self._knock(peer, addresses[0], in_command=in_command)

    def _refused(self, peer: Peer, failure: DialFailure, in_command: bool = False) -> bool:
        """Try the next address; when there is none, the first failure is told."""
        others = self._others.pop(peer, None)
        if others is not None:
            addresses, first = others
            failure = first or failure
            if addresses:
                address = addresses.popleft()
                self._others[peer] = addresses, failure
                return self._knock(peer, address, in_command=in_command)
        tell = self.desk.fail_later if in_command else self.desk.failed
        tell(peer, failure.phase, failure.number or 0, failure.text)
        return True

    # -- names --------------------------------------------------------------------------------------

    def _ask_name(self, peer: Peer, name: str) -> None:
        question = self._questions.get(name)
        if question is None:
            question = self._questions[name] = Question()
            self._ask(name, question)
        question.peers[peer] = None
        self._opening[peer] = question

    def _ask(self, name: str, question: Question) -> None:
        async def ask() -> None:
            try:
                question.answer = await self._names.resolve(name)
            except DialFailure as exc:
                question.answer = exc

        def done() -> None:
            if self._questions.get(name) is question:
                del self._questions[name]
            self._task_gone()
            answer = question.answer or DialFailure(Phase.RESOLVE, None, "the look-up was cancelled")
            for peer in list(question.peers):
                if self._opening.pop(peer, None) is not question:
                    continue
                if isinstance(answer, tuple):
                    if not self._try_all(peer, answer):
                        self.desk.no_room(peer)
                elif ran_out(answer):
                    self._warn()
                    self.desk.no_room(peer)
                else:
                    self.desk.failed(peer, answer.phase, answer.number or 0, answer.text)

        try:
            question.task = self._runtime.spawn(ask, done, f"keepalive look-up of {name}")
        except BaseException:
            del self._questions[name]
            raise
        self._tasks += 1

    # -- connectors ---------------------------------------------------------------------------------

    def _ask_connector(self, peer: Peer, connector: Connector) -> None:
        """Have a connector open the connection, in a task."""
        near = peer.scheme, peer.addr, peer.port
        key = Key(*near, *(peer._behind or near))
        slot = Slot(peer.id, KeyState(key))
        net = Net(self.poller, self.clock, peer.bind_address)
        dial = Dial(slot, net, Borrowed(self.desk), self._names, lambda *_: None, None, self._sessions)

        short = False

        async def attempt() -> None:
            nonlocal short
            try:
                link = await connector.connect(dial)
                _check_link(link)
                dial.keep(link)
            except Exception as exc:
                short = self._dial_failed(peer, dial, exc)
            else:
                self._dialled(peer, link)
            finally:
                dial.close()

        def done() -> None:
            self._task_gone()
            if peer in self._leaving:
                self._leaving.discard(peer)
                self.desk.freed()
            elif self._opening.pop(peer, None) is None:
                pass
            elif short:  # told only now that all of the attempt is closed
                self._warn()
                self.desk.no_room(peer)
            else:  # ended from outside
                self.desk.failed(peer, dial.phase, errno.ECANCELED, os.strerror(errno.ECANCELED))

        self._opening[peer] = self._runtime.spawn(attempt, done, f"keepalive attempt {peer.id}")
        self._tasks += 1

    def _dial_failed(self, peer: Peer, dial: Dial, exc: Exception) -> bool:
        """Tell the failure of an attempt, unless it is a lack of descriptors; return whether it is."""
        failure = dial.failure(exc)
        if not isinstance(exc, (OSError, DialFailure, BrokenResourceError, EndOfStream)):
            logger.error("the connector for %r raised", peer, exc_info=exc)
        dial.close()
        if ran_out(failure):
            return True
        if self._opening.pop(peer, None) is not None:
            self.desk.failed(peer, failure.phase, failure.number or 0, failure.text)
        return False

    def _dialled(self, peer: Peer, link: Link) -> None:
        if self._opening.pop(peer, None) is None:
            link.close()  # given up in the last moment
            return
        link.slot = peer
        if link.sock.family != socket.AF_UNIX:
            with suppress(OSError):  # it is broken already
                peer.address = link.sock.getpeername()[0]
        self.desk.connected(peer, link)
        self.desk.readable(peer)  # what came with the handshake raises no event any more

    def _task_gone(self) -> None:
        self._tasks -= 1
        self._task_ended()

    def _task_ended(self) -> None:
        self._lull.look()

    # -- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End everything, and wait for the tasks that were told to end."""
        try:
            self.desk.die()
            self.desk.catch_up()
            self._names.close()
            await self._lull.wait()
        finally:
            for link in list(self.poller.links.values()):
                link.close()
            self._timer.cancel()
            self.poller.close()
            self._sessions.forget()
            _fork.forget(self)
        with anyio.CancelScope(shield=True):
            await self._runtime.aclose()

    def abandon(self) -> None:
        """Empty this copy after a fork: the parent's connections, queue and event loop stay untouched."""
        self.forked = True
        self.thread = 0  # no thread is at home here
        self.poller.abandon()
        self.desk.abandon()


def _check_link(link: object) -> None:
    if not isinstance(link, Link):
        msg = f"the connector returned {link!r}, which is not a Link"
        raise TypeError(msg)


def _of_connect(exc: OSError) -> DialFailure:
    return DialFailure(Phase.CONNECT, exc.errno, exc.strerror or str(exc))
