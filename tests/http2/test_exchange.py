"""Requests over HTTP/2, against a server of h2's."""

from __future__ import annotations

import anyio
import pytest

from keepalive import http
from tests.support.waiting import until

from .kit import Asked, Origin, lending


async def test_a_request_is_answered() -> None:
    origin = Origin()
    async with lending(origin) as lines:
        async with lines.ask(
            headers=[(b"X-Name", b"value"), (b"Connection", b"x-hop"), (b"X-Hop", b"1")]
        ) as response:
            assert response.status == 200
            assert response.http_version == "2"
            assert response.stream_id == 1
            assert await response.read() == b"hello"
        asked = origin.asked[0]
        assert [name for name, _ in asked.fields[:4]] == [b":method", b":scheme", b":authority", b":path"]
        assert asked.headers[b"x-name"] == b"value"
        assert not {b"host", b"connection", b"x-hop"} & set(asked.headers)
        assert lines.lines[0].shares.lent == 0
        await until(lambda: origin.talks[0].open == 0)


async def test_many_share_one_connection() -> None:
    origin = Origin()
    async with lending(origin) as lines:
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(lines.get)
        assert len(origin.asked) == 100
        assert len(lines.lines) == 1
        assert lines.lines[0].shares.lent == 0


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
async def test_content_arrives_whole_both_ways(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    origin = Origin({"/": lambda asked: asked.ok(asked.body)})
    async with lending(origin) as lines:
        async with lines.ask("POST", content=content) as response:
            assert await response.read() == content
        assert origin.asked[0].headers[b"content-length"] == b"%d" % size


async def test_content_that_is_yielded_arrives_whole() -> None:
    async def content() -> object:
        for n in range(50):
            yield b"%d" % n * 5000

    origin = Origin({"/": lambda asked: asked.ok(asked.body)})
    async with lending(origin) as lines, lines.ask("POST", content=content()) as response:
        assert await response.read() == b"".join(b"%d" % n * 5000 for n in range(50))
    assert b"transfer-encoding" not in origin.asked[0].headers


async def test_interim_answers_and_trailers_are_there() -> None:
    def answer(asked: Asked) -> None:
        asked.head(103, (b"link", b"</style.css>"))
        asked.head(200, (b"trailer", b"x-sum"))
        asked.data(b"content")
        asked.talk.h2.send_headers(asked.id, [(b"x-sum", b"7")], end_stream=True)
        asked.talk.flush()

    async with lending(Origin({"/": answer})) as lines, lines.ask() as response:
        assert response.interim == ((103, http.Headers([(b"link", b"</style.css>")])),)
        assert await response.read() == b"content"
        assert response.trailers == ((b"x-sum", b"7"),)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_an_answer_without_content_ends_with_its_head(method: str, status: int) -> None:
    origin = Origin({"/": lambda asked: asked.head(status, (b"content-length", b"7"), end=True)})
    async with lending(origin) as lines, lines.ask(method) as response:
        assert (response.status, await response.read()) == (status, b"")


async def test_content_waits_for_100_continue() -> None:
    def answer(asked: Asked) -> None:
        asked.head(100)

    origin = Origin({"/": answer}, early=True)
    async with lending(origin) as lines:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    async with lines.ask(
                        "PUT", headers=[(b"Expect", b"100-continue")], content=b"x" * 9
                    ) as response:
                        assert await response.read() == b"done"

                tasks.start_soon(ask)
                await until(lambda: bool(origin.asked) and origin.asked[0].ended)
                assert origin.asked[0].body == b"x" * 9
                lines.server.do(lambda: origin.asked[0].ok(b"done"))


async def test_connect_makes_a_tunnel() -> None:
    def answer(asked: Asked) -> None:
        assert asked.headers == {b":method": b"CONNECT", b":authority": b"example.org:443"}
        asked.head(200)
        asked.data(b"hi")

    origin = Origin(early=True)
    origin.routes[""] = answer
    async with lending(origin) as lines:
        message = http.compose("CONNECT", b"example.org:443", b"example.org:443", [], None)
        exchange = http.Exchange(lines, http.Place("http", "x", 1), message)  # type: ignore[arg-type]  # enough of a manager
        async with exchange as response:
            tunnel = response.stream
            assert tunnel is not None
            assert await tunnel.receive() == b"hi"
            await tunnel.send(b"there" * 30_000)
            await until(lambda: len(origin.asked[0].body) == 150_000)
            lines.server.do(lambda: origin.asked[0].data(b"bye", end=True))
            assert await tunnel.receive(1) == b"b"
            assert await tunnel.receive() == b"ye"
            with pytest.raises(anyio.EndOfStream):
                await tunnel.receive()
            await tunnel.send_eof()
        await until(lambda: origin.talks[0].open == 0)
        assert lines.lines[0].shares.lent == 0


async def test_what_http2_does_not_have_is_told() -> None:
    async with lending(Origin()) as lines:
        with pytest.raises(http.InvalidRequest, match="Upgrade"):
            await lines.ask(headers=[(b"Upgrade", b"websocket")])
        assert await lines.get() == b"hello"
        assert lines.lines[0].shares.lent == 0
