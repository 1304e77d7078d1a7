# ruff: noqa: E501  # tables are read in lines
"""The same requests through the library's own transport and through ours: the results are equal."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import httpx2
import pytest

from keepalive.httpx import Transport
from tests.http.kit import Asked, Script, no_dns, ok, silent, then_close, then_reset, url
from tests.support import Server, Silent, full_backlog, refused_port
from tests.support.peers import microsocks, tinyproxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support import Authority, Peer

# Their own transports leave generators open, which trio tells, and a socket when a SOCKS proxy refuses.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LIBRARIES: list[Any] = [httpx2, httpx]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=LIBRARIES, ids=["httpx2", "httpx"])
def lib(request: pytest.FixtureRequest) -> Any:
    return request.param


def tell(peer: Peer, asked: Asked) -> None:
    """Tell the client what it asked, as the server saw it."""
    headers = {name: value for name, value in asked.headers.items() if name != "host"}
    seen = {
        "method": asked.method,
        "target": asked.target,
        "headers": headers,
        "body": asked.body.decode("latin-1"),
    }
    answer = ok(json.dumps(seen).encode(), "Content-Type: application/json")
    peer.send(answer[: answer.index(b"\r\n\r\n") + 4] if asked.method == "HEAD" else answer)


def switch(peer: Peer, asked: Asked) -> None:
    peer.send(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nfirst")


ROUTES: dict[str, Any] = {
    "/tell": tell,
    "/chunked": CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
    "/gzip": ok(gzip.compress(b"hello" * 100, mtime=0), "Content-Encoding: gzip"),
    "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/304": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    "/hint": b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(),
    "/http10": then_close(ok(version="1.0")),
    "/to-the-end": then_close(b"HTTP/1.1 200 Fine, really\r\nX: a\r\nx: b\r\n\r\nhello"),
    "/big": ok(bytes(300_000)),
    "/moved": ok(b"", "Location: /tell", status="302 Found"),
    "/cookie": ok(b"", "Set-Cookie: a=1"),
    "/nothing": then_close(b""),
    "/reset": then_reset(b""),
    "/cut": then_close(ok(b"x" * 9)[:-1]),
    "/cut-chunk": then_close(CHUNKED + b"5\r\nhel"),
    "/garbage": then_close(b"220 mail.example ESMTP ready\r\n"),
    "/bad-chunk": CHUNKED + b"zz\r\nhello\r\n",
    "/never": silent,
    "/half": ok(b"x" * 10)[:-5],
    "/switch": switch,
}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Script(ROUTES)) as running:
        yield running


def shape(response: Any) -> Any:
    """What of a response must be equal."""
    return (
        response.status_code, response.http_version, response.reason_phrase, response.headers.raw,
        response.content, str(response.url).rpartition("/")[2], [r.status_code for r in response.history],
        response.encoding, response.is_closed, response.is_stream_consumed, response.num_bytes_downloaded,
    )  # fmt: skip


async def outcome(act: Awaitable[Any]) -> Any:
    """Give the result of an action; or the class of its exception."""
    try:
        with anyio.fail_after(10):
            return await act
    except Exception as exc:
        return type(exc)


async def both(lib: Any, act: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Do the same through both transports; return what both give.

    They trust nobody unless told otherwise: to read all certificates each time takes longer than the test.
    """
    options.setdefault("verify", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    client = {"timeout": options.pop("timeout", 5), "follow_redirects": True, "trust_env": False}
    own = lib.AsyncHTTPTransport(**options)
    async with lib.AsyncClient(transport=own, event_hooks=no_dns(lib), **client) as theirs:
        expected = await outcome(act(theirs))
    async with lib.AsyncClient(transport=Transport(**options), **client) as ours:
        found = await outcome(act(ours))
    assert found == expected
    return found


async def test_answers(lib: Any, server: Server) -> None:
    paths = [*sorted(set(ROUTES) - {"/never", "/half", "/switch", "/bad-chunk"}), "/404"]

    async def shaped(request: Awaitable[Any]) -> Any:
        return shape(await request)

    async def act(client: Any) -> Any:
        return {path: await outcome(shaped(client.get(url(server, path)))) for path in paths}

    found = await both(lib, act)
    for path in ("/nothing", "/cut", "/cut-chunk", "/garbage"):
        assert found.pop(path) is lib.RemoteProtocolError
    assert found.pop("/reset") is lib.ReadError
    assert {answer[0] for answer in found.values()} == {200, 204, 304, 404}


async def pieces() -> AsyncIterator[bytes]:
    for piece in (b"one", b"", b"two"):
        yield piece


REQUESTS: list[dict[str, Any]] = [
        {"method": "HEAD"}, {"method": "OPTIONS"}, {"method": "DELETE"}, {"method": "get"},
        {"method": "POST"}, {"method": "POST", "content": b"bytes"}, {"method": "PUT", "json": {"a": 1}},
        {"method": "POST", "data": {"a": "1"}}, {"method": "POST", "files": {"f": b"x"}, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {"method": "PATCH", "content": pieces}, {"method": "PUT", "content": pieces, "headers": {"Content-Length": "6"}},
        {"method": "GET", "params": {"q": "a b\u00fc"}}, {"method": "GET", "headers": {"X": "\u00e4"}},
        {"method": "GET", "headers": [("X", "1"), ("X", "2")]}, {"method": "GET", "auth": ("me", "secret")},
        {"method": "GET", "headers": {"X": "a\r\nY: b"}}, {"method": "GET", "headers": {"X": " a"}},
        {"method": "GET", "headers": {"X y": "a"}}, {"method": "G T"},
        {"method": "GET", "extensions": {"target": b"/tell?other"}},
        {"method": "OPTIONS", "extensions": {"target": b"*"}}, {"method": "GET", "extensions": {"target": b"/a b"}},
        {"method": "POST", "content": b"x" * 200_000, "headers": {"Expect": ""}},
    ]  # fmt: skip


async def test_requests(lib: Any, server: Server) -> None:
    async def one(client: Any, options: dict[str, Any]) -> Any:
        given = dict(options)
        if given.get("content") is pieces:
            given["content"] = pieces()
        return shape(await client.request(url=url(server, "/tell"), **given))

    async def act(client: Any) -> Any:
        return [(options, await outcome(one(client, options))) for options in REQUESTS]

    await both(lib, act)


async def test_wrong_lengths(lib: Any, server: Server) -> None:
    """Theirs lets h11's own error through; ours is the library's."""
    async with lib.AsyncClient(transport=Transport()) as client:
        for length in ("5", "7"):
            with pytest.raises(lib.LocalProtocolError, match="than its Content-Length"):
                await client.put(url(server), content=pieces(), headers={"Content-Length": length})


async def test_streaming(lib: Any, server: Server) -> None:
    async def act(client: Any) -> Any:
        found: list[Any] = []
        async with client.stream("GET", url(server, "/big")) as response:
            found.append((response.status_code, response.is_closed))
            found.append(sum([len(piece) async for piece in response.aiter_bytes()]))
            found.append(await outcome(response.aread()))
        async with client.stream("GET", url(server, "/big")) as response:
            raw = response.aiter_raw()
            await anext(raw)
            await raw.aclose()
        found.append(response.is_closed)
        found.append(await outcome(response.aread()))
        async with client.stream("GET", url(server, "/bad-chunk")) as response:
            found.append(await outcome(response.aread()))
        async with client.stream("GET", url(server, "/gzip")) as response:
            found.append(len(b"".join([piece async for piece in response.aiter_raw()])))
        return found

    found = await both(lib, act)
    assert found[1] == 300_000
    assert lib.RemoteProtocolError in found


async def test_cookies_and_order(lib: Any, server: Server) -> None:
    async def act(client: Any) -> Any:
        await client.get(url(server, "/cookie"))
        responses = [await client.get(url(server, "/tell")) for _ in range(3)]
        return [shape(response) for response in responses], dict(client.cookies)

    assert (await both(lib, act))[1] == {"a": "1"}


async def test_addresses_that_fail(lib: Any) -> None:
    with refused_port() as port:

        async def act(client: Any) -> Any:
            return [
                await outcome(client.get(where))
                for where in (
                    f"http://127.0.0.1:{port}/",
                    f"https://127.0.0.1:{port}/",
                    "http://no-such-host.invalid/",
                    "ftp://127.0.0.1/",
                    "nonsense://127.0.0.1/",
                    "/path",
                )
            ]

        assert (await both(lib, act))[:2] == [lib.ConnectError] * 2


async def test_timeouts(lib: Any, server: Server) -> None:
    class Deaf(Script):
        def opened(self, peer: Peer) -> None:
            peer.pause()

    with full_backlog() as there, Server(Deaf(), receive_buffer=4096) as deaf, Server(Silent()) as mute:

        async def act(client: Any) -> Any:
            async def stuck() -> None:
                await client.get(url(server, "/never"), timeout=None)

            found = [
                await outcome(client.get(url(server, "/never"), timeout=0.05)),
                await outcome(client.get(url(server, "/half"), timeout=lib.Timeout(5, read=0.05))),
                await outcome(
                    client.get(f"http://{there.host}:{there.port}/", timeout=lib.Timeout(5, connect=0.05))
                ),
                await outcome(client.get(url(mute, scheme="https"), timeout=lib.Timeout(5, connect=0.05))),
                await outcome(
                    client.put(url(deaf), content=bytes(9_000_000), timeout=lib.Timeout(5, write=0.05))
                ),
            ]
            async with anyio.create_task_group() as group:
                group.start_soon(stuck)
                await anyio.sleep(0.05)
                found.append(await outcome(client.get(url(server), timeout=lib.Timeout(5, pool=0.05))))
                group.cancel_scope.cancel()
            found.append((await client.get(url(server))).status_code)
            return found

        found = await both(lib, act, limits=lib.Limits(max_connections=1))
    assert found == [
        lib.ReadTimeout, lib.ReadTimeout, lib.ConnectTimeout, lib.ConnectTimeout, lib.WriteTimeout, lib.PoolTimeout, 200,
    ]  # fmt: skip


async def test_tls(lib: Any, ca: Authority) -> None:
    with (
        Server(Script(ROUTES), tls=ca.server("localhost")) as server,
        Server(Script(), tls=ca.server("far.test")) as far,
    ):
        where, there = f"https://localhost:{server.port}/tell", f"https://localhost:{far.port}/"

        async def act(client: Any) -> Any:
            good = await outcome(client.get(where))
            if not isinstance(good, type):
                alpn = good.extensions["network_stream"].get_extra_info("ssl_object").version()
                good = (shape(good), alpn)
            unnamed = await outcome(client.get(there))  # later theirs would reuse the connection to far.test
            named = await outcome(client.get(there, extensions={"sni_hostname": "far.test"}))
            return good, getattr(unnamed, "status_code", unnamed), getattr(named, "status_code", named)

        assert (await both(lib, act, verify=ca.client()))[1:] == (lib.ConnectError, 200)
        assert await both(lib, act, verify=True) == (lib.ConnectError,) * 3
        unsafe = await both(lib, act, verify=False)
        assert not isinstance(unsafe[0], type)


async def test_unix_socket(lib: Any, tmp_path: Path, ca: Authority) -> None:
    async def act(client: Any) -> Any:
        return shape(await client.get("http://anything.test/tell"))

    async def act_tls(client: Any) -> Any:
        return shape(await client.get("https://localhost/tell"))

    with Server(Script(ROUTES), path=tmp_path / "plain") as plain:
        assert (await both(lib, act, uds=plain.host))[0] == 200
    with Server(Script(ROUTES), path=tmp_path / "tls", tls=ca.server()) as tls:
        assert (await both(lib, act_tls, uds=tls.host, verify=ca.client()))[0] == 200
    assert await both(lib, act, uds=str(tmp_path / "nobody")) is lib.ConnectError


async def test_local_address_and_limits(lib: Any, server: Server) -> None:
    async def act(client: Any) -> Any:
        async with client.stream("GET", url(server, "/big")) as response:
            stream = response.extensions["network_stream"]
            sock = stream.get_extra_info("socket")
            ttl = sock and sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
            return stream.get_extra_info("client_addr")[0], ttl

    options = [(socket.IPPROTO_IP, socket.IP_TTL, 77)]
    found = await both(lib, act, local_address="127.0.0.5", socket_options=options)
    assert found == ("127.0.0.5", 77)
    for keep, idle in ((0, 0), (2, 2), (None, 4)):
        with Server(Script()) as fresh:
            limits = lib.Limits(max_connections=4, max_keepalive_connections=keep)

            async def crowd(client: Any, fresh: Server = fresh) -> int:
                async with anyio.create_task_group() as group:
                    for _ in range(8):
                        group.start_soon(client.get, url(fresh))
                return fresh.connections

            async with lib.AsyncClient(transport=Transport(limits=limits)) as client:
                assert await crowd(client) <= idle
                assert fresh.peak <= 4


async def test_upgrade(lib: Any, server: Server) -> None:
    async def act(client: Any) -> Any:
        wish = {"Upgrade": "echo", "Connection": "upgrade"}
        async with client.stream("GET", url(server, "/switch"), headers=wish) as response:
            stream = response.extensions["network_stream"]
            first = await stream.read(100, timeout=5)
            info = [stream.get_extra_info(name) for name in ("server_addr", "ssl_object", "is_readable", "x")]
            silence = await outcome(stream.read(100, timeout=0.05))
            await stream.write(b"bye")
            await stream.aclose()
            return response.status_code, first, info, silence.__name__

    assert (await both(lib, act))[1] == b"first"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_trace_events_have_their_names(lib: Any, ca: Authority, scheme: str) -> None:
    with Server(Script(ROUTES), tls=ca.server() if scheme == "https" else None) as server:

        async def act(client: Any) -> Any:
            events: list[str] = []

            async def trace(name: str, info: dict[str, Any]) -> None:
                events.append(name)
                if name.endswith("response_headers.complete"):
                    version, status, reason, _ = info["return_value"]
                    events.append(f"{version} {status} {reason}")

            for path in ("/", "/chunked", "/cut", "/nothing"):
                await outcome(client.get(url(server, path, scheme), extensions={"trace": trace}))
            return events

        assert len(await both(lib, act, verify=ca.client())) > 20


async def test_proxies(lib: Any, ca: Authority, server: Server, tmp_path: Path) -> None:
    with Server(Script(ROUTES), tls=ca.server()) as tls, refused_port() as nobody:
        (tmp_path / "locked").mkdir()

        async def act(client: Any) -> Any:
            found = []
            for where in (url(server, "/tell"), url(tls, "/tell", "https"), f"https://127.0.0.1:{nobody}/"):
                result = await outcome(client.get(where))
                found.append(result if isinstance(result, type) else (result.status_code, result.content))
            return found

        options: dict[str, Any] = {"verify": ca.client()}
        with tinyproxy(tmp_path) as port, tinyproxy(tmp_path / "locked", "BasicAuth me secret") as locked:
            found = await both(lib, act, proxy=f"http://127.0.0.1:{port}", **options)
            assert [entry[0] for entry in found[:2]] == [200, 200]
            assert found[2] is lib.ProxyError
            found = await both(lib, act, proxy=f"http://me:secret@127.0.0.1:{locked}", **options)
            assert found[1][0] == 200
            found = await both(lib, act, proxy=f"http://127.0.0.1:{locked}", **options)
            assert found[1] is lib.ProxyError
        with microsocks() as port, microsocks("-u", "me", "-P", "secret") as locked:
            found = await both(lib, act, proxy=f"socks5://127.0.0.1:{port}", **options)
            assert [entry[0] for entry in found[:2]] == [200, 200]
            assert found[2] is lib.ProxyError
            await both(
                lib, act, proxy=lib.Proxy(f"socks5h://127.0.0.1:{locked}", auth=("me", "secret")), **options
            )
            assert (await both(lib, act, proxy=f"socks5://127.0.0.1:{locked}", **options))[
                0
            ] is lib.ProxyError
        found = await both(lib, act, proxy=f"http://127.0.0.1:{nobody}", **options)
        assert found[0] is lib.ConnectError
