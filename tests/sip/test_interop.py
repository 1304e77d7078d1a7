"""Calls with what others wrote: sipp and Net::SIP, both roles, none failed."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.sip.kit import Callee, Caller, leg, port_of
from tests.sip.peers import loops_in_turn, net_sip, net_sip_uas, run, running, sipp
from tests.support import has_ipv6

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive.sip import SocketPool

TRANSPORTS = {"u1": "udp", "t1": "tcp", "tn": "tcp"}


@loops_in_turn("transport", *TRANSPORTS)
async def test_sipp_calls_us(tmp_path: Path, transport: str) -> None:
    # heritage sip 4.1.
    async with leg(TRANSPORTS[transport], raw=False) as pool:
        callee = Callee(pool)
        status, said = await run(
            sipp(
                "-sn",
                "uac",
                f"127.0.0.1:{port_of(pool)}",
                "-t",
                transport,
                "-m",
                "100",
                "-r",
                "200",
                "-d",
                "20",
            ),
            tmp_path,
        )
        assert status == 0, said
        assert callee.requests == {"INVITE": 100, "ACK": 100, "BYE": 100}
        assert callee.errors == []
        if transport != "u1":
            assert pool.stats().accepted == (1 if transport == "t1" else 100)


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def reachable(proto: str, port: int) -> None:
    """Wait until a program listens."""
    while True:
        with socket.socket(
            socket.AF_INET, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        ) as sock:
            try:
                if proto == "tcp":
                    sock.connect(("127.0.0.1", port))
                else:
                    sock.bind(("127.0.0.1", port))
            except ConnectionRefusedError:
                pass
            except OSError:
                return  # taken: it is there
            else:
                if proto == "tcp":
                    return
        await anyio.sleep(0.02)


@loops_in_turn("transport", *TRANSPORTS)
async def test_we_call_sipp(tmp_path: Path, transport: str) -> None:
    # heritage sip 4.1.
    proto = TRANSPORTS[transport]
    port = free_port(socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
    argv = sipp("-sn", "uas", "-p", str(port), "-t", transport, "-reconnect_close", "false")
    with running(argv, tmp_path):
        with anyio.fail_after(60):
            await reachable(proto, port)
        async with leg(proto, raw=False) as pool:
            caller = Caller(pool, f"127.0.0.1:{port}")
            await caller.calls(100, 10)
            assert caller.codes == {200: 200}
            assert pool.stats().failed == {}
            assert pool.stats().opened == (proto == "tcp")


@loops_in_turn("proto,count,mode", ("udp", 20, ()), ("tcp", 20, ()), ("tcp", 100, ("--raw", "--parallel")))
async def test_net_sip_asks_us(tmp_path: Path, proto: str, count: int, mode: tuple[str, ...]) -> None:
    # heritage sip 4.1.
    async with leg(proto, raw=False) as pool:
        await net_sip_asks(pool, tmp_path, "--proto", proto, *mode, count=count)


async def net_sip_asks(pool: SocketPool, folder: Path, *args: str, count: int) -> None:
    callee = Callee(pool)
    host, port = pool.master.getsockname()[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    status, said = await run([*net_sip(), "uac", "--dst", where, "--count", str(count), *args], folder)
    assert status == 0, said
    assert callee.requests["OPTIONS"] == count
    assert callee.errors == []


@loops_in_turn("proto", "udp", "tcp")
async def test_we_ask_net_sip(tmp_path: Path, proto: str) -> None:
    # heritage sip 4.1.
    with net_sip_uas(tmp_path, proto) as port:
        async with leg(proto, raw=False) as pool:
            caller = Caller(pool, f"127.0.0.1:{port}")
            for _ in range(50):
                await caller.options()
            assert caller.codes == {200: 50}


@loops_in_turn("proto", "udp", "tcp")
async def test_net_sip_over_ipv6(tmp_path: Path, proto: str) -> None:
    if not has_ipv6():
        pytest.skip("needs IPv6 on loopback")
    async with leg(proto, "::1", raw=False) as pool:
        await net_sip_asks(pool, tmp_path, "--proto", proto, count=5)
    with net_sip_uas(tmp_path, proto, "--addr", "::1") as port:
        async with leg(proto, "::1", raw=False) as pool:
            caller = Caller(pool, f"[::1]:{port}")
            for _ in range(5):
                await caller.options()
            assert caller.codes == {200: 5}
