"""What is wrong with one message concerns nobody else on its connection."""

from __future__ import annotations

import logging
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive.sip import SipConfig, SipTLS, open_leg
from keepalive.sip.core.stun import binding_response, is_stun
from tests.sip.kit import dial, leg, port_of, request, response, until

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive.sip import SocketPool, Source
    from tests.support import Authority

ODD = [
    pytest.param(b"Call-ID: ", b"Call-ID: a@b@", "call-id", id="two-ats"),
    pytest.param(b"CSeq:", b"Contact: <sip:x\r\nCSeq:", "quote", id="open-angle"),
    pytest.param(b"CSeq:", b"Expires: Thu, 01 Dec 1994 16:00:00 GMT\r\nCSeq:", "number", id="date"),
    pytest.param(b"CSeq:", b'Contact: "x <sip:x>\r\nCSeq:', "quote", id="open-quote"),
    pytest.param(b" SIP/2.0\r\n", b" SIP/2.1\r\n", "start line", id="version"),
    pytest.param(b"CSeq: 1 OPTIONS", b"CSeq: 1 BYE", "cseq", id="other-method"),
    pytest.param(b"CSeq:", b"X: a\nY: b\r\nCSeq:", "line end", id="line-feed"),
    pytest.param(b"CSeq:", b"nothing\r\nCSeq:", "header line", id="no-colon"),
]


async def receive_all(peer: anyio.abc.ByteReceiveStream, count: int) -> bytes:
    """Receive so many messages without bodies."""
    data = b""
    while data.count(b"\r\n\r\n") < count:
        data += await peer.receive()
    return data


@pytest.mark.parametrize(("good", "bad", "flaw"), ODD)
async def test_a_flawed_request_is_answered_and_the_connection_goes_on(
    good: bytes, bad: bytes, flaw: str, caplog: pytest.LogCaptureFixture
) -> None:
    # heritage sip 6.A.
    told: list[tuple[bytes, str]] = []
    got: list[object] = []
    async with leg() as pool, await dial(pool) as peer:
        pool.attach(
            lambda packet, source: got.append(packet), flawed=lambda raw, source, why: told.append((raw, why))
        )
        odd = request(body=b"\r\n\r\nx").replace(good, bad, 1)
        before, after = request(), request()
        await peer.send(before + odd + after)
        answer = await receive_all(peer, 1)
        await until(lambda: len(got) == 2 and told)
        assert answer.startswith(f"SIP/2.0 400 Bad Request ({flaw})\r\n".encode())
        assert got == [before, after]
        assert told == [(odd, flaw)]
        stats = pool.stats()
        assert (stats.flaws, stats.closed, stats.received) == ({flaw: 1}, {}, 2)
    assert f"refused: {flaw}" in caplog.text


async def test_a_flawed_response_is_dropped_alone() -> None:
    async with leg() as pool, await dial(pool) as peer:
        good = response(request())
        ack = request("ACK").replace(
            b"Max-Forwards: 70", b"Max-Forwards: x"
        )  # to it there is no answer either
        await peer.send(good.replace(b"SIP/2.0 200 OK", b"SIP/2.0 480") + ack + good)
        assert (await pool.__anext__())[0] == good
        assert pool.stats().flaws == {"start line": 1, "number": 1}
        assert pool.stats().closed == {}
        assert pool.stats().sent == 0


async def test_over_tls_too(tmp_path: Path, ca: Authority) -> None:
    pair, trust = ca.write(tmp_path, "localhost")
    async with (
        leg("tls", tls=SipTLS(cert=pair)) as pool,
        leg("tls", tls=SipTLS(ca=trust)) as other,  # a caller needs no certificate
    ):
        await other.send_to(request(), f"localhost:{port_of(pool)}")
        _, source = await pool.__anext__()
        await pool.send_to(response(request()), source)
        _, back = await other.__anext__()
        # What a pool itself would not send comes by a stream of the test's own.
        stream = await anyio.connect_tcp("localhost", port_of(pool), ssl_context=ca.client())
        async with stream:
            odd = request().replace(b"Call-ID: ", b"Call-ID: a@b@")
            await stream.send(odd)
            assert (await stream.receive()).startswith(b"SIP/2.0 400 Bad Request (call-id)")
            await stream.send(request())
            await pool.__anext__()
        assert pool.stats().flaws == {"call-id": 1}
        # Who has no certificate can call, but cannot be called.
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            async with await dial(other) as plain:
                await plain.send(request())
                await plain.receive()
        assert other.stats().refused == 1
        assert back.connected


@pytest.mark.parametrize(("good", "bad", "flaw"), ODD)
async def test_a_flawed_request_in_a_datagram_is_answered(good: bytes, bad: bytes, flaw: str) -> None:
    async with leg("udp") as pool:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port_of(pool)))
            sock.settimeout(5)
            packet = request(proto="UDP")
            sock.send(response(packet).replace(b" 200 OK", b" 480"))
            sock.send(packet.replace(good, bad, 1))
            sock.send(b"\n" + packet)
            assert (await pool.__anext__())[0] == packet
            assert sock.recv(65536).startswith(f"SIP/2.0 400 Bad Request ({flaw})\r\n".encode())
        flaws = pool.stats().flaws
        assert sum(flaws.values()) == 2
        assert flaws[flaw] == 2 if flaw == "start line" else 1


async def test_who_does_not_read_gets_no_endless_answers() -> None:
    async with leg() as pool, await dial(pool) as peer:
        # A response repeats the Via: so it takes few of them to fill the kernel's buffers.
        odd = request(via=f"127.0.0.1:5062;padding={'x' * 5000}").replace(b"Call-ID: ", b"Call-ID: a@b@")
        for _ in range(30):
            await peer.send(odd * 100)
        await peer.send(request())
        await pool.__anext__()
        assert pool.stats().flaws == {"call-id": 3000}
        assert pool.stats().queued < 100_000


async def test_equal_branches_do_not_lead_to_another_peer() -> None:
    async with leg() as pool, await dial(pool) as one, await dial(pool) as two:
        packets = [request(branch="0", call=f"{n}@same", via="10.0.0.1:5060") for n in range(2)]
        await one.send(packets[0])
        await pool.__anext__()
        await two.send(packets[1])
        await pool.__anext__()
        for packet in packets:  # only the messages say where they belong
            await pool.send_to(response(packet), "10.0.0.1:5060")
        assert b"0@same" in await one.receive()
        assert b"1@same" in await two.receive()


async def test_a_response_whose_connection_has_gone_is_not_given_to_another_address() -> None:
    async with leg() as pool, await dial(pool) as one:
        packet = request(branch="z9hG4bKsame", via="127.0.0.1:1")
        with socket.socket() as other:
            other.setblocking(False)
            other.bind(("127.0.0.2", 0))
            with pytest.raises(BlockingIOError):
                other.connect(("127.0.0.1", port_of(pool)))
            await until(lambda: pool.stats().accepted == 2)
            await one.send(packet)
            _, source = await pool.__anext__()
            other.send(packet)
            await pool.__anext__()
            await one.aclose()
            await until(lambda: pool.stats().connections == 1)
            outcome: list[object] = []
            pool.send_soon(response(packet), source, outcome.append)
            await until(lambda: outcome)
            assert outcome[0] is not None
            with pytest.raises(BlockingIOError):
                other.recv(100)


def seen(pool: SocketPool, pongs: int) -> bool:
    return pool.stats().pongs == pongs


async def test_pongs_are_seen_and_not_answered() -> None:
    async with leg() as pool, leg() as other:
        dst = "127.0.0.1", port_of(other)
        for number in range(1, 4):
            await pool.send_to(b"\r\n\r\n", dst)
            await until(partial(seen, pool, number))
        await pool.send_to(request(), dst)
        await other.__anext__()
        assert [info.pongs for info in pool.connections()] == [3]
        assert (other.stats().pings, other.stats().pongs, pool.stats().pings) == (3, 0, 0)


async def test_the_next_request_on_such_a_connection_says_tcp_too() -> None:
    async with leg() as other, leg("udp", oversize="tcp") as pool:
        await pool.send_to(request(proto="UDP", body=b"x" * 2000), ("127.0.0.1", port_of(other)))
        packet, source = await other.__anext__()
        assert isinstance(packet, bytes)
        await other.send_to(response(packet), source)
        _, source = await pool.__anext__()
        small = request("ACK", proto="UDP", body=b"Via: SIP/2.0/UDP x\r\n")
        await pool.send_to(small, source)
        assert (await other.__anext__())[0] == small.replace(b"/UDP 127", b"/TCP 127")


async def test_a_connected_udp_socket_tells_that_nobody_is_there() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        dst = sock.getsockname()
    lost: list[tuple[str, str]] = []
    async with open_leg("udp", "127.0.0.1", 0, dst=dst, connected=True, config=SipConfig(raw=True)) as pool:
        pool.attach(lambda packet, source: None, lambda source, reason: lost.append((str(source), reason)))
        await pool.send_to(request())
        await until(lambda: lost)
        assert lost == [(f"127.0.0.1:{dst[1]}", "unreachable")]
        assert pool.stats().flaws == {"icmp: Connection refused": 1}


BINDING = struct.pack("!HHI12s", 1, 0, 0x2112A442, b"transaction!")


@pytest.mark.parametrize("addr", ["127.0.0.1", "::1"])
async def test_stun_on_the_sip_port_is_answered_or_ignored(addr: str) -> None:
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    async with leg("udp", addr) as pool:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((addr, port_of(pool)))
            sock.settimeout(5)
            sock.send(struct.pack("!HHI12s", 1, 0, 7, b"of the old k"))
            sock.send(struct.pack("!HHI12sHH4s", 1, 8, 0x2112A442, b"wants more!!", 6, 4, b"user"))
            sock.send(struct.pack("!HHI12s", 0x11, 0, 0x2112A442, b"transaction!"))
            sock.send(BINDING)
            sock.send(request())
            await pool.__anext__()
            data = sock.recv(100)
            here = sock.getsockname()
        assert data == binding_response(BINDING, *here[:2])
        assert pool.stats().flaws == {}


def test_stun_says_what_the_rfc_says() -> None:
    """The sample of RFC 5769 2.2, without what needs a password."""
    transaction = bytes.fromhex("b7e7a701bc34d686fa87dfae")
    data = struct.pack("!HHI12s", 1, 0, 0x2112A442, transaction)
    assert is_stun(data)
    answer = binding_response(data, "192.0.2.1", 32853)
    assert answer is not None
    assert answer[20:] == bytes.fromhex("002000080001a147e112a643")
    assert binding_response(data, "::ffff:192.0.2.1", 32853) == answer
    answer = binding_response(data, "2001:db8:1234:5678:11:2233:4455:6677", 32853)
    assert answer is not None
    assert answer[20:] == bytes.fromhex("002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9")
    for other in (data[:-1], data + b"1234", b"OPTIONS sip:a SIP/2.0\r\n", b"\r\n\r\n" * 5, b""):
        assert not is_stun(other)


async def test_flawed_callback_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(raw: bytes, source: Source, reason: str) -> None:
        raise ZeroDivisionError

    got: list[object] = []
    async with leg() as pool, await dial(pool) as peer:
        pool.attach(lambda packet, source: got.append(packet), flawed=fail)
        with caplog.at_level(logging.ERROR):
            await peer.send(request().replace(b"CSeq: 1", b"CSeq: x") + request())
            await until(lambda: got and "ZeroDivisionError" in caplog.text)
