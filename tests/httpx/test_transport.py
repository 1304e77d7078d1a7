"""What our transport does beyond being like theirs."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from keepalive import ConnectionManager, HTTPProxyConnector, http
from keepalive.httpx import Transport
from tests.http.kit import Script, ok, once, silent, url
from tests.support import Server

LIBRARIES: list[Any] = [httpx2, httpx]


async def test_a_managers_limits_are_shared_by_all_who_use_it() -> None:
    with Server(Script({"/big": ok(bytes(200_000))})) as server:
        async with ConnectionManager(max_per_host=2) as mgr:
            async with (
                httpx2.AsyncClient(transport=Transport(mgr)) as one,
                httpx.AsyncClient(transport=Transport(mgr)) as two,  # type: ignore[arg-type]  # a type of httpx2's
                anyio.create_task_group() as group,
            ):

                async def own() -> None:
                    async with http.request(mgr, "GET", url(server, "/big")) as response:
                        await response.read()

                for _ in range(10):
                    group.start_soon(one.get, url(server, "/big"))
                    group.start_soon(two.get, url(server, "/"))
                    group.start_soon(own)
            assert server.peak == 2
            assert mgr.stats().opened == 2
            async with mgr.allocate("http", server.host, server.port):
                pass  # the clients have left it open


async def test_the_oldest_idle_connection_goes() -> None:
    """Twenty hosts that were asked once cost a busy one no connections."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(Script())) for _ in range(21)]
        async with httpx2.AsyncClient(transport=Transport()) as client:
            for server in servers[:20]:
                await client.get(url(server))
            for _ in range(30):
                await client.get(url(servers[20]))
        assert servers[20].accepted == 1


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_stale_connections_are_retried(lib: Any) -> None:
    with Server(Script({"/": once(lambda peer, asked: peer.close(), ok())})) as server:
        async with lib.AsyncClient(transport=Transport()) as client:
            for _ in range(4):
                assert (await client.get(url(server))).status_code == 200
            await client.get(url(server))
            with pytest.raises(lib.RemoteProtocolError):
                for _ in range(2):
                    await client.post(url(server), content=b"x")


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_retries_when_nobody_answers(lib: Any) -> None:
    with Server(Script()) as server:
        server.stop_listening()
        async with lib.AsyncClient(transport=Transport(retries=1)) as client:
            with pytest.raises(lib.ConnectError):
                await client.get(url(server))


async def test_closed_and_opened_again() -> None:
    with Server(Script()) as server:
        transport = Transport()
        client = httpx2.AsyncClient(transport=transport)
        assert (await client.get(url(server))).text == "hello"
        await client.aclose()
        assert server.connections == 0
        async with httpx2.AsyncClient(transport=transport) as client:
            assert (await client.get(url(server))).text == "hello"
        await transport.aclose()


async def test_cancelled_request_closes_its_connection() -> None:
    with Server(Script({"/never": silent})) as server:
        async with ConnectionManager() as mgr, httpx2.AsyncClient(transport=Transport(mgr)) as client:
            with anyio.move_on_after(0.05):
                await client.get(url(server, "/never"))
            assert mgr.stats().open == 0


async def test_wrong_arguments() -> None:
    async with ConnectionManager() as mgr:
        with pytest.raises(ValueError, match="proxy must not be given beside a manager"):
            Transport(mgr, proxy="http://localhost:1")
        with pytest.raises(ValueError, match="verify must not"):
            Transport(mgr, verify=False)
        with pytest.raises(TypeError, match="manager"):
            Transport("manager")  # type: ignore[arg-type]  # that is the test
        with pytest.raises(TypeError, match="neither httpx2 nor httpx"):
            await Transport(mgr).handle_async_request(object())
    with pytest.raises(TypeError):
        Transport(http2=True)  # type: ignore[call-arg]  # HTTP/2 is not spoken here
    with pytest.raises(ValueError, match="nonsense"), warnings.catch_warnings():
        Transport(proxy="nonsense://localhost:1")


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_what_a_proxy_is_asked(lib: Any) -> None:
    """A whole URL for http; CONNECT for all else, ws too; its own headers either way."""
    script = Script()
    with Server(script) as server:
        proxy = lib.Proxy(url(server), auth=("me", "sesame"), headers={"X-For-Proxy": "1"})
        for transport in (lib.AsyncHTTPTransport(proxy=proxy), Transport(proxy=proxy)):
            async with lib.AsyncClient(transport=transport) as client:
                assert (await client.get("http://far.test/x")).status_code == 404
                for scheme in ("https", "ws", "wss"):
                    with pytest.raises(lib.ProxyError):
                        await client.get(f"{scheme}://far.test:81/x")
    assert [(a.method, a.target) for a in script.asked] == 2 * [
        ("GET", "http://far.test/x"), *3 * [("CONNECT", "far.test:81")]
    ]  # fmt: skip
    basic = script.asked[0].headers["proxy-authorization"]
    for asked in script.asked:
        assert (asked.headers["x-for-proxy"], asked.headers["proxy-authorization"]) == ("1", basic)


@pytest.mark.parametrize(
    "wrong",
    [
        {"X": "a\r\nY: b"}, {"X": "a\n"}, {"X y": "a"}, {"": "a"}, {"X": " a"}, {"X": "\u20ac"},
        {"Host": "a"}, {"content-length": "5"}, {"Transfer-Encoding": "chunked"},
        {"X": 5}, ["X: y"], "X: y", 5, [("a", "b", "c")],
    ],
)  # fmt: skip
def test_wrong_headers_for_a_proxy(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="headers must be"):
        HTTPProxyConnector(headers=wrong)


async def test_trace_must_be_async() -> None:
    with Server(Script()) as server:
        async with httpx2.AsyncClient(transport=Transport()) as client:
            with pytest.raises(TypeError, match="async"):
                await client.get(url(server), extensions={"trace": lambda name, info: None})
            assert server.connections <= 1


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_a_trace_that_fails_or_is_cancelled_costs_no_connection(lib: Any) -> None:
    with Server(Script({"/big": ok(bytes(3_000_000))})) as server:
        async with ConnectionManager() as mgr, lib.AsyncClient(transport=Transport(mgr)) as client:
            names: list[str] = []

            async def note(name: str, info: dict[str, Any]) -> None:
                names.append(name)

            async def leave(trace: Any) -> Any:
                async with client.stream("GET", url(server, "/big"), extensions={"trace": trace}) as response:
                    pass
                return response

            await leave(note)
            assert names[-1] == "http11.response_closed.complete"
            for bad in dict.fromkeys(names):

                async def fail(name: str, info: dict[str, Any], bad: str = bad) -> None:
                    if name == bad:
                        raise ZeroDivisionError

                async def hang(name: str, info: dict[str, Any], bad: str = bad) -> None:
                    if name == bad:
                        scope.cancel()
                        await anyio.sleep_forever()

                held: list[Any] = []  # the garbage collector shall not help
                with pytest.raises(ZeroDivisionError):
                    held.append(await leave(fail))
                assert mgr.stats().open == 0, bad
                with anyio.CancelScope() as scope:
                    held.append(await leave(hang))
                assert mgr.stats().open == 0, bad
