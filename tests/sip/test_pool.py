"""The pool as its users see it: arguments, life, order, back-pressure, cancellation, bad input."""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import sipmessage

from keepalive import StaticResolver
from keepalive.sip import PoolClosed, SendError, SipConfig, SipTLS, SocketPool, open_leg
from tests.sip.kit import Outcomes, answer, dial, leg, port_of, request, response, response_of, told, until
from tests.support import Server, Silent, has_ipv6
from tests.support.inside import engine_of
from tests.support.waiting import turns

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import Authority


# -- arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_header", 0, ValueError),
        ("max_header", None, TypeError),
        ("max_body", -1, ValueError),
        ("max_tid", "30", TypeError),
        ("min_expire", 0, ValueError),
        ("max_expire", 10.0, ValueError),
        ("connect_timeout", float("nan"), ValueError),
        ("connect_timeout", None, TypeError),
        ("max_connections", 0, ValueError),
        ("max_per_peer", 1.5, TypeError),
        ("mtu", 200, ValueError),
        ("oversize", "split", ValueError),
        ("raw", 1, TypeError),
        ("resolver", "8.8.8.8", TypeError),
    ],
)
def test_wrong_settings_are_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        SipConfig(**{name: value})


def test_wrong_arguments_are_named() -> None:
    # heritage sip 1.1, 1.2.
    udp = socket.socket(type=socket.SOCK_DGRAM)
    tcp, listener = socket.socket(), socket.create_server(("127.0.0.1", 0))
    tls: Any = SipTLS()
    with udp, tcp, listener:
        bad: list[tuple[Callable[[], object], str]] = [
            (lambda: SocketPool("sctp", udp), "proto"),  # type: ignore[arg-type]  # what is tested
            (lambda: SocketPool("tcp", udp), "listening TCP socket"),
            (lambda: SocketPool("udp", listener), "UDP socket"),
            (lambda: SocketPool("tcp", tcp), "listening"),
            (lambda: SocketPool("tls", listener), "tls must be given"),
            (lambda: SocketPool("tcp", listener, tls=tls), "tls must be given"),
            (lambda: SipTLS(verify_client=1), "verify_client needs cert"),
            (lambda: SocketPool("udp", udp, connected=True), "no peer"),
            (lambda: SocketPool("udp", udp, dst="a.test:5060"), "dst must be an address"),
            (lambda: open_leg("udp", "a.test"), "addr"),
            (lambda: open_leg("udp", port=70_000), "port"),
            (lambda: SipTLS(verify_client=2), "verify_client"),  # type: ignore[arg-type]  # as above
            (lambda: SipTLS(key="k"), "key"),
        ]
        for call, words in bad:
            with pytest.raises(ValueError, match=words):
                call()
        with pytest.raises(TypeError, match="sock"):
            SocketPool("udp", 7)  # type: ignore[arg-type]  # as above


def test_bad_certificate_files_fail_at_construction(tmp_path: Path) -> None:
    # heritage sip 1.31.
    (tmp_path / "bad.pem").write_text("nothing")
    for cert in (tmp_path / "missing.pem", tmp_path / "bad.pem"):
        with pytest.raises(OSError):  # noqa: PT011  # ssl.SSLError, FileNotFoundError
            open_leg("tls", "127.0.0.1", 0, tls=SipTLS(cert=cert))


async def test_wrong_sends_cost_nothing() -> None:
    async with leg() as pool:
        bad: list[tuple[Any, Any, type[Exception]]] = [
            (5, "a", TypeError),
            ("text", "a", TypeError),
            (b"", "a", ValueError),
            (b"hello\r\n\r\n", "a", ValueError),
            (request()[:-4], "a", ValueError),
            (request() + b"x", "a", ValueError),
            (request().replace(b"Content-Length: 0\r\n", b""), "a", ValueError),
            (request(), None, ValueError),
            (request(), "", ValueError),
            (request(), "a:b", ValueError),
            (request(), "a:70000", ValueError),
            (request(), "::1:5060:x", ValueError),
            (request(), ("a", "5060"), ValueError),
            (request(), ("a b", 1), ValueError),
            (request(), (5, 1), TypeError),
            (request(), object(), TypeError),
            (request(), {"port": 1}, TypeError),
        ]
        for packet, dst, error in bad:
            with pytest.raises(error):
                await pool.send_to(packet, dst)
            with pytest.raises(error):
                pool.send_soon(packet, dst)
        with pytest.raises(TypeError, match="callback"):
            pool.send_soon(request(), "a", 5)  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match="callback"):
            pool.attach(None)  # type: ignore[arg-type]  # as above
        assert pool.connections() == []


# -- life --------------------------------------------------------------------------------------------


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


# -- messages ----------------------------------------------------------------------------------------


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
    # heritage sip 1.36.
    async with leg("udp") as pool, leg("udp") as other:
        double = request("REGISTER", proto="UDP") + request("INVITE", proto="UDP")
        last = request(proto="UDP")
        for packet in (double, last):
            await other.send_to(packet, ("127.0.0.1", port_of(pool)))
        assert [(await pool.__anext__())[0] for _ in range(2)] == [double, last]
        assert pool.stats().received == 2


# -- order, back-pressure, cancellation --------------------------------------------------------------


async def test_order_is_kept_through_a_slow_reader() -> None:
    # heritage sip 1.37.
    packets = [request(body=bytes([n]) * 65_000) for n in range(200)]
    async with leg(max_queue=100_000_000) as pool, leg(max_inbox=5) as other:
        outcomes: Outcomes = []
        for n, packet in enumerate(packets):
            pool.send_soon(packet, ("127.0.0.1", port_of(other)), told(outcomes, n))
        await turns(100)
        assert other.stats().inbox < 20  # nothing more is read while nobody takes them
        assert len(outcomes) < 200
        for packet in packets:
            assert (await other.__anext__())[0] == packet
        await until(lambda: len(outcomes) == 200)
        assert outcomes == [(n, None) for n in range(200)]


async def test_attach_gets_what_waited_first() -> None:
    # heritage sip 1.7, 1.11.
    async with leg() as pool, await dial(pool) as peer:
        packets = [request() for _ in range(6)]
        await peer.send(b"".join(packets[:3]))
        await until(lambda: pool.stats().inbox == 3)
        got: list[Any] = []
        pool.attach(lambda packet, _: got.append(packet))
        await peer.send(b"".join(packets[3:5]))
        await until(lambda: len(got) == 5)
        pool.detach()
        await peer.send(packets[5])
        got.append((await pool.__anext__())[0])
        assert got == packets


async def test_queue_has_a_limit() -> None:
    with Server(Silent(), accepting=False) as server:
        async with leg(max_queue=1_000_000) as pool:
            outcomes: Outcomes = []
            for n in range(20):
                pool.send_soon(response_of(500_000), (server.host, server.port), told(outcomes, n))
                await turns(3)
            assert (19, "queue") in outcomes
            assert pool.stats().queued <= 1_000_000
            with pytest.raises(SendError) as caught:
                await pool.send_to(response_of(900_000), (server.host, server.port))
            assert caught.value.error_num == errno.ENOBUFS


async def test_cancelled_send_is_withdrawn_if_nothing_of_it_went_out() -> None:
    with Server(Silent(), accepting=False) as server:
        async with leg() as pool:
            dst = server.host, server.port
            outcomes: Outcomes = []
            for n in range(12):
                pool.send_soon(response_of(1_000_000), dst, told(outcomes, n))
            await turns(20)
            queued = pool.stats().queued
            assert queued
            with anyio.move_on_after(0.02) as scope:
                await pool.send_to(request(), dst)
            assert scope.cancelled_caught
            assert pool.stats().queued == queued


async def test_descriptors_run_short(caplog: pytest.LogCaptureFixture) -> None:
    async with leg() as pool:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        peers = [socket.socket() for _ in range(3)]
        highest = max(peer.fileno() for peer in peers)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        try:
            for peer in peers:
                peer.connect(("127.0.0.1", port_of(pool)))
            await until(lambda: "cannot accept" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        await until(lambda: pool.stats().accepted == 3)
        for peer in peers:
            peer.close()
    assert caplog.text.count("cannot accept") == 1


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "no content-length"),
        (b"OPTIONS sip:x SIP/2.0\nl: 0\n\n" + request(), "line end"),
        (b"x" * 20_000, "header too big"),
        (request().replace(b"Content-Length: 0", b"Content-Length: -5"), "content-length"),
        (request().replace(b"Content-Length: 0", b"Content-Length: 5\r\nl: 6"), "conflicting content-length"),
        (request().replace(b"Content-Length: 0", b"Content-Length: 65537"), "body too big"),
        (os.urandom(5000) + b"\r\n\r\n", None),
    ],
)
async def test_bad_input_ends_the_connection_only(data: bytes, flaw: str | None) -> None:
    async with leg() as pool, await dial(pool) as good, await dial(pool) as bad:
        await bad.send(data)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            while True:
                said = await bad.receive()
                assert said.startswith(b"SIP/2.0 400 ")
        assert pool.stats().closed == {"framing": 1}
        assert flaw is None or pool.stats().flaws == {flaw: 1}
        packet = request()
        await good.send(packet)
        assert (await pool.__anext__())[0] == packet


async def test_contexts_of_ones_own(tmp_path: Path, ca: Authority, client_context: ssl.SSLContext) -> None:
    tls = SipTLS(server_context=ca.server(), client_context=client_context)
    async with leg("tls", tls=tls) as pool, leg("tls", tls=tls) as other:
        await pool.send_to(request(), f"localhost:{port_of(other)}")
        await other.__anext__()
        with pytest.raises(SendError, match="certificate verify failed"):
            await pool.send_to(request(), {"host": "other.test", "addr": "127.0.0.1", "port": port_of(other)})
