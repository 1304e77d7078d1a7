"""Whom TLS connections trust: by default only names that a known authority vouches for."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
from anyio import BrokenResourceError
from anyio.streams.tls import TLSAttribute

from keepalive import AllocateError, ConnectionManager, StaticResolver, TLSConnector, TLSError
from tests.support import Server, has_ipv6
from tests.support.certs import House, self_signed
from tests.support.requests import ask, exchange

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def house() -> House:
    return House()


async def refuse(server: Server, connector: TLSConnector | None, **more: Any) -> TLSError:
    """See that the connector refuses the server, and that nothing is left of it."""
    connectors = None if connector is None else {"https": connector}
    async with ConnectionManager(connectors=connectors) as manager:
        request = ask(manager, server, scheme="https", context="mine", timeout=5, **more)
        with pytest.raises(TLSError) as caught:
            await request
        stats = manager.stats()
        assert stats.open == 0
        assert stats.failed == {"tls": 1}
        await server.until(lambda server: not server.connections)
    error = caught.value
    assert isinstance(error, AllocateError)
    assert (error.function, error.error_num, error.context) == ("tls", None, "mine")
    assert (error.scheme, error.addr, error.port) == ("https", server.host, server.port)
    assert error.request_id == request.id
    assert isinstance(error.__cause__, ssl.SSLError)
    assert "tls" in str(error)
    return error


async def test_https_trusts_the_system_by_default(tls_server: Server) -> None:
    error = await refuse(tls_server, None)
    assert "certificate verify failed" in error.error_str


async def test_another_authority(tls_server: Server, house: House) -> None:
    error = await refuse(tls_server, TLSConnector(house.client(), "localhost"))
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


async def test_another_name(house: House) -> None:
    with Server(tls=house.server("other.test")) as server:
        error = await refuse(server, TLSConnector(house.client(), "localhost"))
        assert "localhost" in error.error_str
        await refuse(server, TLSConnector(house.client()))  # by default the name is the address
        await refuse(server, TLSConnector(house.client()), for_addr="wrong.test")
        connectors = {"https": TLSConnector(house.client())}
        async with (
            ConnectionManager(connectors=connectors) as manager,
            ask(manager, server, scheme="https", for_addr="other.test") as conn,
        ):
            await exchange(conn)


async def test_an_expired_certificate(house: House) -> None:
    with Server(tls=house.server("localhost", days=-1)) as server:
        error = await refuse(server, TLSConnector(house.client(), "localhost"))
        assert "expired" in error.error_str


async def test_a_certificate_that_vouches_for_itself(tmp_path: Path, house: House) -> None:
    with Server(tls=self_signed(tmp_path, "localhost")) as server:
        error = await refuse(server, TLSConnector(house.client(), "localhost"))
        assert "self-signed" in error.error_str or "self signed" in error.error_str


async def test_a_context_of_ones_own_decides(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with Server(tls=self_signed(tmp_path, "whoever.test")) as server:
        connectors = {"https": TLSConnector(context)}
        async with (
            ConnectionManager(connectors=connectors) as manager,
            ask(manager, server, scheme="https") as conn,
        ):
            await exchange(conn)


async def test_versions_that_do_not_meet(ca: object, client_context: ssl.SSLContext, house: House) -> None:
    context = house.client()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    old = house.server("localhost")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with Server(tls=old) as server:
        error = await refuse(server, TLSConnector(context, "localhost"))
        assert "VERSION" in error.error_str


# -- the name that is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addr", "for_addr", "server_hostname", "sent"),
    [
        ("localhost", None, None, "localhost"),
        ("localhost.", None, None, "localhost"),  # RFC 6066 3: without the trailing dot
        ("127.0.0.1", "name.test", None, "name.test"),
        ("127.0.0.1", "name.test", "other.test", "other.test"),
        ("127.0.0.1", None, None, None),  # an address is no name, but it is verified
        ("some.test", None, None, "some.test"),
        ("127.0.0.1", "b\xfccher.test", None, "xn--bcher-kva.test"),
    ],
)
async def test_server_name(
    addr: str, for_addr: str | None, server_hostname: str | None, sent: str | None, house: House
) -> None:
    seen: list[str | None] = []
    context = house.server(
        "localhost", "127.0.0.1", "name.test", "other.test", "some.test", "xn--bcher-kva.test"
    )
    context.sni_callback = lambda _sock, name, _context: seen.append(name)
    connectors = {"https": TLSConnector(house.client(), server_hostname)}
    resolver = StaticResolver({"some.test": "127.0.0.1"})
    with Server(tls=context) as server:
        async with (
            ConnectionManager(connectors=connectors, resolver=resolver) as manager,
            manager.allocate("https", addr, server.port, for_addr=for_addr) as conn,
        ):
            await exchange(conn)
    assert seen == [sent]


async def test_an_ipv6_address_is_verified(house: House) -> None:
    if not has_ipv6():
        pytest.skip("needs IPv6 on the loopback interface")
    with Server(tls=house.server("::1"), host="::1") as server:
        connectors = {"https": TLSConnector(house.client())}
        async with (
            ConnectionManager(connectors=connectors) as manager,
            ask(manager, server, scheme="https") as conn,
        ):
            await exchange(conn)
    with Server(tls=house.server("127.0.0.1"), host="::1") as server:
        await refuse(server, TLSConnector(house.client()))


@pytest.mark.parametrize("name", ["a..b", ".leading", "x" * 64 + ".test"])
async def test_an_impossible_name_is_a_failure_of_the_request(
    name: str, tls_server: Server, client_context: ssl.SSLContext
) -> None:
    connectors = {"https": TLSConnector(client_context, name)}
    async with ConnectionManager(connectors=connectors) as manager:
        with pytest.raises(TLSError) as caught:
            await ask(manager, tls_server, scheme="https", timeout=5)
        assert caught.value.function == "tls"
        assert manager.stats().open == 0


# -- protocols and client certificates ---------------------------------------------------------------


@pytest.mark.parametrize("own_context", [True, False])
@pytest.mark.parametrize(
    ("offered", "known", "chosen"),
    [
        (["h2", "http/1.1"], ["http/1.1", "h2"], "http/1.1"),
        (["h2"], [], None),
        (None, ["h2"], None),
        (("spdy/3", "x"), ["x"], "x"),
    ],
)
async def test_alpn(
    offered: list[str] | None,
    known: list[str],
    chosen: str | None,
    own_context: bool,
    house: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = house.server("localhost")
    if known:
        context.set_alpn_protocols(known)
    if not own_context:  # the default one, made at the first use; the system's trust is this authority
        house.ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    connector = TLSConnector(house.client() if own_context else None, "localhost", offered)
    with Server(tls=context) as server:
        async with (
            ConnectionManager(connectors={"https": connector}) as manager,
            ask(manager, server, scheme="https") as conn,
        ):
            assert conn.extra(TLSAttribute.alpn_protocol) == chosen
            await exchange(conn)


async def test_a_client_certificate(house: House) -> None:
    with Server(tls=house.server("localhost", wants_client=True)) as server:
        connectors = {"https": TLSConnector(house.client(name="client.test"), "localhost")}
        async with (
            ConnectionManager(connectors=connectors) as manager,
            ask(manager, server, scheme="https") as conn,
        ):
            await exchange(conn)


async def test_a_client_certificate_is_missing_tls12(house: House) -> None:
    context = house.server("localhost", wants_client=True)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Server(tls=context) as server:
        await refuse(server, TLSConnector(house.client(), "localhost"))


async def test_a_client_certificate_is_missing_tls13(house: House) -> None:
    """In TLS 1.3 the client learns of the refusal after its own hand-shake: by its first receive."""
    with Server(tls=house.server("localhost", wants_client=True)) as server:
        connectors = {"https": TLSConnector(house.client(), "localhost")}
        async with ConnectionManager(connectors=connectors, max_per_host=1) as manager:
            conn = await ask(manager, server, scheme="https")
            with pytest.raises(BrokenResourceError) as caught:
                await conn.receive()
            assert isinstance(caught.value.__cause__, ssl.SSLError)
            assert "CERTIFICATE_REQUIRED" in str(caught.value.__cause__)
            conn.release()
            assert manager.stats().open == 0
            # Given back at once, it is found dead before anybody else gets it.
            conn = await ask(manager, server, scheme="https")
            conn.release()
            await server.until(lambda server: not server.connections)
            conn = await ask(manager, server, scheme="https")
            assert conn.from_cache is None
            conn.discard()
