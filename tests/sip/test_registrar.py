"""A registrar's phones stay connected: by their registration, or by their pings (RFC 5626)."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive.sip import SipTLS
from keepalive.testing import jump, run_in_virtual_time
from tests.sip.kit import dial, leg, port_of, request, response, until
from tests.support import has_ipv6
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keepalive.sip import SocketPool, Source
    from tests.support import Authority

BACKENDS = ["asyncio", "trio"]
PHONES = 100


class Registrar:
    """Answers REGISTER, and marks the connections."""

    def __init__(self, pool: SocketPool, expires: float | None) -> None:
        self.sources: list[Source] = []
        self._pool = pool
        self._expires = expires
        pool.attach(self._take)

    def _take(self, packet: object, source: Source) -> None:
        assert isinstance(packet, bytes)
        self._pool.send_soon(response(packet), source)
        if packet.startswith(b"REGISTER"):
            self.sources.append(source)
            if self._expires is not None:
                assert self._pool.keep(source, self._expires)


class Phones:
    """Phones on connections of their own: real sockets that a test holds in its hands."""

    def __init__(self, stack: ExitStack, addr: str, port: int, count: int) -> None:
        self.socks = [stack.enter_context(socket.create_connection((addr, port))) for _ in range(count)]
        for sock in self.socks:
            sock.setblocking(False)

    def say(self, data: bytes) -> None:
        for sock in self.socks:
            sock.send(data)

    async def hear(self) -> list[bytes]:
        """Return what each has got."""
        await turns(20)
        return [sock.recv(65536) for sock in self.socks]


@contextmanager
def phones(addr: str, port: int) -> Iterator[Phones]:
    with ExitStack() as stack:
        yield Phones(stack, addr, port, PHONES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "addr", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6"))]
)
def test_a_hundred_registered_phones_stay_between_their_pings(backend: str, addr: str) -> None:
    async def main() -> None:
        async with leg(addr=addr) as pool:
            registrar = Registrar(pool, 3600)
            with phones(addr, port_of(pool)) as all_of_them:
                all_of_them.say(request("REGISTER"))
                await until(lambda: len(registrar.sources) == PHONES)
                assert all(found.startswith(b"SIP/2.0 200") for found in await all_of_them.hear())
                for pause in (20.0, 75.0, 120.0, 120.0):
                    await jump(pause)
                    assert pool.stats().connections == PHONES
                    all_of_them.say(b"\r\n\r\n")
                    assert await all_of_them.hear() == [b"\r\n"] * PHONES
                packet = request("INVITE")
                for source in registrar.sources:  # calls reach them where they registered
                    await pool.send_to(packet, source)
                assert await all_of_them.hear() == [packet] * PHONES

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registrations_hold_without_any_ping_and_end(backend: str) -> None:
    # heritage sip 6.E.
    async def main() -> None:
        async with leg() as pool:
            registrar = Registrar(pool, 3600)
            with phones("127.0.0.1", port_of(pool)) as all_of_them:
                all_of_them.say(request("REGISTER"))
                await until(lambda: len(registrar.sources) == PHONES)
                stranger = await dial(pool)
                await until(lambda: pool.stats().connections == PHONES + 1)
                await jump(17.0)
                assert pool.stats().closed == {"expired": 1}  # the formula is for strangers
                await stranger.aclose()
                await jump(3582.9)
                assert pool.stats().connections == PHONES
                await jump(0.1)
                assert pool.stats().connections == 0

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ping", [b"\r\n\r\n", b"\r\n", b"\r\n\0"])
def test_phones_that_ping_stay_without_a_mark(backend: str, ping: bytes) -> None:
    # heritage sip 6.E.
    async def main() -> None:
        async with leg() as pool:
            registrar = Registrar(pool, None)
            with phones("127.0.0.1", port_of(pool)) as all_of_them:
                all_of_them.say(request("REGISTER"))
                await until(lambda: len(registrar.sources) == PHONES)
                for pause in (1.0, 120.0, 120.0, 95.0, 120.0):
                    await jump(pause)
                    assert pool.stats().connections == PHONES
                    all_of_them.say(ping)
                    await until(lambda: all(one.idle == 0 for one in pool.connections()))
                await jump(149.9)
                assert pool.stats().connections == PHONES
                await jump(0.1)
                assert pool.stats().closed == {"expired": PHONES}

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mark_can_be_shortened_lengthened_and_taken_back(backend: str) -> None:
    async def main() -> None:
        async with leg() as pool, await dial(pool) as peer:
            registrar = Registrar(pool, 600)
            await peer.send(request("REGISTER"))
            await until(lambda: registrar.sources)
            [source] = registrar.sources
            await jump(500.0)
            assert pool.keep(source, 600)
            await jump(599.0)
            assert pool.stats().connections == 1
            assert pool.keep(source, None)
            await jump(1e6)
            assert pool.stats().connections == 1
            assert pool.keep(source, 10.0)
            await jump(9.0)
            assert pool.stats().connections == 1
            assert pool.keep(source, 0)
            await jump(0)
            assert pool.stats().closed == {"expired": 1}
            assert not pool.keep(source, 600)

    run_in_virtual_time(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_registered_phone_that_is_dead_does_not_stay(backend: str) -> None:
    async def main() -> None:
        async with leg() as pool, await dial(pool) as peer:
            registrar = Registrar(pool, 3600)
            await peer.send(request("REGISTER"))
            await until(lambda: registrar.sources)
            await jump(600.0)
            await pool.send_to(request("INVITE"), registrar.sources[0])
            await jump(32.0)
            assert pool.stats().closed == {"silent": 1}

    run_in_virtual_time(main, backend=backend)


async def test_a_ping_that_came_during_a_turn_that_took_too_long_counts() -> None:
    async with leg(min_expire=0.2, max_expire=0.2) as pool:
        with socket.create_connection(("127.0.0.1", port_of(pool))) as phone:
            await until(lambda: pool.stats().accepted == 1)
            started = anyio.current_time()
            phone.send(b"\r\n")
            while anyio.current_time() < started + 0.3:  # the loop is held up
                pass
            await turns(20)
            assert pool.stats().closed == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_phones_on_tls_stay_too(backend: str, tmp_path: Path, ca: Authority) -> None:
    pair, trust = ca.write(tmp_path)

    async def main() -> None:
        tls = SipTLS(cert=pair, ca=trust)
        async with leg("tls", tls=tls) as pool, leg("tls", tls=tls, max_expire=5000.0) as phone:
            registrar = Registrar(pool, 3600)
            await phone.send_to(request("REGISTER"), f"localhost:{port_of(pool)}")
            await phone.__anext__()
            await jump(3000.0)
            await pool.send_to(packet := request("INVITE"), registrar.sources[0])
            assert (await phone.__anext__())[0] == packet

    run_in_virtual_time(main, backend=backend)


async def test_what_cannot_be_kept() -> None:
    async with leg("udp") as pool, leg() as stream, leg("udp") as peer:
        await peer.send_to(request(), ("127.0.0.1", port_of(pool)))
        _, source = await pool.__anext__()
        assert not pool.keep(source, 60)
        async with await dial(stream) as one:
            await one.send(request())
            _, other = await stream.__anext__()
            assert not pool.keep(other, 60)  # another pool's
            for wrong, error in ((-1, ValueError), ("60", TypeError), (float("nan"), ValueError)):
                with pytest.raises(error, match="seconds"):
                    stream.keep(other, wrong)  # type: ignore[arg-type]  # what is tested
            with pytest.raises(TypeError, match="source"):
                stream.keep("127.0.0.1:5060", 60)  # type: ignore[arg-type]  # as above
        with pytest.raises(ValueError, match="ping_expire"):
            leg(ping_expire=0)
