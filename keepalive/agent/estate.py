"""What an agent takes over from the one whose place it takes; see `handover`."""

from __future__ import annotations

import socket
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from keepalive import Key
from keepalive.errors import KeepaliveError

from . import wire
from .core.desk import VERSIONS
from .core.frames import Frames
from .errors import AgentError
from .handover import PATIENCE
from .items import TAKEN, Borrowing, End, Idle, Item, Lending, Listening, Waiting, unpacked

if TYPE_CHECKING:
    from keepalive import Connection

    from .peer import Peer
    from .server import Agent

    Items = list[tuple[Lending | Waiting, Any]]


class Estate:
    """What an old agent has left.

    :ivar listeners: its listening sockets
    :ivar owns_file: their file is to be removed at the end
    :ivar idle: connections that nobody has
    :ivar borrowers: with what each has, and asks for
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.owns_file = False
        self._taken = False
        self.listeners: list[socket.socket] = []
        self.idle: list[tuple[Idle, socket.socket]] = []
        self.borrowers: list[tuple[Borrowing, socket.socket, Items]] = []

    def add(self, item: Item, sock: socket.socket | None) -> None:
        """Take one item."""
        if isinstance(item, Waiting):
            self.borrowers[-1][2].append((item, None))
            return
        if sock is None:
            msg = "a descriptor has not come: this process may not have so many files open"
            raise AgentError(msg)
        if isinstance(item, Listening):
            self.listeners.append(sock)
            self.owns_file = item.owns_file
        elif isinstance(item, Idle):
            self.idle.append((item, sock))
        elif isinstance(item, Borrowing):
            self.borrowers.append((item, sock, []))
        elif isinstance(item, Lending):
            self.borrowers[-1][2].append((item, sock))

    def schemes(self) -> frozenset[str]:
        """Return the schemes of the connections."""
        keys = [idle.key for idle, _ in self.idle]
        keys += [item.key for *_, items in self.borrowers for item, _ in items if isinstance(item, Lending)]
        return frozenset(key[0] for key in keys)

    def close(self) -> None:
        """Leave everything to the old agent, unless it was taken: close the copies that have come."""
        if self._taken:
            return
        self._line.close()
        for sock in self.listeners:
            sock.close()
        for _, sock in self.idle:
            sock.close()
        for _, sock, items in self.borrowers:
            sock.close()
            for _, lent in items:
                if lent is not None:
                    lent.close()

    def taken(self) -> None:
        """Tell the old agent that nothing of it is its own any more."""
        with self._line:
            self._line.sendall(TAKEN)
        self._taken = True


def inherit(path: str) -> Estate:
    """Ask the agent at a path for all it has. A plain function that blocks.

    :raises AgentError: there is none, or it refuses
    """
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(PATIENCE)
    estate = Estate(line)
    try:
        line.connect("\0" + path[1:] if path.startswith("@") else path)
        line.sendall(wire.packed(wire.Succeed(list(VERSIONS))))
        _receive_all(line, estate)
    except OSError as exc:
        estate.close()
        msg = f"nothing could be taken over from the agent at {path}: {exc}"
        raise AgentError(msg) from exc
    except BaseException:
        estate.close()
        raise
    return estate


def _receive_all(line: socket.socket, estate: Estate) -> None:
    frames = Frames(wire.MOST_ANSWERED)
    numbers: deque[int] = deque()
    try:
        while True:
            data, arrived, _, _ = socket.recv_fds(line, 65536, 64)
            numbers.extend(arrived)
            if not data:
                msg = "it has closed the line"
                raise AgentError(msg)
            for raw in frames.feed(data):
                try:
                    item = unpacked(raw)
                except wire.BadMessage:
                    refusal = wire.of_agent(raw)
                    msg = f"the agent refuses: {getattr(refusal, 'text', refusal)}"
                    raise AgentError(msg) from None
                if isinstance(item, End):
                    return
                bare = isinstance(item, Waiting) or not numbers
                estate.add(item, None if bare else socket.socket(fileno=numbers.popleft()))
    finally:
        for number in numbers:
            socket.close(number)


async def settle(agent: Agent, estate: Estate) -> None:
    """Let an agent that was just entered go on where the old one has stopped. Switches tasks.

    :raises AgentError: something of it cannot be taken, for want of descriptors or room
    """
    conns: dict[socket.socket, Connection] = {}
    try:
        for borrower, _, items in estate.borrowers:  # before what is idle: there is room for all that is lent
            for item, sock in items:
                if isinstance(item, Lending):
                    await _adopt(agent, agent.where(borrower.pool, borrower.user), item, sock, conns)
        for idle, sock in estate.idle:
            await _adopt(agent, agent.where(idle.pool, idle.user or 0), idle, sock, conns)
    except KeepaliveError as exc:
        msg = f"a connection could not be taken over: {exc}"
        raise AgentError(msg) from exc
    for _, sock in estate.idle:
        if sock in conns:
            conns[sock].release()
    waiting: list[tuple[float, Peer, wire.Allocate]] = []
    for borrower, sock, items in estate.borrowers:
        peer = _introduce(agent, borrower, sock)
        if peer is not None:
            waiting += _lend_again(agent, peer, items, conns)
    for waited, peer, terms in sorted(waiting, key=itemgetter(0), reverse=True):
        agent.ask_again(peer, terms, waited)
    estate.taken()
    agent.teller.act()


async def _adopt(
    agent: Agent,
    where: tuple[str, int | None] | None,
    item: Lending | Idle,
    sock: socket.socket,
    conns: dict[socket.socket, Connection],
) -> None:
    if where is None:
        sock.close()  # the configuration has changed; the borrower still has his own copy
    else:
        sock.setblocking(False)
        conns[sock] = await agent.lender(*where).adopt(Key(*item.key), sock)


def _introduce(agent: Agent, borrower: Borrowing, sock: socket.socket) -> Peer | None:
    """Take a borrower in, if the configuration still has something for him."""
    where = agent.where(borrower.pool, borrower.user)
    if where is None and borrower.pool is not None:
        sock.close()
        return None
    sock.setblocking(False)
    peer = agent.join(sock, (borrower.pid, borrower.user, borrower.group), borrower.rest)
    if where is not None:
        peer.greeted = True
        peer.client.last = borrower.last
        pool = agent.lender(*where).pool
        agent.desk.introduce(peer.client, pool, sticky=borrower.sticky, patience=borrower.patience)
    return peer


def _lend_again(
    agent: Agent,
    peer: Peer,
    items: Items,
    conns: dict[socket.socket, Connection],
) -> list[tuple[float, Peer, wire.Allocate]]:
    """Enter a borrower's loans; return those of its requests that wait."""
    waiting = []
    for item, lent in items:
        if isinstance(item, Waiting):
            waiting.append((item.waited, peer, item.terms))
        elif lent in conns:
            key = Key(*item.key)
            loan = agent.desk.adopt(
                peer.client, item.number, key, conns[lent], recalled=item.recalled, now=agent.now()
            )
            loan.sock, loan.token = lent, item.token
            if item.token:
                agent.teller.follow(loan)
    return waiting
