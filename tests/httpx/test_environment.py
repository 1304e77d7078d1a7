"""What the environment says of proxies and certificates counts for a transport as it does for a client."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from keepalive import ConnectionManager
from keepalive.http import EnvironmentProxies
from keepalive.httpx import Transport
from tests.http.kit import Script, no_dns, url
from tests.support import Server, refused_port
from tests.support.peers import microsocks, tinyproxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Authority

# Their own transports leave generators open, which trio tells.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LIBRARIES: list[Any] = [httpx2, httpx]

URLS = (
    "http://far.invalid/", "https://far.invalid/", "http://far.invalid:81/", "http://www.far.invalid/",
    "http://notfar.invalid/", "http://FAR.invalid/", "http://127.0.0.1:{}/", "https://127.0.0.1:{}/",
    "http://localhost:{}/", "http://[::1]:{}/", "http://xn--strae-oqa.invalid/",
)  # fmt: skip
ENVIRONMENTS = (
    {"HTTP_PROXY": "{one}"},
    {"http_proxy": "{one}", "HTTPS_PROXY": "{two}"},
    {"ALL_PROXY": "{one}"},
    {"all_proxy": "{one}", "HTTPS_PROXY": "{two}"},
    {"HTTP_PROXY": "127.0.0.1:{port}"},
    {"HTTP_PROXY": "", "HTTPS_PROXY": "{two}"},
    {"NO_PROXY": "*"},
)
EXCEPTIONS = (
    "", "*", "far.invalid", ".far.invalid", "far.invalid:81", "http://far.invalid", "https://", "all://",
    "127.0.0.1", "::1", "localhost", "LOCALHOST", " far.invalid , 127.0.0.1", "x,*", "invalid", "far",
    "http://127.0.0.1",
)  # fmt: skip
NEWER = ("127.0.0.0/8", "::/64", "[::1]", "*.far.invalid", "10.0.0.0/8", "127.0.0.1/99", "a:b:c")
"""What httpx2 reads and httpx does not: its client then fails, or takes no notice."""


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


async def ways(client: Any, scripts: list[Script], port: int) -> list[Any]:
    """Say for each URL which of the proxies, if any, was asked, and how."""
    found: list[Any] = []
    for where in URLS:
        for script in scripts:
            script.asked.clear()
        try:
            outcome: Any = (await client.get(where.format(port))).status_code
        except Exception as exc:
            outcome = type(exc)
        found.append((outcome, [[asked.method for asked in script.asked] for script in scripts]))
    return found


async def compare(lib: Any, environment: dict[str, str], patch: pytest.MonkeyPatch) -> list[Any]:
    verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # they would read all certificates for each proxy
    scripts = [Script(), Script()]
    with Server(scripts[0]) as one, Server(scripts[1]) as two, refused_port() as port:
        for name, value in environment.items():
            patch.setenv(name, value.format(one=url(one), two=url(two), port=one.port))
        async with lib.AsyncClient(verify=verify, event_hooks=no_dns(lib)) as client:
            theirs = await ways(client, scripts, port)
        async with lib.AsyncClient(transport=Transport(verify=verify)) as client:
            assert await ways(client, scripts, port) == theirs
        async with lib.AsyncClient(transport=Transport(verify=verify, trust_env=False)) as client:
            assert not any(any(asked) for _, asked in await ways(client, scripts, port))
    return theirs


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_proxies_are_those_of_a_client(
    lib: Any, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = await compare(lib, environment, monkeypatch)
    assert any(any(asked) for _, asked in theirs) or environment == {"NO_PROXY": "*"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what is chosen depends on no loop
@pytest.mark.parametrize("exceptions", [*EXCEPTIONS, *NEWER])
@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_exceptions_are_those_of_a_client(
    lib: Any, exceptions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lib is httpx and exceptions in NEWER:
        pytest.skip("httpx does not read this")
    await compare(lib, {"ALL_PROXY": "{one}", "NO_PROXY": exceptions}, monkeypatch)


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_through_real_proxies(
    lib: Any, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca.write(tmp_path)[1].as_posix())
    script = Script()
    with (
        Server(script) as plain, Server(script, tls=ca.server()) as tls,
        tinyproxy(tmp_path, "BasicAuth me secret") as http_port, microsocks() as socks_port,
    ):  # fmt: skip
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{http_port}")
        monkeypatch.setenv("HTTPS_PROXY", f"socks5h://127.0.0.1:{socks_port}")
        async with lib.AsyncClient(transport=Transport()) as client:
            for where in (url(plain), url(tls, scheme="https")):
                assert (await client.get(where)).text == "hello"
            assert "via" in script.asked[0].headers
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{http_port}")
        async with lib.AsyncClient(transport=Transport()) as client:
            assert (await client.get(url(tls, scheme="https"))).text == "hello"


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_certificates_of_the_environment(
    lib: Any, variable: str, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ca.write(tmp_path)[1]
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with Server(Script(), tls=ca.server()) as server:
        async with lib.AsyncClient(transport=Transport()) as client:
            with pytest.raises(lib.ConnectError):
                await client.get(url(server, scheme="https"))
        if variable == "SSL_CERT_DIR":
            file = hashed(file, tmp_path)
        monkeypatch.setenv(variable, file.as_posix())
        async with lib.AsyncClient(transport=Transport()) as client:
            assert (await client.get(url(server, scheme="https"))).text == "hello"
        async with lib.AsyncClient(transport=Transport(trust_env=False)) as client:
            with pytest.raises(lib.ConnectError):
                await client.get(url(server, scheme="https"))


async def test_what_is_said_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script, other = Script(), Script()
    with (
        Server(script) as origin, Server(other) as proxy, Server(Script(), path=tmp_path / "socket") as unix,
        refused_port() as nobody,
    ):  # fmt: skip
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{nobody}")
        async with ConnectionManager() as mgr, httpx2.AsyncClient(transport=Transport(mgr)) as client:
            assert (await client.get(url(origin))).text == "hello"
        async with httpx2.AsyncClient(transport=Transport(uds=unix.host)) as client:
            assert (await client.get("http://far.invalid/")).text == "hello"
        async with httpx2.AsyncClient(transport=Transport(proxy=url(proxy))) as client:
            await client.get("http://far.invalid/")
        assert [asked.target for asked in other.asked] == ["http://far.invalid/"]


def test_wrong_proxies_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://localhost:1")
    with pytest.raises(ValueError, match="nonsense"):
        Transport()
    Transport(trust_env=False)


def test_rules_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "one.test:3128")
    monkeypatch.setenv("NO_PROXY", "near.test, straße.test, 10.0.0.0/8, 10.1.0.0/16, fe80::/10")
    proxies = EnvironmentProxies()
    monkeypatch.delenv("HTTPS_PROXY")
    assert proxies.urls == ("http://one.test:3128",)
    assert proxies.of("https", "far.test", None) == "http://one.test:3128"
    for host in ("near.test", "a.near.test", "xn--strae-oqa.test", "10.2.3.4", "fe80::1"):
        assert proxies.of("https", host, None) is None
    assert proxies.of("http", "far.test", None) is None
    assert EnvironmentProxies().urls == ()


def hashed(file: Path, folder: Path) -> Path:
    """Make a folder of certificates as OpenSSL wants it: each under the hash of its subject."""
    import subprocess

    command = ["openssl", "x509", "-hash", "-noout", "-in", file.as_posix()]
    digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (folder / "certificates").mkdir()
    (folder / "certificates" / f"{digest}.0").write_bytes(file.read_bytes())
    return folder / "certificates"
