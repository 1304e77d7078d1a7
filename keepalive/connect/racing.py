"""Carries out a race: sockets for its addresses, within the places that the pool grants."""

from __future__ import annotations

import errno
import os
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import anyio

from keepalive.base.failure import DialFailure, text_of
from keepalive.base.types import Phase

from .descriptors import ran_out
from .happy_eyeballs import PATIENCE, Do, Race

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Parking

    from .attempt import ExtraSockets
    from .options import Option
    from .sockets import Connecting, Net


class Racing:
    """One race, with its sockets. All of them but the winner's are closed when it ends, however it does."""

    def __init__(
        self, net: Net, extra: ExtraSockets, port: int, options: Sequence[Option], patience: float = PATIENCE
    ) -> None:
        self._net = net
        self._extra = extra
        self._port = port
        self._options = options
        failures = net.failures
        self._race = Race(
            stagger=net.stagger,
            patience=min(patience, PATIENCE),
            suspect=lambda address: failures.suspect(address, port, net.clock()),
        )
        self._going: dict[str, Connecting] = {}
        self._borrowed = 0
        self._unreachable: DialFailure | None = None
        self._errors: dict[str, Exception] = {}
        self._parked: Parking | None = None
        self._first = ""  # the address to begin with, in the attempt's own place

    def add(self, addresses: tuple[str, ...], *, more: bool = False, early: bool = False) -> None:
        """Let addresses take part, also while the race runs; see `Race.add`."""
        try:
            addresses = self._net.reachable(addresses)
        except DialFailure as exc:
            self._unreachable = exc  # those of the other family may be
            addresses = ()
        self._race.add(addresses, self._net.clock(), more=more, early=early)
        self._wake()

    async def run(self) -> Link:
        """Run to the first connection.

        :raises OSError, DialFailure: all addresses failed
        """
        try:
            while True:
                until = self._go_on()
                if self._first:
                    address, self._first = self._first, ""
                    await self._begin(address)
                winner = self._look()
                if winner is not None:
                    return self._won(winner)
                if until is not None:
                    await self._wait(until)
        finally:
            for address in list(self._going):
                self._drop(address)

    async def run_with(self, late: AsyncIterator[tuple[str, ...]]) -> Link:
        """Run, while more addresses come in."""

        async def let_in() -> None:
            async for addresses in late:
                self.add(addresses, more=True)
            self.add(())

        link, error = None, None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(let_in)
                try:
                    link = await self.run()
                except (OSError, DialFailure) as exc:
                    error = exc  # not through the task group, which would wrap it up
                tasks.cancel_scope.cancel()
        except BaseException:
            if link is not None:
                link.close()  # cancelled while the other task ended: nobody else knows of it
            raise
        if link is None:
            assert error is not None, "it ends with one or the other"
            raise error
        return link

    def _go_on(self) -> float | None:
        """Do one thing that is due; return until when to wait if there is none."""
        now = self._net.clock()
        do, address, until = self._race.decide(now)
        if do is Do.WAIT:
            return until
        if do is Do.LOST:
            raise self._verdict()
        if do is Do.STOP:
            self._fail(address, OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
            self._drop(address)
            return None
        if do is Do.BESIDE:
            if not self._extra.take_extra(self._recall):
                self._race.refused(now)
                return None
            self._borrowed += 1
            self._race.beside(now)
            self._begin_beside(address)
        else:
            self._first = address
        return None

    async def _begin(self, address: str) -> None:
        """Begin to connect; the attempt's own socket waits for its descriptor."""
        try:
            begin = partial(self._net.begin, address, self._port, self._options)
            self._going[address] = await self._net.line.wait_for(begin)
            self._race.began(address, self._net.clock())
        except (OSError, DialFailure) as exc:
            self._lost(address, exc)

    def _begin_beside(self, address: str) -> None:
        """Begin with one socket more; without a descriptor for it, its turn comes later."""
        try:
            self._going[address] = self._net.begin(address, self._port, self._options)
        except (OSError, DialFailure) as exc:
            if ran_out(exc):
                self._race.put_back(address, self._net.clock())
                self._repay()
            else:
                self._lost(address, exc)

    def _lost(self, address: str, exc: Exception) -> None:
        self._race.failed(address)
        self._fail(address, exc)
        self._drop(address)

    def _look(self) -> str | None:
        """See how those on their way are doing; return the one that has arrived."""
        for address, connecting in list(self._going.items()):
            if address not in self._going:
                continue  # called back by what the failure of another one set off
            number = connecting.look()
            if number == 0:
                return address
            if number is not None:
                self._lost(address, OSError(number, os.strerror(number)))
        return None

    def _won(self, winner: str) -> Link:
        failures, now = self._net.failures, self._net.clock()
        failures.clear(winner, self._port)
        for address in self._race.overtaken(winner, now):
            failures.note(address, self._port, now)
        link = self._going.pop(winner).link
        for connecting in self._going.values():
            connecting.link.close()
        self._going.clear()
        self._repay()  # after all are closed: it may call back places at once
        return link

    def _fail(self, address: str, error: Exception) -> None:
        self._errors.setdefault(address, error)
        if ran_out(error):
            return  # it says nothing of the address
        self._net.failures.note(address, self._port, self._net.clock())

    def _drop(self, address: str) -> None:
        """Close a socket, and repay the place that it leaves."""
        connecting = self._going.pop(address, None)
        if connecting is not None:
            connecting.link.close()
        self._repay()

    def _repay(self) -> None:
        """Give back all places but those of the sockets that there are."""
        while self._borrowed and self._borrowed >= len(self._going):
            self._borrowed -= 1
            self._extra.give_back_extra()

    def _recall(self) -> None:
        for address in self._race.recalled():
            self._drop(address)
        self._wake()

    def _wake(self) -> None:
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    async def _wait(self, until: float) -> None:
        """Wait for any of the sockets, for a recall, or for the time."""
        parked = self._parked = self._net.poller.park()
        links = [connecting.link for connecting in self._going.values()]
        for link in links:
            link.writer = parked
        try:
            with anyio.move_on_after(None if until == inf else until - self._net.clock()):
                await parked
        finally:
            self._parked = None
            for link in links:
                link.writer = None

    def _verdict(self) -> Exception:
        """Make one error of all. The first one counts; what the others say is told beside it."""
        errors: list[Exception] = list(self._errors.values())
        if not errors:
            return self._unreachable or DialFailure(Phase.RESOLVE, None, "no address")
        first = errors[0]
        if len(errors) > 1:
            first.__cause__ = ExceptionGroup("all addresses failed", errors[1:])
            texts = {address: text_of(error) for address, error in self._errors.items()}
            if len(set(texts.values())) > 1 and isinstance(first, OSError):
                text = "; ".join(f"{address}: {text}" for address, text in texts.items())
                told = OSError(first.errno, text)
                told.__cause__ = ExceptionGroup("all addresses failed", errors)
                return told
        return first
