"""What the `trace` extension tells is what it tells with the library's own transport."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from keepalive.httpx import Transport
from tests.http.kit import Script, then_close, url
from tests.support import Server, refused_port
from tests.support.peers import microsocks, tinyproxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Authority

# Their own transports leave generators open, which trio tells, and a socket when a SOCKS proxy refuses.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROUTES: dict[str, Any] = {
    "/nothing": then_close(b""),
    "/cut": then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"),
}


@pytest.fixture(params=[httpx2, httpx], ids=["httpx2", "httpx"])
def lib(request: pytest.FixtureRequest) -> Any:
    return request.param


def told(value: Any) -> Any:
    """What of a value must be equal."""
    if isinstance(value, BaseException):
        return type(value).__name__
    if hasattr(value, "get_extra_info"):
        tls = value.get_extra_info("ssl_object")
        return "stream", value.get_extra_info("server_addr"), tls and (tls.version(), tls.server_hostname)
    if type(value).__name__ == "Request":
        where = value.url
        headers = sorted((name.lower(), content) for name, content in value.headers)
        return (
            value.method,
            where.scheme,
            where.host,
            where.port,
            where.target,
            headers,
            set(value.extensions),
        )
    if type(value).__name__ == "SSLContext":
        return value.verify_mode
    return value


async def events(lib: Any, transport: Any, addresses: list[str], **extensions: Any) -> list[Any]:
    found: list[Any] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        # httpcore2 tells more than httpcore of SOCKS.
        known = {key: told(value) for key, value in info.items() if key != "timeouts"}
        if known.get("return_value") and name == "http11.receive_response_headers.complete":
            connect = found[-1][1].get("request", ("",))[0] == b"CONNECT"
            # Of a proxy's answer to CONNECT it is known that it was a good one.
            known["return_value"] = known["return_value"][1] if connect else known["return_value"]
        found.append((name, known))

    async with lib.AsyncClient(transport=transport) as client:
        for where in addresses:
            try:
                await client.get(where, extensions={"trace": trace, **extensions}, timeout=5)
            except lib.HTTPError as exc:
                found.append(type(exc))
    return found


async def compare(lib: Any, addresses: list[str], **options: Any) -> list[Any]:
    options.setdefault("verify", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # quick to make: it trusts nobody
    theirs = await events(lib, lib.AsyncHTTPTransport(**options), addresses)
    assert await events(lib, Transport(**options), addresses) == theirs
    return theirs


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_of_a_server(lib: Any, ca: Authority, scheme: str) -> None:
    with Server(Script(ROUTES), tls=ca.server() if scheme == "https" else None) as server:
        paths = ("/nothing", "/", "/?q=1", "/cut")
        found = await compare(lib, [url(server, path, scheme) for path in paths], verify=ca.client())
        assert found[0][1]["host"] == server.host


async def test_of_connections_that_fail(lib: Any, ca: Authority) -> None:
    with refused_port() as nobody, Server(Script(), tls=ca.server()) as server:
        await compare(lib, [f"http://127.0.0.1:{nobody}/", url(server, scheme="https")])
        await compare(lib, [f"https://127.0.0.1:{nobody}/"], retries=1)


async def test_of_a_unix_socket(lib: Any, ca: Authority, tmp_path: Path) -> None:
    with Server(Script(), path=tmp_path / "plain") as plain:
        found = await compare(lib, ["http://anything.test/"], uds=plain.host)
        assert found[0][1]["path"] == plain.host


async def test_of_http_proxies(lib: Any, ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    with (
        Server(Script()) as plain, Server(Script(), tls=ca.server()) as tls, refused_port() as nobody,
        tinyproxy(tmp_path) as port, tinyproxy(tmp_path / "locked", "BasicAuth me secret") as locked,
    ):  # fmt: skip
        addresses = [url(plain), url(tls, scheme="https")]
        for proxy in (f"http://127.0.0.1:{port}", f"http://me:secret@127.0.0.1:{locked}"):
            found = await compare(lib, addresses, proxy=proxy, verify=ca.client())
            assert "proxy.start_tls.complete" in [event[0] for event in found]
        await compare(lib, addresses, proxy=f"http://127.0.0.1:{nobody}")


async def test_of_socks_proxies(lib: Any, ca: Authority) -> None:
    with (
        Server(Script()) as plain, Server(Script(), tls=ca.server()) as tls, refused_port() as nobody,
        microsocks() as port, microsocks("-u", "me", "-P", "secret") as locked,
    ):  # fmt: skip
        addresses = [url(plain), url(tls, scheme="https"), f"http://127.0.0.1:{nobody}/"]
        for proxy in (f"socks5://127.0.0.1:{port}", f"socks5://me:secret@127.0.0.1:{locked}"):
            await compare(lib, addresses, proxy=proxy, verify=ca.client())
