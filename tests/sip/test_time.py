"""Times to the instant, on loops whose time stands still until a test moves it."""

from __future__ import annotations

import errno

import anyio
import pytest

from keepalive.sip import SendError, SendTimeout
from tests.shell.virtual import jump, run
from tests.sip.kit import dial, leg, port_of, request, response, until
from tests.support import full_backlog

BACKENDS = ["asyncio", "trio"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "limit"), [(1, 120.0), (2, 67.5), (5, 36.0), (7, 30.0)])
def test_connections_expire_by_the_formula(backend: str, count: int, limit: float) -> None:
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

    run(backend, main)


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

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_open_transaction_spares_until_it_is_answered(backend: str) -> None:
    async def main() -> None:
        async with leg() as pool, leg(max_expire=1000.0, min_expire=1000.0) as peer:
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

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_answered_transactions_do_not_stay_in_memory(backend: str) -> None:
    async def main() -> None:
        async with leg() as pool, leg(max_expire=1000.0) as peer:
            packets = [request() for _ in range(3)]
            for packet in packets:
                await peer.send_to(packet, ("127.0.0.1", port_of(pool)))
            sources = [(await pool.__anext__())[1] for _ in packets]
            for packet in packets[:2]:
                await pool.send_to(response(packet), sources[0])
            assert pool._engine is not None
            [flow] = pool._engine.flows
            await jump(100.0)
            assert len(flow.tids or ()) == 3
            await pool.send_to(response(packets[2]))
            await jump(31.9)
            assert len(flow.tids or ()) == 3
            await jump(0.1)
            assert flow.tids is None
            await pool.send_to(response(packets[2]), sources[0])  # the source still knows the way

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_connect_timeout_with_defaults_is_ten_seconds(backend: str) -> None:
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

    run(backend, main)
