"""The pool as its users see it: its life, messages both ways, destinations, datagrams."""

from __future__ import annotations

import errno
import os
import socket

import anyio
import pytest
import sipmessage

from keepalive import StaticResolver
from keepalive.sip import PoolClosed, SendError, SipConfig, open_leg
from tests.sip.kit import Outcomes, answer, dial, leg, port_of, request, response, response_of, told, until
from tests.support import Server, Silent, has_ipv6
from tests.support.inside import engine_of
from tests.support.waiting import turns


async def test_life() -> None:
    # heritage sip 1.6, 1.9.
    pool = leg()
    for call in (pool.stats, pool.connections, pool.detach):
        with pytest.raises(RuntimeError, match="not been entered"):
            call()
    async with pool:
        with pytest.raises(RuntimeError, match="only once"):
            await pool.__aenter__()
        with pytest.raises(RuntimeError, match="belongs to"):
            await anyio.to_thread.run_sync(pool.stats)
        assert repr(pool) == "<SocketPool tcp open: connections=0>"
    assert pool.master.fileno() == -1
    with pytest.raises(PoolClosed):
        await pool.send_to(request(), "127.0.0.1")
    with pytest.raises(StopAsyncIteration):
        await pool.__anext__()
    await pool.aclose()
    assert "closed" in repr(pool)


async def test_end_tells_everybody() -> None:
    outcomes: Outcomes = []
    with Server(Silent(), accepting=False) as server:
        async with anyio.create_task_group() as group, leg(max_queue=100_000_000) as pool:
            for n in range(30):
                pool.send_soon(response_of(1_000_000), (server.host, server.port), told(outcomes, n))
            pool.send_soon(request(), "127.0.0.1:9", told(outcomes, 30))

            async def iterate() -> None:
                async for _ in pool:
                    raise AssertionError

            group.start_soon(iterate)
            await turns(20)
    assert sorted(n for n, _ in outcomes) == list(range(31))
    assert [n for n, _ in outcomes if n < 30] == list(range(30))
    assert outcomes[-1][1] is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_fork_leaves_the_parent_alone() -> None:
    async with leg() as pool, leg() as other:
        await pool.send_to(request(), ("127.0.0.1", port_of(other)))
        await other.__anext__()
        child = os.fork()
        if not child:
            os._exit(0 if pool.master.fileno() == -1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        await pool.send_to(request(), ("127.0.0.1", port_of(other)))
        await other.__anext__()
        assert pool.stats().opened == 1


async def test_message_objects_both_ways() -> None:
    # heritage sip 1.25.
    async with leg(raw=False) as pool, leg(raw=False) as other:
        made = sipmessage.Request("MESSAGE", sipmessage.URI.parse("sip:a@127.0.0.1"), body="grüß".encode())
        for name, value in {
            "Via": "SIP/2.0/TCP h;branch=z9hG4bKm",
            "From": "<sip:a@b>;tag=a",
            "To": "<sip:b@b>",
            "Call-ID": "m",
            "CSeq": "1 MESSAGE",
        }.items():
            made.headers.add(name, value)
        made.headers.add("Content-Length", "99")  # what is wrong is put right
        await pool.send_to(made, f"127.0.0.1:{port_of(other)}")
        got, source = await other.__anext__()
        assert isinstance(got, sipmessage.Request)
        assert got.body.decode() == "grüß"
        assert got.content_length == 6
        await other.send_to(answer(got), source)
        back, _ = await pool.__anext__()
        assert isinstance(back, sipmessage.Response)
        assert back.code == 200


@pytest.mark.parametrize(
    "uri", [b"soap.beep://a", b"urn:service:sos", b"sip:a@b#c", b"sip:a_b@c_d", b"tel:+1;x=\xe9"]
)
async def test_what_the_library_cannot_represent_comes_as_bytes(uri: bytes) -> None:
    async with leg(raw=False) as pool, await dial(pool) as peer:
        strange = request().replace(b"sip:bob@127.0.0.1 SIP", uri + b" SIP")
        await peer.send(strange + request().replace(b"To:", b"To :").replace(b"Call-ID: ", b"Call-ID:\r\n "))
        got, source = await pool.__anext__()
        assert got == strange
        await pool.send_to(response(strange, 416, "Unsupported URI Scheme"), source)
        assert (await peer.receive()).startswith(b"SIP/2.0 416 ")
        got, _ = await pool.__anext__()
        assert isinstance(got, sipmessage.Request)
        assert got.to_address.uri.user == "bob"
        assert got.call_id.endswith("@kit")
        assert pool.stats().flaws == {"unparsed": 1}


async def test_keep_alive_can_be_sent() -> None:
    async with leg() as pool, leg() as other:
        await pool.send_to(b"\r\n\r\n", ("127.0.0.1", port_of(other)))
        await until(lambda: other.stats().accepted)
        await pool.send_to(request(), ("127.0.0.1", port_of(other)))
        await other.__anext__()
        assert pool.stats().flaws == {}


@pytest.mark.parametrize("proto", ["udp", "tcp"])
@pytest.mark.parametrize("form", ["text", "tuple", "record", "mapping", "name"])
async def test_destinations(proto: str, form: str) -> None:
    # heritage sip 1.10, 1.13.
    async with leg(proto) as pool, leg(proto) as other:
        port = port_of(other)

        class Record:
            host, addr = "some.test", "127.0.0.1"

        Record.port = port  # type: ignore[attr-defined]  # a record
        dst = {
            "text": f"127.0.0.1:{port}",
            "tuple": ("127.0.0.1", port),
            "record": Record,
            "mapping": {"addr": "127.0.0.1", "port": port},
            "name": f"localhost:{port}",
        }[form]
        packet = request(proto=proto.upper())
        await pool.send_to(packet, dst)
        got, source = await other.__anext__()
        assert got == packet
        assert (source.addr, source.family, source.proto) == ("127.0.0.1", socket.AF_INET, proto)
        assert source.peer_certificate is None
        await other.send_to(response(packet), source)
        assert (await pool.__anext__())[0] == response(packet)


async def test_names_that_do_not_exist() -> None:
    for proto in ("udp", "tcp"):
        async with leg(proto, resolver=StaticResolver({"only6.test": "::1"})) as pool:
            with pytest.raises(SendError) as caught:
                await pool.send_to(request(), "nowhere.test")
            assert caught.value.reason == "resolve"
            with pytest.raises(SendError) as caught:
                await pool.send_to(request(), "only6.test")
            assert caught.value.error_num == errno.EAFNOSUPPORT
            assert {type(reason) for reason in pool.stats().failed} == {str}
            assert pool.connections() == []


@pytest.mark.parametrize("proto", ["udp", "tcp"])
async def test_addresses_of_the_other_family(proto: str) -> None:
    legs = [("127.0.0.1", "[::1]:9")]
    if has_ipv6():
        legs.append(("::1", "127.0.0.1:9"))
    for addr, dst in legs:
        async with leg(proto, addr) as pool:
            with pytest.raises(SendError) as caught:
                await pool.send_to(request(), dst)
            assert caught.value.error_num == errno.EAFNOSUPPORT
            with pytest.raises(SendError):  # as a Via can have it, that others wrote
                await pool.send_to(response(request(via=dst)))


async def test_all_addresses_of_a_name_are_tried() -> None:
    names = StaticResolver({"two.test": ("127.0.0.3", "127.0.0.1")})
    async with leg(resolver=names) as pool, leg() as other:
        packet = request()
        await pool.send_to(packet, f"two.test:{port_of(other)}")
        assert (await other.__anext__())[0] == packet
        await pool.send_to(packet, f"Two.test.:{port_of(other)}")
        await pool.send_to(packet, f"127.0.0.1:{port_of(other)}")
        assert pool.stats().opened == 1
        assert engine_of(pool).flows.extra == 0


async def test_ipv6() -> None:
    # heritage sip 1.53.
    if not has_ipv6():
        pytest.skip("needs IPv6 on loopback")
    for proto in ("udp", "tcp"):
        async with leg(proto, "::1") as pool, leg(proto, "::1") as other:
            packet = request()
            await pool.send_to(packet, f"[0:0:0:0:0:0:0:1]:{port_of(other)}")
            got, source = await other.__anext__()
            assert got == packet
            assert str(source).startswith("[::1]:")


async def test_udp_restriction_and_connected_socket() -> None:
    # heritage sip 1.4, 1.14, 1.50, 1.51.
    async with leg("udp") as other, leg("udp") as strange:
        here = "127.0.0.1", port_of(other)
        for connected in (False, True):
            pool = open_leg("udp", "127.0.0.1", 0, dst=here, connected=connected, config=SipConfig(raw=True))
            async with pool:
                await strange.send_to(request(), ("127.0.0.1", port_of(pool)))
                await pool.send_to(request(), "192.0.2.1:9")  # goes to dst all the same
                packet, source = await other.__anext__()
                await other.send_to(response(bytes(packet)), source)
                got, _ = await pool.__anext__()
                assert got == response(bytes(packet))
                assert pool.stats().received == 1


async def test_datagrams_that_are_no_messages() -> None:
    # heritage sip 1.35.
    async with leg("udp") as pool:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port_of(pool)))
            sock.settimeout(5)
            for data in (
                b"",
                b"\r\n\r\n",
                b"\0" * 12,
                b"\r\n\r\n" + b"\0" * 12,
                b"garbage" * 10,
                b"\r\n" * 20,
            ):
                sock.send(data)
            cut = request("INVITE").replace(b"Content-Length: 0", b"Content-Length: 9999")
            sock.send(cut)
            packet = request()
            sock.send(b"\r\n" + packet)
            assert (await pool.__anext__())[0] == packet
            answer_to_cut = sock.recv(65536)
        assert answer_to_cut.startswith(b"SIP/2.0 400 Bad Request (body cut off)")
        assert pool.stats().flaws == {"no end of header": 1, "body cut off": 1}


async def test_datagram_is_one_message_whatever_its_length_says() -> None:
    """RFC 4475 3.1.1.8, dblreq: the second request is none, but it stays where it is."""
    async with leg("udp") as pool, leg("udp") as other:
        double = request("REGISTER", proto="UDP") + request("INVITE", proto="UDP")
        last = request(proto="UDP")
        for packet in (double, last):
            await other.send_to(packet, ("127.0.0.1", port_of(pool)))
        assert [(await pool.__anext__())[0] for _ in range(2)] == [double, last]
        assert pool.stats().received == 2
