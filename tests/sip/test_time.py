"""Times to the instant, on loops whose time stands still until a test moves it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive.sip import SendError, SendTimeout, SipTLS
from keepalive.testing import jump, run_in_virtual_time
from tests.sip.kit import Outcomes, dial, leg, port_of, request, response, told, until
from tests.support import full_backlog
from tests.support.inside import engine_of
from tests.support.waiting import turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Authority

BACKENDS = ["asyncio", "trio"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "limit"), [(1, 120.0), (2, 67.5), (5, 36.0), (7, 30.0)])
def test_connections_expire_by_the_formula(backend: str, count: int, limit: float) -> None:
    # heritage sip 1.43, 1.44.
    async def main() -> None:
        async with leg() as pool:
            peers = [await dial(pool) for _ in range(count)]
            await until(lambda: pool.stats().accepted == count)
            await jump(limit - 0.001)
            assert pool.stats().closed == {}
            await jump(0.001)
            assert pool.stats().closed == {"expired": count}
            for peer in peers:
                await peer.aclose()

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_connections_make_the_time_shorter_at_once(backend: str) -> None:
    async def main() -> None:
        async with leg() as pool:
            old = await dial(pool)
            await until(lambda: pool.stats().accepted == 1)
            await jump(60.0)
            new = await dial(pool)
            await until(lambda: pool.stats().accepted == 2)
            await jump(7.4)
            assert pool.stats().closed == {}
            await jump(0.1)
            assert pool.stats().closed == {"expired": 1}
            await jump(112.4)  # the other one, alone now, has 120 s
            assert pool.stats().connections == 1
            await jump(0.2)
            assert pool.stats().connections == 0
            await old.aclose()
            await new.aclose()

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_open_transaction_spares_until_it_is_answered(backend: str) -> None:
    # heritage sip 1.49.
    async def main() -> None:
        async with leg() as pool, leg(max_expire=1000.0, min_expire=1000.0, response_timeout=None) as peer:
            packet = request()
            await peer.send_to(packet, ("127.0.0.1", port_of(pool)))
            _, source = await pool.__anext__()
            await jump(200.0)
            assert pool.stats().connections == 1
            await pool.send_to(response(packet, 180, "Ringing"), source)
            await jump(200.0)
            assert pool.stats().connections == 1
            await pool.send_to(response(packet), source)
            await jump(119.9)
            assert pool.stats().connections == 1
            await jump(0.1)
            assert pool.stats().closed == {"expired": 1}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_answered_transactions_do_not_stay_in_memory(backend: str) -> None:
    async def main() -> None:
        async with leg() as pool, leg(max_expire=1000.0, response_timeout=None) as peer:
            packets = [request() for _ in range(3)]
            for packet in packets:
                await peer.send_to(packet, ("127.0.0.1", port_of(pool)))
            sources = [(await pool.__anext__())[1] for _ in packets]
            for packet in packets[:2]:
                await pool.send_to(response(packet), sources[0])
            [flow] = engine_of(pool).flows.all
            await jump(100.0)
            assert len(flow.transaction_keys or ()) == 3
            await pool.send_to(response(packets[2]))
            await jump(31.9)
            assert len(flow.transaction_keys or ()) == 3
            await jump(0.1)
            assert flow.transaction_keys is None
            await pool.send_to(response(packets[2]), sources[0])  # the source still knows the way

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_connect_timeout_with_defaults_is_ten_seconds(backend: str) -> None:
    # heritage sip 1.27.
    async def main() -> None:
        with full_backlog() as hole:
            async with leg() as pool, anyio.create_task_group() as group:
                caught: list[SendError] = []

                async def send() -> None:
                    try:
                        await pool.send_to(request(), (hole.host, hole.port))
                    except SendError as exc:
                        caught.append(exc)

                group.start_soon(send)
                await jump(0)
                await jump(9.99)
                assert not caught
                await jump(0.01)
                [error] = caught
                assert isinstance(error, SendTimeout)
                assert error.error_num == errno.ETIMEDOUT

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_5_expiry_never_comes_before_connect_timeout(backend: str) -> None:
    async def main() -> None:
        with full_backlog() as hole:
            async with leg(connect_timeout=3.0, min_expire=0.5, max_expire=1.0) as pool:
                outcomes: Outcomes = []
                pool.send_soon(request(), (hole.host, hole.port), told(outcomes, 0))
                await turns(5)
                await jump(2.99)
                assert pool.stats().closed == {}
                await jump(0.01)
                assert pool.stats().closed == {"timeout": 1}
                assert outcomes == [(0, "connect")]

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_8_any_byte_counts_and_what_is_pending_stays(backend: str) -> None:
    # heritage sip 1.42.
    async def main() -> None:
        async with leg(min_expire=30.0, max_expire=30.0, max_pending=90.0) as pool:
            kept, asked, quiet = [await dial(pool) for _ in range(3)]
            async with kept, asked, quiet:
                await asked.send(request())
                await pool.__anext__()
                await until(lambda: pool.stats().accepted == 3)
                for _ in range(4):
                    await jump(20.0)
                    await kept.send(b"\r\n\r\n")
                    assert await kept.receive() == b"\r\n"
                with pytest.raises(anyio.EndOfStream):
                    await quiet.receive()
                assert pool.stats().closed == {"expired": 1}
                await jump(9.9)
                assert pool.stats().connections == 2
                await jump(0.2)  # no answer was sent: the hard limit ends it
                assert pool.stats().closed == {"expired": 2}
                with pytest.raises(anyio.EndOfStream):
                    await asked.receive()

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_19_each_message_has_a_time_of_its_own(backend: str) -> None:
    async def main() -> None:
        async with leg(message_timeout=15.0) as pool, await dial(pool) as peer:
            packet = request()
            await peer.send(packet[:100])
            for _ in range(8):
                await until(lambda: pool.connections() and pool.connections()[0].idle == 0)
                await jump(14.0)  # a peer that takes its time, but not too much for any one
                await peer.send(packet[100:] + packet[:100])
                await pool.__anext__()
            await jump(15.1)
            assert pool.stats().closed == {"deadline": 1}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_silent_caller_does_not_hold_a_handshake(backend: str, tmp_path: Path, ca: Authority) -> None:
    # heritage sip 1.27.
    pair, trust = ca.write(tmp_path)

    async def main() -> None:
        async with (
            leg("tls", tls=SipTLS(cert=pair, ca=trust)) as pool,
            await dial(pool) as silent,
            await dial(pool) as babbler,
        ):
            await babbler.send(b"OPTIONS sip:a SIP/2.0\r\n\r\n")
            await until(lambda: pool.stats().closed == {"tls": 1})
            await until(lambda: pool.stats().accepted == 2)
            await jump(9.99)
            assert pool.stats().connecting == 1
            await jump(0.01)
            assert pool.stats().closed == {"timeout": 1, "tls": 1}
            with pytest.raises(anyio.EndOfStream):
                await silent.receive()

    run_in_virtual_time(main, backend=backend)
