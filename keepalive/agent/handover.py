"""A new agent takes an old one's place: listeners, borrowers, loans and idle connections move over.

The old agent does nothing else meanwhile, so that nothing changes under the move. Until the new one says that
it has taken all, everything is still the old one's. Borrowers notice nothing: their lines move too.

TLS cannot move, for its state is in a process. What is lent of it stays with the old agent, which lives on
until it has come back; in the new one a socket pair (the token) stands for each such connection, so that it
counts.
"""

from __future__ import annotations

import array
import errno
import socket
import time
from typing import TYPE_CHECKING

from .core.records import Stage
from .items import TAKEN, Borrowing, End, Idle, Item, Lending, Listening, Waiting, packed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive import Connection

    from .core.records import Loan
    from .lender import Lender
    from .peer import Peer
    from .server import Agent

PATIENCE = 10.0
"""Seconds for the other side."""


def surrender(agent: Agent, heir: Peer, *, owns_file: bool) -> bool:
    """Give everything to the agent at the other end; False if it was lost before it had taken all.

    A plain function that blocks: nothing else may happen.
    """
    sock = heir.channel.sock.dup()
    sock.settimeout(PATIENCE)
    borrowed = list(_idle(agent))
    tokens: list[tuple[Loan, socket.socket, socket.socket]] = []
    try:
        for listener in agent.listeners:
            _send(sock, Listening(owns_file), listener.sock)
        for lender, user, conn, found in borrowed:
            _send(sock, Idle(lender.pool.policy.name, user, conn.key), found)
        for peer in agent.peers - {heir}:
            _send_borrower(sock, agent, peer, tokens)
        _send(sock, End(), None)
        if sock.recv(len(TAKEN), socket.MSG_WAITALL) != TAKEN:
            raise ConnectionAbortedError
    except OSError:
        for _, mine, _ in tokens:
            mine.close()
        for _, _, conn, _ in borrowed:
            conn.release()
        return False
    finally:
        sock.close()
        for _, _, theirs in tokens:
            theirs.close()
    agent.forget_all()
    for _, _, conn, _ in borrowed:
        conn.discard()
    for loan, mine, _ in tokens:
        mine.setblocking(False)
        agent.teller.obey(loan, mine)
    return True


def _idle(agent: Agent) -> Iterable[tuple[Lender, int | None, Connection, socket.socket]]:
    """Take all idle connections that can move. Those under TLS are closed: the new agent makes its own."""
    for (_, user), lender in agent.lenders.items():
        for key, stats in lender.manager.stats().keys.items():
            for _ in range(stats.idle):
                conn = lender.idle_one(key)
                if conn is None:
                    break
                found = lender.opened_socket(conn)
                if found is None:
                    conn.discard()
                else:
                    yield lender, user, conn, found[0]


def _send_borrower(
    sock: socket.socket, agent: Agent, peer: Peer, tokens: list[tuple[Loan, socket.socket, socket.socket]]
) -> None:
    client, channel = peer.client, peer.channel
    if channel.outbox:
        return  # it does not read; it will find that its agent has gone
    item = Borrowing(
        peer.pid,
        peer.user,
        peer.group,
        None if client.pool is None else client.pool.policy.name,
        client.sticky,
        client.patience,
        client.last,
        channel.unparsed,
    )
    _send(sock, item, channel.sock)
    for loan in client.loans.values():
        if loan.stage is not Stage.OUT:
            _send(sock, Waiting(loan.terms, agent.now() - loan.since), None)
        elif loan.sock is None:
            mine, theirs = socket.socketpair()
            tokens.append((loan, mine, theirs))
            _send(sock, Lending(loan.number, loan.key, loan.recalled, True), theirs)
        else:
            _send(sock, Lending(loan.number, loan.key, loan.recalled, loan.token), loan.sock)


def _send(sock: socket.socket, item: Item, carried: socket.socket | None) -> None:
    rights = []
    if carried is not None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (carried.fileno(),)))]
    data = packed(item)
    sent, deadline = 0, time.monotonic() + PATIENCE
    while not sent:
        try:
            sent = sock.sendmsg((data,), rights)
        except OSError as exc:
            if exc.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                raise  # else the new one has not taken enough of them yet
            time.sleep(0.001)
    if sent < len(data):
        sock.sendall(data[sent:])
