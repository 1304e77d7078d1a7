"""Seeded storms, heritage pools 3.1, 3.10, 3.17, 3.20 and 3.25."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, ConnectionManager, RequestCancelled, TLSConnector, TLSError
from tests.support.cancelling import cancelled_at
from tests.support.requests import all_usable, at_rest, exchange
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    import ssl

    from keepalive import Request
    from tests.support import Server

TASKS, KEYS, PER_KEY, IN_ALL = 20, 3, 4, 6
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Storm:
    """Twenty tasks that ask, use, cancel and drop at random, and watch each other."""

    def __init__(self, mgr: ConnectionManager, server: Server, scheme: str, seed: int) -> None:
        self.mgr = mgr
        self.server = server
        self.scheme = scheme
        self.rng = random.Random(seed)
        self.owned: set[int] = set()
        self.uses = 0

    def ask(self, n: int | None = None, timeout: float = 10.0) -> Request:
        n = self.rng.randrange(KEYS) if n is None else n
        return self.mgr.allocate(
            self.scheme, self.server.host, self.server.port, timeout, for_addr="localhost", for_port=n + 1
        )

    async def run(self, rounds: int) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(TASKS):
                group.start_soon(self.worker, rounds)

    async def worker(self, rounds: int) -> None:
        moves = (self.use, self.use, self.use, self.cancel_scope, self.cancel_request, self.drop)
        for _ in range(rounds):
            await self.rng.choice((*moves, self.time_out, self.disturb))()

    async def use(self, request: Request | None = None) -> None:
        try:
            conn = await (request or self.ask())
        except TLSError:
            return  # the server reset it in the handshake
        number = conn.extra(SocketAttribute.raw_socket).fileno()
        assert number not in self.owned, "two owners"
        self.owned.add(number)
        self.uses += 1
        try:
            await exchange(conn, b"%d" % self.rng.getrandbits(60))
            await turns(self.rng.randrange(3))
            conn.release() if self.rng.random() < 0.8 else conn.discard()
        except GONE:
            pass
        finally:
            self.owned.discard(number)
            conn.discard()  # if it was cancelled, or the peer is gone

    async def cancel_scope(self) -> None:
        await cancelled_at(self.rng.randrange(8), self.use)

    async def cancel_request(self) -> None:
        request = self.ask()
        async with anyio.create_task_group() as group:
            group.start_soon(self._cancel_soon, request)
            try:
                await self.use(request)
            except RequestCancelled:
                pass

    async def _cancel_soon(self, request: Request) -> None:
        await turns(self.rng.randrange(5))
        if self.rng.random() < 0.5:
            request.cancel()
        else:
            self.mgr.deallocate(request.id)

    async def drop(self) -> None:
        request = self.ask()
        await turns(self.rng.randrange(5))
        if self.rng.random() < 0.5:
            try:
                await request
            except TLSError:
                pass

    async def time_out(self) -> None:
        try:
            await self.use(self.ask(timeout=self.rng.choice((0.0, 0.0002, 0.001))))
        except AllocateTimeout:
            pass

    async def disturb(self) -> None:
        if self.rng.random() < 0.05:
            self.rng.choice((self.server.disconnect_all, self.server.reset_all))()
        assert len(self.owned) <= self.mgr.stats().lent <= IN_ALL
        await turns(1)


@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_10_20_25_storm(
    echo_server: Server, tls_server: Server, client_context: ssl.SSLContext, tls: bool
) -> None:
    """heritage pools 3.10: httpcore#1093, PR#1099; 3.20: httpx2 PR#974; 3.25: aiohttp#4936, anyio#1170.

    However requests end: one owner per connection, never too many of them in the peer's eyes, and in the
    end every slot is usable.
    """
    server = tls_server if tls else echo_server
    connectors = {"https": TLSConnector(client_context)}
    async with ConnectionManager(max_per_host=PER_KEY, max_open=IN_ALL, connectors=connectors) as mgr:
        storm = Storm(mgr, server, "https" if tls else "tcp", seed=10)
        await storm.run(25 if tls else 100)
        await until(lambda: at_rest(mgr))
        assert storm.uses > TASKS * 10
        assert server.peak == IN_ALL
        for _ in range(2):
            conns = [await request for request in [storm.ask(n % KEYS) for n in range(IN_ALL)]]
            assert server.connections == mgr.stats().open == mgr.stats().lent == IN_ALL
            for conn in conns:
                await exchange(conn)
                conn.release()
        assert server.peak == IN_ALL
        await all_usable(mgr, echo_server, PER_KEY)
