"""Which address of ours a peer knows, and that an IPv4 peer is the same one to an IPv6 socket."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from keepalive import StaticResolver
from keepalive.sip import SendError, SipConfig, SipTLS, SocketPool, open_leg
from tests.sip.kit import dial, leg, port_of, request, response, until
from tests.support import has_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import Authority

linux = pytest.mark.skipif(sys.platform != "linux", reason="only there all of 127/8 is ours")
ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6")
WILDCARDS = ["0.0.0.0", pytest.param("::", marks=ipv6)]
pytestmark = linux


@contextmanager
def udp(addr: str = "127.0.0.3", family: int = socket.AF_INET) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((addr, 0))
        sock.setblocking(False)
        yield sock


async def heard(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """Return a datagram and where it came from."""
    found: list[tuple[bytes, tuple[str, int]]] = []

    def look() -> bool:
        try:
            data, address = sock.recvfrom(65536)
        except BlockingIOError:
            return False
        found.append((data, address[:2]))
        return True

    await until(look)
    return found[0]


# -- answers leave from where they were asked (RFC 3581 4, RFC 3261 18.2.2) --------------------------


@pytest.mark.parametrize("wildcard", WILDCARDS)
@pytest.mark.parametrize("way", ["source", "via", "text", "soon"])
async def test_answers_leave_from_where_they_were_asked(wildcard: str, way: str) -> None:
    # heritage sip 6.F.
    async with leg("udp", wildcard) as pool:
        with udp() as peer:
            host, port = peer.getsockname()
            asked = request(via=f"{host}:{port};rport={port};received={host}", proto="UDP")
            for ours in ("127.0.0.2", "127.0.0.4", "127.0.0.1", "127.0.0.2"):
                peer.sendto(asked, (ours, port_of(pool)))
                _, source = await pool.__anext__()
                assert (source.addr, source.family) == (host, socket.AF_INET)
                assert source.local == (ours, port_of(pool))
                assert str(source.local) == f"{ours}:{port_of(pool)}"
                dst = {"source": source, "via": None, "text": f"{host}:{port}", "soon": source}[way]
                if way == "soon":
                    pool.send_soon(response(asked), dst)
                else:
                    went = await pool.send_to(response(asked), dst)
                    assert went.local == (ours, port_of(pool))
                assert await heard(peer) == (response(asked), (ours, port_of(pool)))


@pytest.mark.parametrize("wildcard", WILDCARDS)
async def test_requests_leave_from_the_address_that_the_peer_knows(wildcard: str) -> None:
    async with leg("udp", wildcard) as pool:
        with udp() as peer, udp("127.0.0.5") as other:
            peer.sendto(request("REGISTER"), ("127.0.0.2", port_of(pool)))
            await pool.__anext__()
            await pool.send_to(request("INVITE"), peer.getsockname())
            assert (await heard(peer))[1] == ("127.0.0.2", port_of(pool))
            await pool.send_to(request("INVITE"), other.getsockname())
            assert (await heard(other))[1] == ("127.0.0.1", port_of(pool))  # the kernel's choice


@pytest.mark.parametrize("wildcard", WILDCARDS)
async def test_the_pools_own_answers_leave_from_there_too(wildcard: str) -> None:
    async with leg("udp", wildcard) as pool:
        with udp() as peer:
            peer.sendto(request(body=b"cut")[:-1], ("127.0.0.2", port_of(pool)))
            data, address = await heard(peer)
            assert data.startswith(b"SIP/2.0 400")
            assert address == ("127.0.0.2", port_of(pool))


@ipv6
async def test_answers_leave_from_the_ipv6_address_that_was_asked() -> None:
    async with leg("udp", "::") as pool:
        with udp("::1", socket.AF_INET6) as peer:
            peer.sendto(request(), ("::1", port_of(pool)))
            _, source = await pool.__anext__()
            assert source.local == ("::1", port_of(pool))
            assert str(source.local) == f"[::1]:{port_of(pool)}"
            await pool.send_to(response(request()), source)
            assert (await heard(peer))[1] == ("::1", port_of(pool))


@pytest.mark.parametrize("wildcard", WILDCARDS)
async def test_an_address_that_is_no_longer_ours_does_not_silence_us(wildcard: str) -> None:
    async with leg("udp", wildcard) as pool, leg("udp", "127.0.0.1") as other:
        with udp() as peer:
            peer.sendto(request(), ("127.0.0.1", port_of(other)))
            _, source = await other.__anext__()
            source.local = source.local._replace(addr="203.0.113.7")
            await pool.send_to(request(), source)
            assert (await heard(peer))[1] == ("127.0.0.1", port_of(pool))


async def test_a_broadcast_is_answered_from_an_address_of_ours() -> None:
    async with leg("udp", "0.0.0.0") as pool:
        with udp("127.0.0.1") as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            peer.sendto(request(), ("127.255.255.255", port_of(pool)))
            _, source = await pool.__anext__()
            await pool.send_to(response(request()), source)
            address = (await heard(peer))[1]
            assert address == source.local
            assert address[0] != "127.255.255.255"


async def test_a_bound_or_connected_leg_tells_its_address() -> None:
    with udp("127.0.0.3") as peer:
        async with leg("udp", "127.0.0.2") as pool:
            peer.sendto(request(), ("127.0.0.2", port_of(pool)))
            _, source = await pool.__anext__()
            assert source.local == ("127.0.0.2", port_of(pool))
        host, port = peer.getsockname()
        made = open_leg("udp", "0.0.0.0", 0, dst=(host, port), connected=True, config=SipConfig(raw=True))
        async with made as pool:
            peer.sendto(request(), ("127.0.0.1", port_of(pool)))
            _, source = await pool.__anext__()
            assert source.local == ("127.0.0.1", port_of(pool))
            await pool.send_to(response(request()), source)
            await heard(peer)


# -- streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wildcard", WILDCARDS)
@pytest.mark.parametrize("proto", ["tcp", "tls"])
async def test_streams_tell_the_local_address_in_both_directions(
    tmp_path: Path, ca: Authority, wildcard: str, proto: str
) -> None:
    tls = None
    if proto == "tls":
        pair, trust = ca.write(tmp_path, "127.0.0.1", "127.0.0.2")
        tls = SipTLS(cert=pair, ca=trust)
    async with leg(proto, wildcard, tls=tls) as pool, leg(proto, "127.0.0.2", tls=tls) as peer:
        went = await peer.send_to(request(), ("127.0.0.1", port_of(pool)))
        assert went.local == ("127.0.0.2", port_of(peer))  # not the port of this connection
        _, source = await pool.__anext__()
        assert source.local == ("127.0.0.1", port_of(pool))
        assert source.addr == "127.0.0.2"
        went = await pool.send_to(request(), ("127.0.0.2", port_of(peer)))
        _, source = await peer.__anext__()
        assert went.local == (source.addr, port_of(pool))
        assert source.local == ("127.0.0.2", port_of(peer))


# -- [::] serves IPv4 peers --------------------------------------------------------------------------


@ipv6
@pytest.mark.parametrize("form", ["127.0.0.1", "::ffff:127.0.0.1", "::FFFF:7F00:1"])
async def test_mapped_and_plain_are_one_peer_on_a_stream(form: str) -> None:
    # heritage sip 1.55, 6.G.
    async with leg("tcp", "::", max_per_peer=1) as pool, leg("tcp", "::") as peer:
        await pool.send_to(request(), (form, port_of(peer)))
        await pool.send_to(request(), ("127.0.0.1", port_of(peer)))
        await pool.send_to(request(), f"[::ffff:127.0.0.1]:{port_of(peer)}")
        assert pool.stats().opened == 1
        _, source = await peer.__anext__()
        assert (source.addr, source.host, source.family) == ("127.0.0.1", "127.0.0.1", socket.AF_INET)
        await peer.send_to(request(), (form, source.port))  # back on that connection
        await pool.__anext__()
        assert [(one.addr, one.inbound) for one in peer.connections()] == [("127.0.0.1", True)]
        assert pool.close((form, port_of(peer))) == 1


@ipv6
@pytest.mark.parametrize("form", ["127.0.0.1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
async def test_a_leg_with_one_peer_knows_it_in_either_form(form: str, proto: str) -> None:
    peer_family = leg(proto, "127.0.0.1")
    async with peer_family as peer, leg(proto, "::", dst=(form, port_of(peer))) as pool:
        went = await pool.send_to(request(), None)
        assert went.addr == "127.0.0.1"
        _, source = await peer.__anext__()
        await peer.send_to(request(), source)
        _, source = await pool.__anext__()
        assert source.addr == "127.0.0.1"
        assert pool.stats().flaws == {}


@ipv6
async def test_a_datagram_socket_of_both_families_sends_to_both() -> None:
    names = StaticResolver({"four.test": "127.0.0.1", "six.test": "::1"})
    async with leg("udp", "::", resolver=names) as pool, leg("udp") as four, leg("udp", "::1") as six:
        for host, peer in (("four.test", four), ("127.0.0.1", four), ("six.test", six), ("::1", six)):
            went = await pool.send_to(request(), (host, port_of(peer)))
            _, source = await peer.__anext__()
            assert source.addr == went.addr == ("127.0.0.1" if peer is four else "::1")


@ipv6
@pytest.mark.parametrize("addr", ["::1", "::ffff:127.0.0.1"])
async def test_a_datagram_socket_of_one_family_says_that_it_cannot(addr: str) -> None:
    wrong = "127.0.0.1:5060" if addr == "::1" else "[::1]:5060"
    async with leg("udp", addr) as pool:
        with pytest.raises(SendError) as caught:
            await pool.send_to(request(), wrong)
        assert caught.value.error_num == errno.EAFNOSUPPORT
    only = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    only.bind(("::", 0))
    async with SocketPool("udp", only, config=SipConfig(raw=True)) as pool:
        with pytest.raises(SendError) as caught:
            await pool.send_to(request(), "127.0.0.1:5060")
        assert caught.value.error_num == errno.EAFNOSUPPORT


@ipv6
@pytest.mark.parametrize("addr", ["::ffff:127.0.0.2", "::"])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
async def test_a_leg_at_a_mapped_address_tells_the_plain_one(addr: str, proto: str) -> None:
    async with leg(proto, addr) as pool, leg(proto, "127.0.0.1") as peer:
        await peer.send_to(packet := request(), ("127.0.0.2", port_of(pool)))
        _, source = await pool.__anext__()
        assert source.local == ("127.0.0.2", port_of(pool))
        await pool.send_to(response(packet), source)
        _, source = await peer.__anext__()
        assert source.addr == "127.0.0.2"


@ipv6
async def test_a_connected_leg_of_ipv6_may_have_an_ipv4_peer() -> None:
    async with leg("udp") as peer:
        made = open_leg(
            "udp", "::", 0, dst=("127.0.0.1", port_of(peer)), connected=True, config=SipConfig(raw=True)
        )
        async with made as pool:
            await pool.send_to(request(), None)
            _, source = await peer.__anext__()
            await peer.send_to(request(), source)
            _, source = await pool.__anext__()
            assert source.local == ("127.0.0.1", port_of(pool))


@ipv6
async def test_a_via_that_says_a_mapped_address_finds_the_plain_connection() -> None:
    async with leg("tcp", "::") as pool, await dial(pool) as peer:
        await peer.send(request())
        _, source = await pool.__anext__()
        via = f"192.0.2.7;received=[::ffff:127.0.0.1];rport={source.port}"
        went = await pool.send_to(response(request(via=via)), None)
        assert went is source


@ipv6
async def test_a_certificate_for_an_address_is_good_for_its_mapped_form(
    tmp_path: Path, ca: Authority
) -> None:
    pair, trust = ca.write(tmp_path, "127.0.0.1")
    tls = SipTLS(cert=pair, ca=trust)
    async with leg("tls", "::", tls=tls) as pool, leg("tls", "::", tls=tls) as peer:
        await pool.send_to(request(), ("::ffff:127.0.0.1", port_of(peer)))
        await pool.send_to(request(), ("127.0.0.1", port_of(peer)))
        assert pool.stats().opened == 1
