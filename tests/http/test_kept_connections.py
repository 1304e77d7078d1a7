"""What becomes of the connection after an exchange, and of one that has gone stale."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import ClosedResourceError

from keepalive import ConnectionManager, http
from keepalive.http import (
    BadAnswer,
    NoAnswer,
    ReadError,
)
from tests.http.kit import CHUNKED, Script, get, ok, once, silent, then_close, then_reset, url
from tests.support import Server
from tests.support.clocks import brisk
from tests.support.waiting import until

# -- the connection after the exchange ---------------------------------------------------------------

KEPT: dict[str, Any] = {
    "/": ok(),
    "/chunked": CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
    "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "/hint": b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(),
    "/http10": ok(b"hello", "Connection: keep-alive", version="1.0"),
}


CLOSED: dict[str, Any] = {
    "/close": ok(b"hello", "Connection: close"),
    "/http10": ok(version="1.0"),
    "/to-the-end": then_close(b"HTTP/1.1 200 OK\r\n\r\nhello"),
    "/two": ok() + ok(b"stray"),
    "/garbage-after": CHUNKED + b"0\r\n\r\n\r\n",
    "/keep-0": ok(b"hello", "Keep-Alive: timeout=0"),
    "/max-0": ok(b"hello", "Keep-Alive: timeout=9, max=0"),
}


@pytest.mark.parametrize("path", KEPT)
async def test_kept_when_both_sides_wish(path: str) -> None:
    with Server(Script(KEPT)) as server:
        async with ConnectionManager() as mgr:
            for _ in range(3):
                assert await get(mgr, server, path) in (b"hello", b"")
                assert mgr.stats().idle == 1
            await get(mgr, server, path, headers={"Connection": "close"})
            assert mgr.stats().open == 0
        assert server.accepted == 1


@pytest.mark.parametrize("path", CLOSED)
async def test_closed_when_one_side_wishes_or_is_odd(path: str) -> None:
    with Server(Script(CLOSED)) as server:
        async with ConnectionManager() as mgr:
            for n in range(1, 3):
                assert await get(mgr, server, path) in (b"hello", b"")
                assert mgr.stats().open == 0
                assert server.accepted == n


@brisk
async def test_announced_time_is_heeded() -> None:
    with Server(Script({"/": ok(b"x", "Keep-Alive: timeout=1")})) as server:
        async with ConnectionManager(keep_alive=60) as mgr:
            await get(mgr, server)
            assert mgr.stats().idle == 1
            await anyio.sleep(0.5)  # closed after half of the second, without traffic
            await until(lambda: not server.connections)


async def test_released_the_moment_it_is_complete() -> None:
    with Server(Script({"/big": ok(bytes(1_000_000))})) as server:
        async with ConnectionManager() as mgr:
            async with http.request(mgr, "GET", url(server)) as response:
                assert mgr.stats().idle == 1  # all of it came with the head
                assert await response.read() == b"hello"
                assert await response.read() == b""
            async with http.request(mgr, "GET", url(server, "/big")) as response:
                assert mgr.stats().lent == 1
                size = 0
                async for piece in response:
                    size += len(piece)
                    assert mgr.stats().lent == (size < 1_000_000)
                assert size == 1_000_000


async def test_abandoned_cancelled_or_dropped_is_closed() -> None:
    with Server(Script({"/big": ok(bytes(1_000_000)), "/never": silent})) as server:
        async with ConnectionManager() as mgr:
            async with http.request(mgr, "GET", url(server, "/big")) as response:
                await anext(response)
            assert mgr.stats().open == 0
            with pytest.raises(ClosedResourceError):
                await response.read()
            response = await http.request(mgr, "GET", url(server, "/big"))
            response.close()
            response.close()
            await response.aclose()
            assert mgr.stats().open == 0
            with anyio.move_on_after(0.05):
                await http.request(mgr, "GET", url(server, "/never"))
            assert mgr.stats().open == 0
            with pytest.raises(ZeroDivisionError):
                async with http.request(mgr, "GET", url(server, "/big")) as response:
                    raise ZeroDivisionError
            assert mgr.stats().open == 0
            response = await http.request(mgr, "GET", url(server, "/big"))
            held = [response]
            del response
            with pytest.warns(ResourceWarning):
                held.clear()
            await until(lambda: not mgr.stats().open)


# -- stale connections -------------------------------------------------------------------------------

STALE: dict[str, Any] = {"close": lambda peer, asked: peer.close(), "reset": lambda peer, asked: peer.reset()}


@pytest.mark.parametrize("how", STALE)
async def test_stale_connection_is_retried_once_on_a_fresh_one(how: str) -> None:
    # heritage pools 2.3.
    script = Script({"/": once(STALE[how], ok())})
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            for method, content in (("GET", None), ("PUT", b"x"), ("DELETE", None), ("HEAD", None)):
                async with http.request(mgr, "GET", url(server)) as first:
                    await first.read()
                    assert not first.retried or method != "GET"
                async with http.request(mgr, method, url(server), content=content) as response:
                    assert (response.status, response.retried, response.from_cache) == (200, True, None)


@pytest.mark.parametrize(
    ("method", "content"),
    [("POST", None), ("POST", b"x"), ("PATCH", b"x"), ("PUT", [b"x"]), ("CUSTOM", None)],
)
async def test_what_may_not_be_repeated_is_not(method: str, content: Any) -> None:
    script = Script({"/": once(STALE["close"], ok())})
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            await get(mgr, server)
            with pytest.raises(NoAnswer):
                await http.request(mgr, method, url(server), content=content)
            assert len(script.asked) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (then_close(b""), NoAnswer),
        (then_reset(b""), ReadError),
        (then_close(b"HTTP/1.1 20"), BadAnswer),
        (then_close(ok(b"x" * 9)[:-1]), BadAnswer),
        (then_close(CHUNKED + b"3\r\nabc\r\n"), BadAnswer),
        (then_close(b"SSH-2.0-OpenSSH\r\n"), BadAnswer),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", BadAnswer),
    ],
)
async def test_fresh_or_begun_is_never_retried(answer: Any, error: type[Exception]) -> None:
    script = Script({"/bad": answer})
    with Server(script) as server:
        async with ConnectionManager() as mgr:
            with pytest.raises(error):
                await get(mgr, server, "/bad")
            assert (len(script.asked), mgr.stats().open) == (1, 0)
