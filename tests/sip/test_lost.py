"""Who is told when a connection ends: each failure once, to whoever waits."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive.sip import SendError, SipTLS
from keepalive.testing import jump, run_in_virtual_time
from tests.sip.kit import Outcomes, dial, leg, request, response, told, until
from tests.support import refused_port
from tests.support.waiting import turns

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive.sip import SocketPool, Source
    from tests.support import Authority

BACKENDS = ["asyncio", "trio"]


class Losses(list[tuple[str, int]]):
    """What `lost` was told: reasons and the peers' ports."""

    def __init__(self, pool: SocketPool, *, lost_idle: bool = False) -> None:
        super().__init__()
        self.last_received: list[Source] = []
        pool.attach(lambda _, source: self.last_received.append(source), self.add, lost_idle=lost_idle)

    def add(self, source: Source, reason: str) -> None:
        self.append((reason, source.port))


@pytest.mark.parametrize("lost_idle", [False, True])
async def test_idle_connections_are_told_if_asked_for(lost_idle: bool) -> None:
    async with leg() as pool:
        losses = Losses(pool, lost_idle=lost_idle)
        async with await dial(pool) as peer:
            packet = request()
            await peer.send(packet)
            await until(lambda: losses.last_received)
            [source] = losses.last_received
            await pool.send_to(response(packet), source)
            await peer.receive()
        await until(lambda: pool.stats().closed == {"peer": 1})
        await turns(10)
        assert losses == ([("peer", source.port)] if lost_idle else [])


@pytest.mark.parametrize("backend", BACKENDS)
def test_expired_ones_are_told_if_asked_for(backend: str) -> None:
    async def main() -> None:
        async with leg() as pool, await dial(pool), await dial(pool):
            losses = Losses(pool, lost_idle=True)
            await until(lambda: pool.stats().accepted == 2)
            await jump(70.0)
            assert [reason for reason, _ in losses] == ["expired"] * 2

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("lost_idle", [False, True])
async def test_a_refused_request_is_told_to_its_sender_only(lost_idle: bool) -> None:
    # heritage sip 1.32.
    with refused_port() as port:
        async with leg() as pool:
            losses = Losses(pool, lost_idle=lost_idle)
            outcomes: Outcomes = []
            for n in range(2):
                pool.send_soon(request(), ("127.0.0.1", port), told(outcomes, n))
            with pytest.raises(SendError):
                await pool.send_to(request(), ("127.0.0.1", port))
            await until(lambda: len(outcomes) == 2)
            await turns(10)
            assert losses == []


async def test_a_request_whose_sender_does_not_listen_is_told_as_lost() -> None:
    with refused_port() as port:
        async with leg() as pool:
            losses = Losses(pool)
            pool.send_soon(request(), ("127.0.0.1", port))
            await until(lambda: losses)
            assert losses == [("connect", port)]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent_before", [False, True])
async def test_what_waits_in_the_queue_is_told_by_its_outcome_what_has_gone_out_as_lost(
    reset: bool, sent_before: bool
) -> None:
    async with leg() as pool:
        losses = Losses(pool)
        outcomes: Outcomes = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            where = listener.getsockname()
            if sent_before:
                await pool.send_to(request(), where)
            pool.send_soon(request("MESSAGE", body=b"x" * 12_000_000), where, told(outcomes, 0))
            pool.send_soon(request(), where, told(outcomes, 1))
            await until(lambda: pool.stats().opened)
            await turns(10)
            peer, _ = listener.accept()
            if reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            await until(lambda: len(outcomes) == 2)
            await turns(10)
        assert [number for number, reason in outcomes if reason] == [0, 1]
        assert len(losses) == sent_before


async def test_a_cancelled_sender_is_waiting_for_nothing() -> None:
    async with leg() as pool:
        losses = Losses(pool)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            where = listener.getsockname()
            outcomes: Outcomes = []
            pool.send_soon(request("MESSAGE", body=b"x" * 12_000_000), where, told(outcomes, 0))
            await until(lambda: pool.stats().opened)
            async with anyio.create_task_group() as group:
                group.start_soon(pool.send_to, request(), where)
                await turns(5)
                group.cancel_scope.cancel()
            assert [one.transactions for one in pool.connections()] == [1]
            listener.accept()[0].close()
            await until(lambda: outcomes)
            await turns(10)
            assert losses == []


@pytest.mark.parametrize("lost_idle", [False, True])
async def test_a_connection_is_lost_once_at_the_pools_end_too(lost_idle: bool) -> None:
    async with leg() as pool, await dial(pool) as asked, await dial(pool) as quiet:
        losses = Losses(pool, lost_idle=lost_idle)
        await asked.send(request())
        await until(lambda: losses.last_received)
        await until(lambda: pool.stats().accepted == 2)
        assert pool.close(losses.last_received[0]) == 1
        await pool.aclose()
        await turns(10)
        assert sorted(reason for reason, _ in losses) == ["closed"] + ["shutdown"] * lost_idle
        await quiet.aclose()


async def test_handshakes_that_fail_are_no_connections_lost(tmp_path: Path, ca: Authority) -> None:
    # heritage sip 1.32.
    pair, trust = ca.write(tmp_path)
    async with leg("tls", tls=SipTLS(cert=pair, ca=trust)) as pool, await dial(pool) as babbler:
        losses = Losses(pool, lost_idle=True)
        await babbler.send(b"OPTIONS sip:a SIP/2.0\r\n\r\n")
        await until(lambda: pool.stats().closed == {"tls": 1})
        await turns(10)
        assert losses == []
        with pytest.raises(TypeError, match="lost_idle"):
            pool.attach(print, print, lost_idle=1)  # type: ignore[arg-type]  # what is tested
