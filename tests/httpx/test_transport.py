"""What our transport does beyond being like theirs."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import httpx2
import pytest

from keepalive import ConnectionManager, HTTPProxyConnector, http
from keepalive.httpx import Transport
from tests.http.kit import SIZE, Script, ThenReads, ok, once, silent, url
from tests.support import Server
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support import Authority, Peer

LIBRARIES: list[Any] = [httpx2, httpx]


async def test_a_managers_limits_are_shared_by_all_who_use_it() -> None:
    with Server(Script({"/big": ok(bytes(200_000))})) as server:
        async with ConnectionManager(max_per_host=2) as mgr:
            async with (
                httpx2.AsyncClient(transport=Transport(mgr)) as one,
                httpx.AsyncClient(transport=Transport(mgr)) as two,
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


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"limits": httpx2.Limits(max_connections=0)}, "max_connections must be at least 1"),
        ({"limits": httpx.Limits(max_connections="5")}, "max_connections must be a whole number"),  # type: ignore[arg-type]  # wrong on purpose
        ({"limits": httpx.Limits(max_keepalive_connections=-1)}, "max_keepalive_connections must be"),
        ({"limits": httpx2.Limits(keepalive_expiry=-1)}, "keepalive_expiry must not be negative"),
        ({"limits": httpx2.Timeout(5)}, "limits must be httpx2.Limits"),
        ({"limits": 5}, "neither httpx2 nor httpx"),
        ({"retries": -1}, "retries must not be negative"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"retries": None}, "retries must be a whole number"),
        ({"local_address": "here"}, "local_address"),
    ],
)
def test_wrong_settings_are_told_at_once(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Transport(**wrong)


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


class Deaf(ThenReads):
    """Gives its answer, and reads nothing more."""

    def received(self, peer: Peer, data: bytes) -> None:
        super().received(peer, data)
        peer.pause()


OK_FIRST = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("handling", [False, True], ids=["plainly", "while an error is handled"])
async def test_a_response_left_unread_does_not_cut_the_upload(
    lib: Any, scheme: str, handling: bool, ca: Authority
) -> None:
    """A server may answer first and read then."""
    server_says = ThenReads(OK_FIRST)
    with Server(server_says, tls=ca.server() if scheme == "https" else None) as server:
        async with lib.AsyncClient(transport=Transport(verify=ca.client())) as client:

            async def ask() -> None:
                where = url(server, scheme=scheme)
                async with client.stream("POST", where, content=bytes(SIZE)) as response:
                    assert response.status_code == 200

            with anyio.fail_after(20):
                try:
                    if handling:
                        raise LookupError
                except LookupError:
                    await ask()
                else:
                    await ask()
                await until(lambda: server_says.taken == SIZE)


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_an_error_while_the_request_goes_out_ends_it(lib: Any) -> None:
    with Server(Deaf(OK_FIRST)) as server:
        async with lib.AsyncClient(transport=Transport(), timeout=None) as client:
            with anyio.fail_after(20), pytest.raises(LookupError):
                async with client.stream("POST", url(server), content=bytes(SIZE)):
                    raise LookupError
            with anyio.move_on_after(0.05) as scope:
                async with client.stream("POST", url(server), content=bytes(SIZE)):
                    pass
            assert scope.cancelled_caught


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_a_request_that_does_not_get_out_after_its_answer_is_a_write_timeout(lib: Any) -> None:
    with Server(Deaf(OK_FIRST)) as server:
        async with lib.AsyncClient(transport=Transport(), timeout=lib.Timeout(5, write=0.05)) as client:
            with anyio.fail_after(20), pytest.raises(lib.WriteTimeout):
                async with client.stream("POST", url(server), content=bytes(SIZE)):
                    pass


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
def test_it_is_a_transport_of_the_library_it_serves(lib: Any) -> None:
    """Wrappers such as httpx-retries tell the async ones from the others by their class."""
    transport = Transport()
    assert isinstance(transport, lib.AsyncBaseTransport)
    assert not isinstance(transport, lib.BaseTransport)


async def test_type_checkers_take_it_for_a_transport_of_either() -> None:
    async with httpx2.AsyncClient(transport=Transport()), httpx.AsyncClient(transport=Transport()):
        pass


@pytest.mark.parametrize("alias", [False, True], ids=["apart", "aliased"])
def test_it_can_be_imported_first(alias: bool) -> None:
    """Before httpx, and where httpx is httpx2 by another name."""
    code = (
        ("import httpx2\nhttpx2.alias_httpx()\n" if alias else "")
        + "from keepalive.httpx import Transport\nimport httpx, httpx2\n"
        "assert isinstance(Transport(), (httpx.AsyncBaseTransport))\n"
        "assert isinstance(Transport(), (httpx2.AsyncBaseTransport))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_is_readable_with_many_descriptors(lib: Any) -> None:
    """`select` ends at descriptor 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    gates: list[Any] = []
    peers: list[Any] = []

    def head_only(peer: Any, asked: Any) -> None:
        peers.append(peer)
        peer.send(ok()[:-5])

    def rest(peer: Any, asked: Any) -> None:
        peers[0].send(b"hello")
        peer.send(ok())

    with contextlib.ExitStack() as stack, Server(Script({"/": head_only, "/rest": rest})) as server:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while not gates or gates[-1] < 1024:
            gates.append(os.dup(0))
            stack.callback(os.close, gates[-1])
        client = lib.AsyncClient(transport=Transport())
        async with client, client.stream("GET", url(server)) as response:
            stream = response.extensions["network_stream"]
            assert stream.get_extra_info("socket").fileno() > 1023
            assert stream.get_extra_info("is_readable") is False
            await client.get(url(server, "/rest"))
            await until(lambda: bool(stream.get_extra_info("is_readable")))
            assert await response.aread() == b"hello"
