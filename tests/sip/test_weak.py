"""The ancestor's weak spots, heritage sip 5.1 to 5.25, by their numbers, and what happens here instead."""

from __future__ import annotations

import errno
import gc
import socket
import struct
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive.sip import SendError, SendTimeout, SipTLS, open_leg
from tests.sip.kit import Outcomes, dial, leg, port_of, request, response, response_of, told, until
from tests.support import Authority, Server, Silent, full_backlog, refused_port
from tests.support.inside import engine_of
from tests.support.waiting import turns

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive.sip import SocketPool, Source


async def test_1_every_message_has_an_outcome_of_its_own() -> None:
    # heritage sip 1.15.
    with Server(Silent()) as server:
        async with leg() as pool:
            outcomes: Outcomes = []
            for n in range(200):
                pool.send_soon(request(body=b"x" * 2000), (server.host, server.port), told(outcomes, n))
                assert len(outcomes) == 0  # never from within the call
            await until(lambda: len(outcomes) == 200)
            assert outcomes == [(n, None) for n in range(200)]
            assert server.connections == 1


async def test_2_a_refusal_reaches_every_sender() -> None:
    with refused_port() as port:
        async with leg() as pool:
            outcomes: Outcomes = []
            for n in range(5):
                pool.send_soon(request(), ("127.0.0.1", port), told(outcomes, n))
            await until(lambda: len(outcomes) == 5)
            assert outcomes == [(n, "connect") for n in range(5)]
            with pytest.raises(SendError) as caught:
                await pool.send_to(request(), ("127.0.0.1", port))
            assert caught.value.error_num == errno.ECONNREFUSED
            assert pool.connections() == []


@pytest.mark.parametrize("reset", [False, True])
async def test_3_senders_are_told_when_the_peer_goes(reset: bool) -> None:
    async with leg(max_body=1_000_000) as pool:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with listener:
            outcomes: Outcomes = []
            for n in range(40):
                pool.send_soon(request(body=b"x" * 200_000), listener.getsockname()[:2], told(outcomes, n))
            await until(lambda: pool.stats().opened)
            peer, _ = listener.accept()
            await turns(20)
            if reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            await until(lambda: len(outcomes) == 40)
        assert [n for n, _ in outcomes] == list(range(40))
        assert outcomes[-1][1] in ("peer", "reset")
        assert pool.stats().queued == 0


async def test_3_connection_that_the_kernel_knows_to_be_dead_is_not_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with leg() as pool:
            await pool.send_to(request(), listener.getsockname()[:2])
            peer, _ = listener.accept()
            peer.recv(65536)
            peer.close()
            packet = request()
            await pool.send_to(packet, listener.getsockname()[:2])  # the loop has had no turn
            peer, _ = listener.accept()
            assert peer.recv(65536) == packet
            peer.close()
            assert pool.stats().opened == 2


async def test_3_what_a_peer_said_before_it_went_is_not_lost() -> None:
    async with leg() as pool:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # whom it accepts has this one
            outcomes: Outcomes = []
            for n in range(3):  # more than the kernel takes
                pool.send_soon(response_of(4_000_000), listener.getsockname()[:2], told(outcomes, n))
            await until(lambda: pool.stats().opened)
            peer, _ = listener.accept()
            packet = request()
            peer.send(packet)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            await until(lambda: len(outcomes) == 3)
            assert outcomes == [(n, "reset") for n in range(3)]
            assert pool.stats().received == 1
            assert (await pool.__anext__())[0] == packet


async def test_4_connect_timeout_is_exact() -> None:
    # heritage sip 1.27.
    with full_backlog() as hole:
        async with leg(connect_timeout=0.2) as pool:
            started = anyio.current_time()
            outcomes: Outcomes = []
            pool.send_soon(request(), (hole.host, hole.port), told(outcomes, 0))
            with pytest.raises(SendTimeout) as caught:
                await pool.send_to(request(), (hole.host, hole.port))
            assert anyio.current_time() - started > 0.19  # exactly: test_time
            assert caught.value.error_num == errno.ETIMEDOUT
            assert caught.value.reason == "connect"
            await turns(5)
            assert outcomes == [(0, "connect")]
            assert pool.stats().closed == {"timeout": 1}


async def test_7_response_goes_to_the_connection_its_request_came_in_on() -> None:
    # heritage sip 1.16, 1.17.
    async with leg() as pool, await dial(pool) as one, await dial(pool) as two:
        packet = request(branch="z9hG4bKsame")
        await one.send(packet)
        _, first = await pool.__anext__()
        await two.send(packet)
        _, second = await pool.__anext__()
        await pool.send_to(response(packet, 200, "two"), second)
        await pool.send_to(response(packet, 200, "one"), first)
        assert (await one.receive()).startswith(b"SIP/2.0 200 one")
        assert (await two.receive()).startswith(b"SIP/2.0 200 two")
        # Without its source the place decides, and the end of one leaves the other's route.
        await pool.send_to(response(packet, 200, "three"), (first.addr, first.port))
        assert (await one.receive()).startswith(b"SIP/2.0 200 three")
        await one.aclose()
        await until(lambda: pool.stats().connections == 1)
        await pool.send_to(response(packet, 200, "four"))
        assert (await two.receive()).startswith(b"SIP/2.0 200 four")


async def test_9_ping_is_answered() -> None:
    # heritage sip 2.1.
    async with leg() as pool, await dial(pool) as peer:
        await peer.send(b"\r\n\r\n")
        assert await peer.receive() == b"\r\n"
        await peer.send(b"\r\n")
        await peer.send(b"\r\n" + request())
        await pool.__anext__()
        assert await peer.receive() == b"\r\n"


async def test_10_restriction_compares_addresses_on_streams() -> None:
    # heritage sip 1.52.
    async with leg(dst=("127.0.0.1", 5060)) as pool:
        async with await dial(pool) as peer:
            packet = request()
            await peer.send(packet)
            assert (await pool.__anext__())[0] == packet
        strange = socket.socket()
        with strange:
            strange.bind(("127.0.0.2", 0))
            strange.connect(("127.0.0.1", port_of(pool)))
            await until(lambda: pool.stats().refused == 1)


async def test_11_connections_are_reused_for_the_same_verified_name_only(tmp_path: Path) -> None:
    ca = Authority()
    pair, trust = ca.write(tmp_path, "a.test", "b.test", "127.0.0.1")
    tls = SipTLS(cert=pair, ca=trust)
    async with leg("tls", tls=tls) as callee, leg("tls", tls=tls) as pool:
        for name in ("a.test", "b.test", "A.test", "a.test"):
            await pool.send_to(request(), {"host": name, "addr": "127.0.0.1", "port": port_of(callee)})
            await callee.__anext__()
        assert callee.stats().accepted == 2
        # Nor does an unverified caller become a way to a name.
        [first, *_] = [info for info in callee.connections() if info.inbound]
        with pytest.raises(SendError) as caught:
            await callee.send_to(request(), (first.addr, first.port))
        assert caught.value.reason == "connect"


async def test_11_rfc_5923_alias_of_a_verified_caller(tmp_path: Path) -> None:
    pair, trust = Authority().write(tmp_path, "a.test", "127.0.0.1")
    tls = SipTLS(cert=pair, ca=trust, verify_client=1)
    async with leg("tls", tls=tls) as callee, leg("tls", tls=tls) as pool:
        via = f"127.0.0.1:{port_of(pool)};alias"
        await pool.send_to(request(via=via, proto="TLS"), f"127.0.0.1:{port_of(callee)}")
        await callee.__anext__()
        packet = request()
        await callee.send_to(packet, {"host": "a.test", "addr": "127.0.0.1", "port": port_of(pool)})
        assert (await pool.__anext__())[0] == packet
        assert (callee.stats().opened, pool.stats().accepted) == (0, 0)


async def test_13_errors_of_users_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with leg() as pool:
        got = []

        def take(packet: Any, source: Source) -> None:
            got.append(packet)
            raise ZeroDivisionError

        pool.attach(take)
        async with await dial(pool) as peer:
            await peer.send(request() + request())
            await until(lambda: len(got) == 2)
            pool.send_soon(request(), "127.0.0.1:1", lambda error: 1 / 0)
            await until(lambda: "callback" in caplog.text)
            await peer.send(request())
            await until(lambda: len(got) == 3)
    assert len(caplog.records) == 4


async def test_14_and_15_what_is_gone_is_closed_and_freed() -> None:
    sources: list[Source] = []
    async with leg() as pool:
        pool.attach(lambda packet, source: sources.append(source))
        async with await dial(pool) as peer:
            await peer.send(request())
            await until(lambda: sources)
            assert sources[0].connected
        await until(lambda: not sources[0].connected)
        engine = engine_of(pool)
        assert engine is not None
        assert list(engine.reactor.poller.links) == [pool.master.fileno()]
        gc.collect()
        assert sources[0].peer_certificate is None


async def test_18_limits_in_all_and_per_peer() -> None:
    async with leg(max_connections=3, max_per_peer=2) as pool:
        peers = [await dial(pool) for _ in range(4)]
        await until(lambda: pool.stats().refused == 2)
        assert pool.stats().connections == 2
        with pytest.raises(SendError) as caught:
            await pool.send_to(request(), ("127.0.0.1", 9))
        assert caught.value.error_num == errno.EMFILE
        for peer in peers:
            await peer.aclose()


async def test_18_most_recently_used_of_several() -> None:
    async with leg() as pool, leg() as other:
        await pool.send_to(request(), ("127.0.0.1", port_of(other)))
        _, source = await other.__anext__()
        assert pool.connections()[0].port == port_of(other)
        for _ in range(3):
            await pool.send_to(request(), ("127.0.0.1", port_of(other)))
        assert pool.stats().opened == 1
        # The caller's own port leads back on the connection it came by.
        await other.send_to(request(), (source.addr, source.port))
        await pool.__anext__()
        assert other.stats().opened == 0


@pytest.mark.parametrize("start", [b"OPTIONS sip:x SIP/2.0\n\n", b"OPTIONS", request()[:-1]])
async def test_19_started_message_has_a_deadline(start: bytes) -> None:
    async with leg(message_timeout=0.2) as pool, await dial(pool) as peer, await dial(pool) as good:
        started = anyio.current_time()
        await peer.send(start)
        await good.send(request())
        with pytest.raises(anyio.EndOfStream):
            for _ in range(100):
                await peer.receive()
        assert anyio.current_time() - started > 0.19
        assert pool.stats().closed == {"deadline": 1}
        await good.send(request()[:50])
        await good.send(request())


async def test_20_port_0_lets_the_system_choose() -> None:
    # heritage sip 1.57.
    async with leg("udp") as one, leg("udp") as two:
        assert port_of(one) != port_of(two)
        with pytest.raises(OSError, match="in use"):
            open_leg("udp", "127.0.0.1", port_of(one))


async def test_21_udp_outcomes() -> None:
    # heritage sip 1.21.
    async with leg("udp") as pool, leg("udp") as other:
        dst = "127.0.0.1", port_of(other)
        await pool.send_to(request(), dst)
        outcomes: Outcomes = []
        pool.send_soon(request(), dst, told(outcomes, 0))
        await until(lambda: outcomes == [(0, None)])
        with pytest.raises(SendError) as caught:
            await pool.send_to(response(request()) + b"x" * 70_000, dst)
        assert (caught.value.reason, caught.value.error_num) == ("size", errno.EMSGSIZE)
        assert await send_of_size(pool, 1300, dst) is None
        assert await send_of_size(pool, 1301, dst) == "size"
        await pool.send_to(response(request()) + b"x" * 1301, dst)


async def send_of_size(pool: SocketPool, size: int, dst: Any) -> str | None:
    packet = request(body=b"x" * 1000)
    packet = request(body=b"x" * (1000 + size - len(packet)))
    assert len(packet) == size
    try:
        await pool.send_to(packet, dst)
    except SendError as exc:
        return exc.reason
    return None


async def test_21_fall_back_to_tcp() -> None:
    async with leg() as other, leg("udp", oversize="tcp") as pool:
        packet = request(proto="UDP", body=b"x" * 2000)
        await pool.send_to(packet, ("127.0.0.1", port_of(other)))
        got, source = await other.__anext__()
        assert got == packet.replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP")
        await other.send_to(response(packet), source)
        assert (await pool.__anext__())[1].proto == "tcp"
        back = request()
        await other.send_to(back, source)
        _, source = await pool.__anext__()
        await pool.send_to(response(back), source)
        assert (await other.__anext__())[0] == response(back)
        async with leg("udp") as only_udp:  # nobody takes it there by TCP
            await pool.send_to(packet, ("127.0.0.1", port_of(only_udp)))
            assert (await only_udp.__anext__())[0] == packet
        async with leg("udp", oversize="send") as careless:
            assert await send_of_size(careless, 3000, ("127.0.0.1", 9)) is None


async def test_21_what_goes_over_tcp_is_framed_and_says_so_in_its_via() -> None:
    async with leg() as other, leg("udp", oversize="tcp") as pool:
        dst = "127.0.0.1", port_of(other)
        packet = request(proto="UDP", body=b"x" * 2000)
        tricky = packet.replace(b"Via: SIP/2.0/UDP", b"Subject: SIP/2.0/UDP\r\nv : SIP / 2.0 /udp")
        await pool.send_to(tricky, dst)
        got, source = await other.__anext__()
        assert got == tricky.replace(b"2.0 /udp", b"2.0 /TCP")
        bare = packet.replace(b"Content-Length: 2000\r\n", b"")
        with pytest.raises(SendError) as caught:
            await pool.send_to(bare, dst)
        assert caught.value.reason == "size"
        back = request()
        await other.send_to(back, source)
        _, source = await pool.__anext__()
        with pytest.raises(SendError, match="Content-Length"):
            await pool.send_to(response(back).replace(b"Content-Length: 0\r\n", b""), source)
        assert other.stats().flaws == {}


@pytest.mark.parametrize("how", ["sent-by", "received"])
async def test_22_response_to_a_lost_connection_goes_by_its_via(how: str) -> None:
    # heritage sip 3.3.
    async with leg() as pool, leg() as home:
        via = f"127.0.0.1:{port_of(home)}"
        if how == "received":
            via = f"nowhere.invalid:{port_of(home)};received=127.0.0.1"
        packet = request(via=via)
        async with await dial(pool) as peer:
            await peer.send(packet)
            _, source = await pool.__anext__()
        await until(lambda: not source.connected)
        await pool.send_to(response(packet), source)
        assert (await home.__anext__())[0] == response(packet)
        await pool.send_to(response(packet))
        await pool.send_to(response(packet), (source.addr, source.port))
        assert pool.stats().opened == 1


async def test_22_response_finds_out_in_time_that_its_connection_is_dead() -> None:
    async with leg() as pool, leg() as home:
        packet = request(via=f"127.0.0.1:{port_of(home)}")
        with socket.create_connection(("127.0.0.1", port_of(pool))) as peer:
            peer.sendall(packet)
            _, source = await pool.__anext__()
        await pool.send_to(response(packet), source)  # the loop has had no turn
        await until(lambda: home.stats().received)
        assert (await home.__anext__())[0] == response(packet)


async def test_22_dst_is_the_last_resort() -> None:
    with refused_port() as port:
        async with leg() as pool, leg() as home:
            outcomes: Outcomes = []
            packets = [response(request(via=f"127.0.0.1:{port}")) for _ in range(3)]
            for n, packet in enumerate(packets):
                pool.send_soon(packet, ("127.0.0.1", port_of(home)), told(outcomes, n))
            for packet in packets:
                assert (await home.__anext__())[0] == packet
            await until(lambda: outcomes == [(n, None) for n in range(3)])
            with pytest.raises(SendError):
                await pool.send_to(packets[0])


async def test_22_rport_leads_back_on_a_living_connection() -> None:
    async with leg() as pool, await dial(pool) as peer:
        await peer.send(request())
        _, source = await pool.__anext__()
        packet = response(request(via=f"nowhere.invalid;received=127.0.0.1;rport={source.port}"))
        await pool.send_to(packet)
        assert await peer.receive() == packet


async def test_23_expiry_goes_on_after_detach_and_attach() -> None:
    # heritage sip 1.8.
    async with leg(min_expire=0.1, max_expire=0.1) as pool, await dial(pool) as peer:
        await until(lambda: pool.stats().connections)
        pool.attach(lambda *_: None)
        pool.detach()
        pool.attach(lambda *_: None)
        with pytest.raises(anyio.EndOfStream):
            await peer.receive()


async def test_25_framing_errors_are_told_to_all_concerned() -> None:
    async with leg() as pool:
        lost: list[tuple[str, str]] = []
        got: list[bytes] = []
        pool.attach(
            lambda packet, _: got.append(bytes(packet)), lambda source, why: lost.append((source.addr, why))
        )
        async with await dial(pool) as peer, await dial(pool) as other:
            await peer.send(request())
            await until(lambda: got)
            await peer.send(request().replace(b"Content-Length", b"Content-Size"))
            answer = await peer.receive()
            assert answer.startswith(b"SIP/2.0 400 Bad Request (no content-length)\r\n")
            with pytest.raises(anyio.EndOfStream):
                await peer.receive()
            assert lost == [("127.0.0.1", "framing")]
            assert pool.stats().flaws == {"no content-length": 1}
            await other.send(request())
            await until(lambda: len(got) == 2)
