"""TLS: whose certificate it is, who asks for one, and what a peer sees of us."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive.sip import SendError, SipTLS
from keepalive.sip.core.identity import identities, matches
from keepalive.testing import jump, run_in_virtual_time
from tests.sip.handmade import Handmade
from tests.sip.kit import dial, leg, port_of, request, response, response_of, until
from tests.support import Authority, Server, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive.sip import SocketPool


def certificate(*names: tuple[str, str], common: str = "") -> dict[str, Any]:
    return {"subject": ((("commonName", common),),), "subjectAltName": names}


@pytest.mark.parametrize(
    ("names", "common", "found"),
    [
        ([("DNS", "A.test"), ("DNS", "b.test.")], "", {"a.test", "b.test"}),
        ([("URI", "sip:A.test"), ("DNS", "b.test")], "", {"a.test"}),  # RFC 5922 7.1: URIs come first
        ([("URI", "sip:a.test:5061;x=y?z")], "", {"a.test"}),
        ([("URI", "sip:user@a.test"), ("DNS", "b.test")], "", {"b.test"}),
        ([("URI", "sips:a.test"), ("URI", "https://c.test"), ("DNS", "b.test")], "", {"b.test"}),
        ([("DNS", "*.a.test"), ("DNS", "b.test")], "", {"b.test"}),  # 7.2: no wildcards
        ([("IP Address", "0:0:0:0:0:0:0:1"), ("URI", "sip:a.test")], "", {"::1", "a.test"}),
        ([], "A.test", {"a.test"}),
        ([("DNS", "b.test")], "a.test", {"b.test"}),
    ],
)
def test_identities(names: list[tuple[str, str]], common: str, found: set[str]) -> None:
    # heritage sip 1.28.
    made = certificate(*names, common=common)
    made["subjectAltName"] = tuple(names)
    assert identities(made) == found
    for name in found:
        assert matches(made, name)
        assert matches(made, name.upper())
    assert not matches(made, "other.test")
    assert not matches(None, "a.test")


def tls_of(folder: Path, authority: Authority, *names: str, **more: Any) -> SipTLS:
    pair, trust = authority.write(folder, *(names or ("localhost", "127.0.0.1")))
    return SipTLS(cert=pair, ca=trust, **more)


async def test_each_sees_the_others_certificate(tmp_path: Path, ca: Authority) -> None:
    # heritage sip 1.29.
    tls = tls_of(tmp_path, ca, verify_client=-1)
    async with leg("tls", tls=tls) as pool, leg("tls", tls=tls) as other:
        packet = request()
        await pool.send_to(packet, f"localhost:{port_of(other)}")
        _, source = await other.__anext__()
        assert source.proto == "tls"
        assert source.peer_certificate is not None
        assert ("DNS", "localhost") in source.peer_certificate["subjectAltName"]
        await other.send_to(response(packet), source)
        _, back = await pool.__anext__()
        assert back.host == "localhost"
        assert back.peer_certificate is not None
        # A certificate is asked for, but may be missing.
        async with leg("tls", tls=SipTLS(ca=tls.ca, server_context=ca.server())) as bare:
            await bare.send_to(request(), f"localhost:{port_of(other)}")
            _, source = await other.__anext__()
            assert source.peer_certificate is None


def asking(ca: Authority) -> ssl.SSLContext:
    """Make a context that asks for certificates that nobody here has, and gives no tickets."""
    context = ca.server(tickets=0)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("late", [False, True], ids=["in-time", "at-the-last-moment"])
def test_refusal_long_after_the_handshake_is_told(
    tmp_path: Path, ca: Authority, backend: str, late: bool
) -> None:
    # heritage sip 1.33.
    async def main() -> None:
        outcomes: list[Any] = []
        with Handmade(asking(ca)) as server:
            async with leg("tls", tls=tls_of(tmp_path, ca)) as pool:
                for _ in range(3):
                    pool.send_soon(request(), f"localhost:{server.port}", outcomes.append)
                await server.greet()
                await until(lambda: handed_over(pool))
                await jump(9.9)
                assert outcomes == []
                await server.judge()
                await jump(10.0 if late else 0.0)  # the refusal has come, but nobody has looked
                await until(lambda: len(outcomes) == 3)
                assert [(type(error), error.reason) for error in outcomes] == [(SendError, "tls")] * 3

    run_in_virtual_time(main, backend=backend)


def handed_over(pool: SocketPool) -> bool:
    [info] = pool.connections()
    return info.state == "open" and not info.queued


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("word", [b"\r\n", None], ids=["a-word", "silence"])
def test_server_that_gives_no_tickets_may_speak_or_be_silent(
    tmp_path: Path, ca: Authority, backend: str, word: bytes | None
) -> None:
    async def main() -> None:
        outcomes: list[Any] = []
        with Handmade(ca.server(tickets=0)) as server:
            async with leg("tls", tls=tls_of(tmp_path, ca), connect_timeout=7.0) as pool:
                pool.send_soon(request(), f"localhost:{server.port}", outcomes.append)
                await server.greet()
                await until(lambda: handed_over(pool))
                await server.judge()
                await jump(6.99)
                assert outcomes == []
                if word is None:
                    await jump(0.01)
                else:
                    server.say(word)
                await until(lambda: outcomes == [None])
                await pool.send_to(request(), f"localhost:{server.port}")  # the next ones wait for nothing

    run_in_virtual_time(main, backend=backend)


async def test_refusal_is_read_before_a_broken_write_is_reported(tmp_path: Path, ca: Authority) -> None:
    with Handmade(asking(ca)) as server:
        async with leg("tls", tls=tls_of(tmp_path, ca)) as pool:
            outcomes: list[Any] = []
            for _ in range(3):  # more than the kernel takes
                pool.send_soon(response_of(4_000_000), f"localhost:{server.port}", outcomes.append)
            await server.greet()
            await until(lambda: pool.connections()[0].state == "open")
            await server.judge()
            server.close()
            await until(lambda: len(outcomes) == 3)
            assert {error.reason for error in outcomes} == {"tls"}


async def test_tickets_are_a_sign_that_the_server_is_content(tmp_path: Path, ca: Authority) -> None:
    with Server(Silent(), tls=ca.server(tickets=2)) as server:
        async with leg("tls", tls=tls_of(tmp_path, ca), connect_timeout=3600.0) as pool:
            with anyio.fail_after(60):
                await pool.send_to(request(), f"localhost:{server.port}")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_refused_certificate_reaches_every_sender(
    tmp_path: Path, ca: Authority, version: ssl.TLSVersion
) -> None:
    context = ca.server(version=version, tickets=0)
    context.verify_mode = ssl.CERT_REQUIRED
    with Server(Silent(), tls=context) as server:
        async with leg("tls", tls=tls_of(tmp_path, ca)) as pool:
            outcomes: list[Any] = []
            for _ in range(3):
                pool.send_soon(request(), f"localhost:{server.port}", outcomes.append)
            await until(lambda: len(outcomes) == 3)
            assert [type(error) for error in outcomes] == [SendError] * 3
            assert {error.reason for error in outcomes} == {"tls"}


async def test_12_names_that_begin_with_a_digit_are_sent_too(tmp_path: Path) -> None:
    # heritage sip 1.28.
    ca = Authority()
    seen: list[str | None] = []
    context = ca.server("1a.test")
    context.sni_callback = lambda _, name, __: seen.append(name)
    with Server(Silent(), tls=context) as server:
        async with leg("tls", tls=tls_of(tmp_path, ca)) as pool:
            await pool.send_to(request(), {"host": "1a.test", "addr": "127.0.0.1", "port": server.port})
            with pytest.raises(SendError, match="hostname verification failed"):
                await pool.send_to(request(), ("127.0.0.1", server.port))
    assert seen == ["1a.test", None]


async def test_framing_errors_are_answered_over_tls_too(tmp_path: Path, ca: Authority) -> None:
    async with leg("tls", tls=tls_of(tmp_path, ca)) as pool:
        async with await anyio.connect_tcp(
            "127.0.0.1", port_of(pool), tls_hostname="localhost", ssl_context=ca.client()
        ) as peer:
            await peer.send(request().replace(b"Content-Length: 0", b"Content-Length: none"))
            assert (await peer.receive()).startswith(b"SIP/2.0 400 Bad Request (content-length)")
            with pytest.raises(anyio.EndOfStream):
                await peer.receive()
        await until(lambda: pool.stats().connections == 0)


async def test_big_messages_through_tls(tmp_path: Path, ca: Authority) -> None:
    tls = tls_of(tmp_path, ca)
    async with leg("tls", tls=tls) as pool, leg("tls", tls=tls, max_inbox=2) as other:
        packets = [request(body=bytes([n]) * 65_000) for n in range(100)]
        outcomes: list[Any] = []
        for packet in packets:
            pool.send_soon(packet, f"localhost:{port_of(other)}", outcomes.append)
        for packet in packets:
            assert (await other.__anext__())[0] == packet
        await until(lambda: outcomes == [None] * 100)


async def test_plain_text_on_a_tls_port(tmp_path: Path, ca: Authority) -> None:
    async with leg("tls", tls=tls_of(tmp_path, ca)) as pool, await dial(pool) as peer:
        await peer.send(request())
        await until(lambda: pool.stats().closed == {"tls": 1})
