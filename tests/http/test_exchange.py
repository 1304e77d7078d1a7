"""Whole exchanges over real sockets: what is sent, what comes back, and in what time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import ClosedResourceError
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, ConnectionManager, TLSConnector, http
from keepalive.http import (
    BadAnswer,
    Client,
    InvalidRequest,
    ReadError,
    ReadTimeout,
    Timeout,
    WriteTimeout,
)
from tests.http.kit import Asked, Script, get, ok, silent, url
from tests.support import Server, Silent, full_backlog
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from ssl import SSLContext

    from tests.support import Authority, Peer


# -- requests ----------------------------------------------------------------------------------------


async def pieces(*of: bytes) -> AsyncIterator[bytes]:
    for piece in of:
        yield piece


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
async def test_content_arrives_whole(size: int) -> None:
    script, content = (
        Script({"/echo": lambda peer, asked: peer.send(ok(asked.body))}),
        bytes(range(256)) * (size // 256 + 1),
    )
    content = content[:size]
    with Server(script) as server:
        async with ConnectionManager(max_per_host=1) as mgr:
            for given, headers in (
                (content, {}),
                (bytearray(content), {"Transfer-Encoding": "chunked"}),
                ([content[: size // 2], b"", content[size // 2 :]], {}),
                (pieces(content[:1], content[1:]), {}),
                (pieces(content), {"Content-Length": str(size)}),
                (content, {"Expect": "100-continue"} if size == 1 else {}),  # whose server never says so
            ):
                request = http.request(mgr, "POST", url(server, "/echo"), content=given, headers=headers)
                async with request as response:
                    assert (response.status, await response.read() == content) == (200, True), headers
            assert mgr.stats().opened == 1
    assert all(asked.body == content for asked in script.asked)
    assert script.errors == []


async def test_headers_and_host_as_given() -> None:
    script = Script()
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            client = Client(mgr, headers={"User-Agent": "mine", "X": "1"})
            async with client.request(
                "GET", url(server, "/?q=1"), headers=[("x", "2"), (b"Host", b"other.test")]
            ) as r:
                assert (r.status, r.reason, r.http_version) == (200, b"OK", "1.1")
                assert r.headers.get("content-length") == "5"
            async with client.request("HEAD", url(server)) as r:
                assert r.status == 200
    assert script.asked[0].headers == {"user-agent": "mine", "x": "2", "host": "other.test"}
    assert script.asked[1].headers["host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(("length", "why"), [("3", "longer"), ("9", "shorter")])
async def test_content_of_another_length_than_announced(length: str, why: str) -> None:
    with Server(Script()) as server:
        async with ConnectionManager() as mgr:
            request = http.request(
                mgr, "PUT", url(server), content=pieces(b"ab", b"cd"), headers={"Content-Length": length}
            )
            with pytest.raises(InvalidRequest, match=why):
                await request
            assert mgr.stats().open == 0


async def test_content_that_fails_or_is_no_bytes() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"some"
        raise ZeroDivisionError

    with Server(Script()) as server:
        async with ConnectionManager() as mgr:
            with pytest.raises(ZeroDivisionError):
                await http.request(mgr, "PUT", url(server), content=failing())
            with pytest.raises(TypeError, match="yield bytes"):
                await http.request(mgr, "PUT", url(server), content=["text"])  # type: ignore[list-item]  # that is the test
            assert mgr.stats().open == 0


# -- 100-continue ------------------------------------------------------------------------------------


class Doorman(Script):
    """Answers at the head: go on, or not."""

    def __init__(self, word: bytes) -> None:
        super().__init__()
        self.word = word
        self.body = bytearray()

    def received(self, peer: Peer, data: bytes) -> None:
        if not peer.turns:
            peer.turns = 1
            assert data.endswith(b"\r\n\r\n"), "the content must wait"
            peer.send(self.word)
        else:
            self.body += data
            if self.body.endswith(b"end"):
                peer.send(ok(b"thanks"))


async def test_continue_is_waited_for() -> None:
    door = Doorman(b"HTTP/1.1 100 Continue\r\n\r\n")
    with Server(door) as server:
        async with ConnectionManager() as mgr:
            request = http.request(
                mgr, "POST", url(server), content=b"the end", headers={"Expect": "100-continue"}
            )
            async with request as response:
                assert await response.read() == b"thanks"
                assert response.interim == ((100, ()),)
            assert mgr.stats().idle == 1
    assert bytes(door.body) == b"the end"


async def test_refused_content_is_not_sent() -> None:
    door = Doorman(ok(b"too big", status="413 Too Large"))
    with Server(door) as server:
        async with ConnectionManager() as mgr:
            request = http.request(
                mgr, "POST", url(server), content=b"the end", headers={"Expect": "100-continue"}
            )
            async with request as response:
                assert (response.status, await response.read()) == (413, b"too big")
            assert mgr.stats().open == 0  # the server may still wait for the content
    assert not door.body


# -- an answer before the request is out -------------------------------------------------------------


@pytest.mark.parametrize("status", ["403 No", "302 Found", "500 Oh", "413 Too Large"])
async def test_early_refusal_ends_the_upload(status: str) -> None:
    answer = ok(b"no", status=status)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    def refuse(peer: Peer, asked: Asked) -> None:
        peer.send(answer)
        peer.pause()

    with Server(Script({"/": refuse}, early=True)) as server:
        async with ConnectionManager() as mgr:
            async with http.request(mgr, "POST", url(server), content=endless()) as response:
                assert await response.read() == b"no"
            assert mgr.stats().open == 0


async def test_early_answer_may_let_the_upload_go_on() -> None:
    script = Script({"/": ok(b"fine")}, early=True)
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            async with http.request(mgr, "POST", url(server), content=bytes(1_000_000)) as response:
                assert await response.read() == b"fine"
            assert mgr.stats().idle == 1
            assert await get(mgr, server) == b"fine"
    assert script.errors == []


# -- time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [Timeout(read=0.05), Timeout(total=0.05), 0.05])
async def test_silence_is_a_read_timeout(limit: Timeout | float) -> None:
    half: dict[str, Any] = {"/never": silent, "/half": ok(b"x" * 10)[:-5]}
    with Server(Script(half)) as server:
        async with ConnectionManager() as mgr:
            for path in half:
                for content in (None, b"x" * 100_000):
                    with pytest.raises(ReadTimeout):
                        async with http.request(
                            mgr, "POST", url(server, path), content=content, timeout=limit
                        ) as r:
                            await r.read()
                    assert mgr.stats().open == 0


async def test_drip_ends_at_the_total() -> None:
    def drip(peer: Peer, asked: Asked) -> None:
        peer.send(ok(b"x" * 1000)[:-999])

    with Server(Script({"/": drip})) as server:
        async with ConnectionManager() as mgr:
            with pytest.raises(ReadTimeout):
                await get(mgr, server, timeout=Timeout(total=0.1, read=5))


@pytest.mark.parametrize("limit", [Timeout(write=0.05), Timeout(total=0.05)])
async def test_a_peer_that_does_not_read_is_a_write_timeout(limit: Timeout) -> None:
    class Deaf(Script):
        def opened(self, peer: Peer) -> None:
            peer.pause()

    with Server(Deaf(), receive_buffer=4096) as server:
        async with ConnectionManager() as mgr:
            for content in (bytes(20_000_000), pieces(bytes(20_000_000))):
                with pytest.raises(WriteTimeout):
                    await http.request(mgr, "PUT", url(server), content=content, timeout=limit)
                assert mgr.stats().open == 0


async def test_times_for_the_connection() -> None:
    with full_backlog() as there, Server(Script({"/never": silent})) as server:
        async with ConnectionManager(max_per_host=1) as mgr:
            where = f"http://{there.host}:{there.port}/"
            for limit in (
                Timeout(connect=0.05),
                Timeout(pool=5, connect=0.05),
                Timeout(pool=0.02, connect=0.05),
            ):
                with pytest.raises(AllocateTimeout) as caught:
                    await http.request(mgr, "GET", where, timeout=limit)
                assert caught.value.function == "connect"
            async with anyio.create_task_group() as group:
                group.start_soon(get, mgr, server, "/never")
                await until(lambda: bool(mgr.stats().lent))
                for limit in (
                    Timeout(pool=0.05),
                    Timeout(pool=0.05, connect=5),
                    Timeout(pool=0.05, connect=0.02),
                ):
                    with pytest.raises(AllocateTimeout) as caught:
                        await get(mgr, server, timeout=limit)
                    assert caught.value.function == "queue"
                group.cancel_scope.cancel()


# -- other protocols ---------------------------------------------------------------------------------


async def test_upgrade_hands_over_the_raw_stream() -> None:
    def switch(peer: Peer, asked: Asked) -> None:
        peer.send(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nfirst")

    with Server(Script({"/": switch})) as server:
        async with ConnectionManager() as mgr:
            wish = {"Upgrade": "echo", "Connection": "Upgrade"}
            async with http.request(mgr, "GET", url(server), headers=wish) as response:
                assert (response.status, await response.read()) == (101, b"")
                stream = response.stream
                assert stream is not None
                assert await stream.receive(2) == b"fi"
                assert await stream.receive() == b"rst"
                await stream.send(b"anything")
                assert stream.extra(SocketAttribute.remote_port) == server.port
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            assert mgr.stats().open == 0
            with pytest.raises(ClosedResourceError):
                await stream.receive()
            with pytest.raises(BadAnswer, match="no other protocol"):
                await get(mgr, server)


async def test_connect_makes_a_tunnel() -> None:
    class Proxy(Script):
        def received(self, peer: Peer, data: bytes) -> None:
            peer.turns += 1
            if peer.turns == 1:
                where = f"127.0.0.1:{server.port}"
                assert data == f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()
                peer.send(b"HTTP/1.1 200 Established\r\n\r\n")
            else:
                peer.send(data)

    with Server(Proxy()) as server:
        async with ConnectionManager() as mgr, http.request(mgr, "CONNECT", url(server)) as response:
            assert response.stream is not None
            await response.stream.send(b"through")
            assert await response.stream.receive() == b"through"
            await response.stream.aclose()


async def test_https(ca: Authority, client_context: SSLContext) -> None:
    with Server(Script({"/big": ok(bytes(500_000))}), tls=ca.server()) as server:
        async with ConnectionManager(connectors={"https": TLSConnector(client_context)}) as mgr:
            for path, size in (("/", 5), ("/big", 500_000), ("/", 5)):
                async with http.request(mgr, "GET", url(server, path, "https"), timeout=5) as response:
                    assert len(await response.read()) == size
            assert mgr.stats().opened == 1


async def test_many_tasks_few_connections() -> None:
    with Server(Script()) as server:
        async with ConnectionManager(max_per_host=4) as mgr:
            client, done = Client(mgr, timeout=20), []

            async def work() -> None:
                for _ in range(5):
                    async with client.request("GET", url(server)) as response:
                        done.append(await response.read())

            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(work)
            assert done == [b"hello"] * 250
        assert server.peak == 4


async def test_silent_server_and_shutdown() -> None:
    with Server(Silent()) as server:
        async with ConnectionManager() as mgr, anyio.create_task_group() as group:
            failures: list[Exception] = []

            async def ask() -> None:
                try:
                    await get(mgr, server)
                except Exception as exc:
                    failures.append(exc)

            group.start_soon(ask)
            await until(lambda: bool(mgr.stats().lent))
            await mgr.aclose()
        assert [type(failure) for failure in failures] == [ReadError]
