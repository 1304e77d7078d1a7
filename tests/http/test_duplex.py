"""An answer that comes before the request is out, and both directions at once."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import BytesIO
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectionManager, TLSConnector, http
from keepalive.http import ReadTimeout, Timeout
from tests.support import Behaviour, Server
from tests.support.clocks import brisk
from tests.support.waiting import until

from .kit import SIZE, Script, ThenReads, url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from ssl import SSLContext

    from tests.support import Authority, Peer

BLOCK = 65536


class Echo(Behaviour):
    """Gives back what it gets, as it gets it."""

    def __init__(self) -> None:
        self.started = False

    def received(self, peer: Peer, data: bytes) -> None:
        if not peer.turns:
            peer.turns = 1
            _, _, data = data.partition(b"\r\n\r\n")
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        if data:
            peer.send(data)


@contextmanager
def blocking_echo(tls: SSLContext | None) -> Iterator[int]:
    """Echo as a thread with blocking calls does: nothing is read while what was read cannot go out."""

    def serve() -> None:
        with suppress(OSError):
            sock, _ = door.accept()
            sock.settimeout(30)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            with sock:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += sock.recv(BLOCK)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
                data = data.partition(b"\r\n\r\n")[2] or sock.recv(BLOCK)
                while data:
                    sock.sendall(data)
                    data = sock.recv(BLOCK)

    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(30)
        thread = Thread(target=serve)
        thread.start()
        try:
            yield door.getsockname()[1]
        finally:
            thread.join()


async def blocks(size: int = SIZE) -> AsyncIterator[bytes]:
    for start in range(0, size, BLOCK):
        await anyio.lowlevel.checkpoint()
        yield bytes(min(BLOCK, size - start))


def sized(size: int = SIZE) -> dict[str, str]:
    return {"Content-Length": str(size)}


EARLY = {
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b""),
    "close, content later": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n", b"ok"),
    "http/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\no", b"k"),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\no", b"k"),
    "no length, nothing yet": (b"HTTP/1.0 200 OK\r\n\r\n", b"ok"),
    "created": (b"HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n", b"ok"),
}


@pytest.mark.parametrize("how", EARLY)
@pytest.mark.parametrize("given", ["bytes", "blocks", "expects"])
async def test_an_early_200_does_not_cut_the_upload(how: str, given: str) -> None:
    server_says = ThenReads(*EARLY[how])
    content: Any = blocks() if given == "blocks" else bytes(SIZE)
    headers = sized() | ({"Expect": "100-continue"} if given == "expects" else {})
    with Server(server_says) as server:
        async with ConnectionManager() as mgr:
            with anyio.fail_after(20):
                async with http.request(mgr, "POST", url(server), content=content, headers=headers) as got:
                    assert await got.read() == b"ok"
            assert mgr.stats().open == 0
            await until(lambda: server_says.taken == SIZE)  # what the kernel took is on its way


async def test_an_early_200_over_tls(ca: Authority, client_context: SSLContext) -> None:
    server_says = ThenReads(*EARLY["no length"])
    with Server(server_says, tls=ca.server()) as server:
        async with ConnectionManager(connectors={"https": TLSConnector(client_context)}) as mgr:
            with anyio.fail_after(20):
                where = url(server, scheme="https")
                async with http.request(mgr, "POST", where, content=bytes(SIZE)) as response:
                    assert await response.read() == b"ok"
            await until(lambda: server_says.taken == SIZE)


async def test_a_response_that_nobody_reads_lets_the_request_go_out() -> None:
    server_says = ThenReads(*EARLY["close, content later"])
    with Server(server_says) as server:
        async with ConnectionManager() as mgr:
            with anyio.fail_after(20):
                async with http.request(mgr, "POST", url(server), content=bytes(SIZE)) as response:
                    assert response.status == 200
            await until(lambda: server_says.taken == SIZE)


@pytest.mark.parametrize("given", ["bytes", "blocks"])
@pytest.mark.parametrize("secure", [False, True])
async def test_a_server_that_echoes_while_it_reads(
    given: str, secure: bool, ca: Authority, client_context: SSLContext
) -> None:
    with blocking_echo(ca.server() if secure else None) as port:
        async with ConnectionManager(connectors={"https": TLSConnector(client_context)}) as mgr:
            where = f"{'https' if secure else 'http'}://localhost:{port}/"
            with anyio.fail_after(30):
                content: Any = blocks() if given == "blocks" else bytes(SIZE)
                async with http.request(mgr, "POST", where, content=content, headers=sized()) as response:
                    size = 0
                    async for piece in response:
                        size += len(piece)
            assert (size, mgr.stats().idle) == (SIZE, 1)


async def test_what_is_asked_next_may_depend_on_the_answer_so_far() -> None:
    heard = anyio.Event()
    seen: list[str] = []
    uploading: list[bool] = []
    mark = ContextVar("mark", default="none")

    async def talk() -> AsyncIterator[bytes]:
        seen.append(mark.get())
        yield bytes(10)
        await heard.wait()
        yield bytes(SIZE - 10)

    with Server(Echo()) as server:
        async with ConnectionManager() as mgr:
            mark.set("the caller's")
            with anyio.fail_after(20):
                async with http.request(
                    mgr, "POST", url(server), content=talk(), headers=sized()
                ) as response:
                    uploading.append(response.uploading)
                    assert await anext(response) == bytes(10)
                    heard.set()
                    assert len(await response.read()) == SIZE - 10
            uploading.append(response.uploading)
            assert (seen, uploading, mgr.stats().idle) == (["the caller's"], [True, False], 1)


@pytest.mark.parametrize("how", ["fails", "short", "left", "cancelled", "dropped"])
async def test_what_goes_wrong_after_the_head_ends_both_directions(how: str) -> None:
    ended, failing = anyio.Event(), anyio.Event()

    async def content() -> AsyncIterator[bytes]:
        try:
            yield bytes(10)
            if how == "short":
                return
            await failing.wait()
            raise ZeroDivisionError
        finally:
            ended.set()

    with Server(Echo()) as server:
        async with ConnectionManager() as mgr:
            with anyio.fail_after(10):
                request = http.request(mgr, "POST", url(server), content=content(), headers=sized())
                if how == "short":
                    with pytest.raises(http.InvalidRequest, match="shorter"):
                        await (await request).read()  # before the head, or after it
                    return
                response = await request
                if how == "fails":
                    failing.set()
                    with pytest.raises(ZeroDivisionError):
                        await response.read()
                elif how == "left":
                    response.close()
                elif how == "cancelled":
                    await anext(response)
                    with anyio.move_on_after(0.01):
                        await anext(response)
                else:
                    with pytest.warns(ResourceWarning):  # noqa: PT031  # the collector decides when
                        del request, response
                        await ended.wait()
                        await anyio.wait_all_tasks_blocked()
                        gc.collect()
                await ended.wait()
                await until(lambda: not mgr.stats().open)


@brisk
async def test_the_read_limit_begins_when_the_request_is_out() -> None:
    """Not before, since a server need not answer what it has not read."""
    begun = anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        with anyio.move_on_after(0.3):
            await begun.wait()
        yield b"y"

    with Server(Script({"/never": lambda peer, asked: None})) as server:
        async with ConnectionManager() as mgr:
            limit = Timeout(read=0.1)
            with anyio.fail_after(10):
                request = http.request(mgr, "POST", url(server), content=slow(), timeout=limit)
                async with request as response:
                    assert await response.read() == b"hello"
                with pytest.raises(ReadTimeout):
                    where = url(server, "/never")
                    await http.request(mgr, "POST", where, content=slow(), timeout=limit)


async def test_a_file_goes_in_blocks_not_by_lines(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"\n" * 200_000)
    script = Script()
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            with anyio.fail_after(20), path.open("rb") as file:
                async with http.request(mgr, "POST", url(server), content=file) as response:
                    await response.read()
            async with await anyio.open_file(path, "rb") as later:
                with anyio.fail_after(20):
                    async with http.request(mgr, "POST", url(server), content=later) as response:
                        await response.read()
    assert [asked.body for asked in script.asked] == [b"\n" * 200_000] * 2
    for given in (path.open("rb"), BytesIO(path.read_bytes())):
        with given:
            message = http.compose("POST", b"/", b"localhost", [], given)
            assert isinstance(message.chunks, Iterator)
            assert [len(block) for block in message.chunks] == [65536, 65536, 65536, 3392]
