"""A TLS connection at work for a borrower in another process: what TLS protects stays in the agent.

The borrower has one end of a socket pair; two tasks carry bytes between the other end and the connection, one
buffer at a time, so that who reads slowly is felt by who sends.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from keepalive.transport.link import Link
from keepalive.transport.stream import LinkStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive import Connection
    from keepalive.transport.reactor import Reactor

PATIENCE = 1.0
"""Seconds for the end of what a borrower has sent to come through after its release."""
_LOST = (BrokenResourceError, ClosedResourceError)


class Relay:
    """Two pumps.

    :param over: told when the peer's bytes end: whether they did so cleanly
    :param ended: told when all is over and the connection given back or closed
    :ivar token: where the borrower's agent is another one by now
    :ivar theirs: the borrower's end, to be closed when it has been sent
    :raises OSError: there is no descriptor for it
    """

    def __init__(
        self,
        reactor: Reactor,
        conn: Connection,
        over: Callable[[bool], None],
        ended: Callable[[], None],
    ) -> None:
        near, self.theirs = socket.socketpair()
        near.setblocking(False)
        self._link = Link(near, reactor.poller)
        self._near = LinkStream.over(self._link)
        self._conn = conn
        self.token: socket.socket | None = None
        self._over = over
        self._heard_all = anyio.Event()
        self._returned = anyio.Event()
        self._half_closed = False
        self._clean = True
        self._keep_for: float | None = None
        reactor.spawn(self._run, ended, "keepalive relay")

    def sent(self) -> None:
        """Close the agent's copy of the borrower's end: the borrower has its own, or never will."""
        self.theirs.close()

    def half_close(self) -> None:
        """Pass the end on that comes behind the borrower's last byte."""
        self._half_closed = True
        self._returned.set()

    def release(self, keep_for: float | None) -> None:
        """Give the connection back when all that the borrower had sent has gone out."""
        self._keep_for = keep_for
        self._half_closed = False
        self._returned.set()

    def discard(self) -> None:
        """Close both sides now."""
        self._clean = False
        self._conn.discard()
        self._link.close()
        self._returned.set()

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._down)
                await self._up()
                await self._returned.wait()
                if self._half_closed:
                    self._returned = anyio.Event()
                    await self._pass_end_on()
                    await self._returned.wait()
                    self._clean = False
                with anyio.move_on_after(PATIENCE):
                    await self._heard_all.wait()
                group.cancel_scope.cancel()
        finally:
            self._settle()

    async def _up(self) -> None:
        """Carry what the borrower sends."""
        try:
            while True:
                data = await self._near.receive()
                await self._conn.send(data)
        except EndOfStream:
            pass
        except _LOST:
            # The borrower has left bytes unread, or the connection is broken: `_down` tells of that.
            self._clean = False
        self._heard_all.set()

    async def _down(self) -> None:
        """Carry what the peer sends."""
        clean = False
        try:
            while True:
                data = await self._conn.receive()
                whole, self._clean = self._clean, False  # until the borrower's side has all of it
                await self._near.send(data)
                self._clean = whole
        except EndOfStream:
            clean = True
        except _LOST:
            self._clean = False
        self._over(clean)
        try:
            await self._near.send_eof()
        except _LOST:
            pass

    async def _pass_end_on(self) -> None:
        try:
            await self._conn.send_eof()
        except _LOST:
            self._clean = False

    def _settle(self) -> None:
        self.theirs.close()
        self._link.close()
        if self._clean and self._heard_all.is_set():
            self._conn.release(self._keep_for)
        else:
            self._conn.discard()
