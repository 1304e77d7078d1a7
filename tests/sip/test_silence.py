"""A dead connection is left: nothing comes in `response_timeout`, or its user knows better."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import SocketOptions
from keepalive.sip import SendError, SendTimeout, SipTLS
from keepalive.testing import jump, run_in_virtual_time
from tests.sip.kit import Outcomes, dial, leg, port_of, request, response, response_of, told, until
from tests.support import has_ipv6
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keepalive.sip import Source
    from tests.support import Authority

BACKENDS = ["asyncio", "trio"]
FAMILIES = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6"))]


@contextmanager
def mute(addr: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A peer whose kernel takes connections and bytes, and who says nothing, as behind a lost NAT mapping."""
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    with socket.create_server((addr, 0), family=family) as listener:
        yield listener


# -- nothing comes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("addr", FAMILIES)
def test_forty_requests_do_not_all_go_into_a_dead_connection(backend: str, addr: str) -> None:
    async def main() -> None:
        gone: list[tuple[int, str]] = []
        with mute(addr) as listener:
            where = listener.getsockname()[:2]
            async with leg(addr=addr) as pool:
                pool.attach(lambda *_: None, lambda source, reason: gone.append((source.port, reason)))
                for _ in range(40):
                    await pool.send_to(request("REGISTER"), where)
                    await jump(1.0)
                assert pool.stats().closed == {"silent": 1}
                assert pool.stats().opened == 2
                assert gone == [(where[1], "silent")]

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_dead_at_the_instant_whatever_is_sent_meanwhile(backend: str) -> None:
    # heritage sip 6.D.
    async def main() -> None:
        with mute() as listener:
            async with leg() as pool:
                await pool.send_to(request(), listener.getsockname())
                for _ in range(3):
                    await jump(10.0)
                    await pool.send_to(b"\r\n", listener.getsockname())
                await jump(1.999)
                assert pool.stats().closed == {}
                await jump(0.001)
                assert pool.stats().closed == {"silent": 1}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_dead_over_tls_too(backend: str, tmp_path: Path, ca: Authority) -> None:
    pair, trust = ca.write(tmp_path)

    async def main() -> None:
        tls = SipTLS(cert=pair, ca=trust)
        async with leg("tls", tls=tls, raw=True) as peer, leg("tls", tls=tls) as pool:
            await pool.send_to(request(), f"localhost:{port_of(peer)}")
            await peer.__anext__()
            await jump(31.9)
            assert pool.stats().closed == {}
            await jump(0.2)
            assert pool.stats().closed == {"silent": 1}
            await until(lambda: peer.stats().closed == {"peer": 1})

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sign", [b"\r\n", b"S", response(request(), 100, "Trying")])
def test_any_byte_is_life(backend: str, sign: bytes) -> None:
    # heritage sip 6.D.
    async def main() -> None:
        with mute() as listener:
            async with leg(message_timeout=1000.0) as pool:
                await pool.send_to(request("INVITE"), listener.getsockname())
                peer, _ = listener.accept()
                with peer:
                    await jump(31.0)
                    peer.send(sign)
                    await until(lambda: pool.connections()[0].idle == 0)
                    await jump(60.0)  # it rings
                    assert pool.stats().closed == {}
                    await pool.send_to(request("CANCEL"), listener.getsockname())
                    await jump(31.9)
                    assert pool.stats().closed == {}
                    await jump(0.1)
                    assert pool.stats().closed == {"silent": 1}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["keep-alive", "ACK", "response"])
def test_what_wants_no_answer_starts_no_clock(backend: str, kind: str) -> None:
    async def main() -> None:
        with mute() as listener:
            asked = request(via=f"127.0.0.1:{listener.getsockname()[1]}")
            packet = {"keep-alive": b"\r\n", "ACK": request("ACK"), "response": response(asked)}[kind]
            async with leg() as pool:
                await pool.send_to(packet, listener.getsockname())
                await jump(100.0)
                assert pool.stats().closed == {}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ping_wants_its_pong(backend: str) -> None:
    async def main() -> None:
        with mute() as listener:
            async with leg(response_timeout=10.0) as pool:
                await pool.send_to(b"\r\n\r\n", listener.getsockname())
                await jump(9.9)
                assert pool.stats().closed == {}
                await jump(0.1)
                assert pool.stats().closed == {"silent": 1}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_limit_waits_on(backend: str) -> None:
    async def main() -> None:
        with mute() as listener:
            async with leg(response_timeout=None, max_pending=500.0) as pool:
                await pool.send_to(request(), listener.getsockname())
                await jump(499.0)
                assert pool.stats().closed == {}
                await jump(1.0)
                assert pool.stats().closed == {"expired": 1}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_senders_in_the_queue_are_told_and_the_next_message_goes_elsewhere(backend: str) -> None:
    async def main() -> None:
        with mute() as listener:
            where = listener.getsockname()
            async with leg(max_body=8_000_000) as pool:
                lost: list[str] = []
                pool.attach(lambda *_: None, lambda _, reason: lost.append(reason))
                outcomes: Outcomes = []
                pool.send_soon(request(), where, told(outcomes, 0))
                for n in range(1, 4):  # more than the kernels take
                    pool.send_soon(request("MESSAGE", body=b"x" * 5_000_000), where, told(outcomes, n))
                await until(lambda: outcomes)
                caught: list[SendError] = []

                async def send() -> None:
                    try:
                        await pool.send_to(request(), where)
                    except SendError as exc:
                        caught.append(exc)

                async with anyio.create_task_group() as group:
                    group.start_soon(send)
                    await turns(5)
                    await jump(32.0)
                assert outcomes[0] == (0, None)
                assert outcomes[-1] == (3, "silent")
                [error] = caught
                assert isinstance(error, SendTimeout)
                assert error.error_num == errno.ETIMEDOUT
                assert lost == ["silent"]
                await pool.send_to(request(), where)
                assert pool.stats().opened == 2

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_we_have_not_read_is_no_silence(backend: str) -> None:
    async def main() -> None:
        with mute() as listener:
            async with leg(max_inbox=1) as pool:
                await pool.send_to(request(), listener.getsockname())
                peer, _ = listener.accept()
                with peer:
                    for _ in range(2):
                        peer.send(request())
                    await until(lambda: pool.stats().inbox)
                    await pool.send_to(request(), listener.getsockname())
                    peer.send(request())  # stays with the kernel: the inbox is full
                    await jump(40.0)
                    assert pool.stats().closed == {}

    run_in_virtual_time(main, backend=backend)


async def test_after_a_turn_that_took_too_long_what_has_come_counts() -> None:
    with mute() as listener:
        async with leg(response_timeout=0.2) as pool:
            await pool.send_to(request(), listener.getsockname())
            peer, _ = listener.accept()
            with peer:
                started = anyio.current_time()
                peer.send(request())
                while anyio.current_time() < started + 0.3:  # the loop is held up
                    pass
                await pool.__anext__()
                await turns(20)
                assert pool.stats().closed == {}


# -- by its user -------------------------------------------------------------------------------------


async def test_fresh_goes_on_a_connection_of_its_own_and_what_follows_too() -> None:
    with mute() as listener:
        async with leg() as pool:
            first = await pool.send_to(request(), listener.getsockname())
            assert await pool.send_to(request(), listener.getsockname()) is first
            second = await pool.send_to(request(), listener.getsockname(), fresh=True)
            assert second is not first
            assert await pool.send_to(request(), listener.getsockname()) is second
            assert await pool.send_to(request(), first, fresh=True) not in (first, second)
            outcomes: Outcomes = []
            pool.send_soon(request(), listener.getsockname(), told(outcomes, 0), fresh=True)
            await until(lambda: outcomes == [(0, None)])
            assert pool.stats().opened == 4
            with pytest.raises(TypeError, match="fresh"):
                await pool.send_to(request(), listener.getsockname(), fresh=1)  # type: ignore[arg-type]  # tested


async def test_a_fresh_response_goes_where_its_via_says() -> None:
    async with leg() as pool, leg() as peer:
        packet = request(via=f"127.0.0.1:{port_of(peer)}")
        await peer.send_to(packet, ("127.0.0.1", port_of(pool)))
        _, source = await pool.__anext__()
        went = await pool.send_to(response(packet), source, fresh=True)
        assert went is not source
        assert went.port == port_of(peer)
        await until(lambda: peer.stats().accepted == 1)


async def test_fresh_changes_nothing_for_datagrams() -> None:
    async with leg("udp") as pool, leg("udp") as peer:
        went = await pool.send_to(request(), ("127.0.0.1", port_of(peer)), fresh=True)
        assert (went.addr, went.port, went.proto) == ("127.0.0.1", port_of(peer), "udp")
        await peer.__anext__()


async def test_a_connection_is_closed_by_its_source() -> None:
    async with leg() as pool, leg() as other, await dial(pool) as peer, await dial(pool) as second:
        sources = []
        lost: list[tuple[Source, str]] = []
        pool.attach(lambda _, source: sources.append(source), lambda *what: lost.append(what))
        for one in (peer, second):
            await one.send(request())
        await until(lambda: len(sources) == 2)
        assert other.close(sources[0]) == 0  # it is another pool's
        assert pool.close(sources[0]) == 1
        assert pool.close(sources[0]) == 0
        assert not sources[0].connected
        assert sources[1].connected
        await until(lambda: lost)
        assert lost == [(sources[0], "closed")]
        assert pool.stats().closed == {"closed": 1}


async def test_nothing_follows_from_a_connection_that_was_closed_when_its_message_came() -> None:
    async with leg() as pool, await dial(pool) as peer:
        taken: list[bytes] = []

        def take(packet: Any, source: Source) -> None:
            taken.append(packet)
            assert pool.close(source) == 1

        pool.attach(take)
        first, second = request(), request()
        await peer.send(first + second + b"\r\n\r\n")
        await until(lambda: pool.stats().closed == {"closed": 1})
        with suppress(anyio.BrokenResourceError), pytest.raises(anyio.EndOfStream):
            await peer.receive()
        assert taken == [first]
        assert pool.connections() == []


async def test_all_connections_to_a_place_are_closed_and_their_senders_told() -> None:
    with mute() as listener:
        host, port = listener.getsockname()
        async with leg() as pool:
            await pool.send_to(request(), (host, port))
            outcomes: Outcomes = []
            pool.send_soon(response_of(8_000_000), (host, port), told(outcomes, 1))
            await pool.send_to(request(), (host, port), fresh=True)
            pool.send_soon(request(), "127.0.0.1:1", told(outcomes, 2))
            assert pool.close(f"{host}:{port}") == 2
            await until(lambda: len(outcomes) == 2)
            assert (1, "closed") in outcomes
            assert pool.close((host, port)) == 0
            went = await pool.send_to(request(), (host, port))
            assert pool.close(went) == 1
            with pytest.raises(TypeError, match="dst"):
                pool.close(None)


def options_of(port: int) -> list[tuple[int, int]]:
    """Return user time-out and keep-alive time of this process's connections of a port."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            sock = socket.socket(fileno=int(name))
            try:
                if sock.family == socket.AF_INET and port in (sock.getsockname()[1], sock.getpeername()[1]):
                    timeout = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                    found.append((timeout, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)))
            finally:
                sock.detach()  # it is somebody else's
    return sorted(found)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="no TCP_USER_TIMEOUT")
async def test_socket_options_hold_in_both_directions() -> None:
    made = SocketOptions(user_timeout=20.0, keepalive=30)
    async with leg(options=made) as pool, leg() as peer:
        await peer.send_to(request(), ("127.0.0.1", port_of(pool)))
        await pool.__anext__()
        assert options_of(port_of(pool)) == [(0, 60), (20_000, 30)]
        await pool.send_to(request(), ("127.0.0.1", port_of(peer)))
        await peer.__anext__()
        assert options_of(port_of(peer)) == [(0, 60), (20_000, 30)]


@pytest.mark.parametrize(("name", "value"), [("options", 5), ("options", None), ("response_timeout", "5")])
def test_wrong_settings_are_named(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        leg(**{name: value})
