"""What a proxy answers to CONNECT: heads in crumbs, refusals, and answers that are no tunnel."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import (
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    HTTPProxyConnector,
    TLSConnector,
)
from keepalive.base.failure import DialFailure
from keepalive.connect.http_proxy import Answer, _read_head
from tests.support import Server, Silent
from tests.support.proxies import OK, SECRET, Script, head
from tests.support.requests import exchange, receive_exactly

if TYPE_CHECKING:
    import ssl

    from tests.support import Authority


class Bytes:
    """As much of a link as the reader of answers needs: bytes that are there, in pieces, then the end."""

    def __init__(self, data: bytes, rng: random.Random) -> None:
        self.left = data
        self._rng = rng

    def peek(self, size: int) -> bytes:
        return self.left[: self._rng.randint(1, size)]

    def try_receive(self, size: int) -> bytes:
        taken, self.left = self.left[:size], self.left[size:]
        return taken


@pytest.mark.parametrize("seed", range(20))
def test_any_answer_is_understood_or_refused(seed: int) -> None:
    """Against a model: the head ends at the first empty line, and not a byte behind it is taken."""
    rng = random.Random(seed)
    for _ in range(200):
        answer = bytearray(head("HTTP/1.1 200 Fine", Via="1.1 x", Date="today") + b"\r\n\r\nthe rest")
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(answer))
            answer[at : at + rng.randint(0, 2)] = rng.choice([b"", b"\r\n", b"\n", b"\0", b":", b" ", b"200"])
        link: Any = Bytes(bytes(answer), rng)
        reading = _read_head(Answer(link))
        outcome: BaseException | None = None
        try:
            reading.send(None)
        except (StopIteration, DialFailure) as exc:
            outcome = exc
        if isinstance(outcome, StopIteration):
            end = bytes(answer).index(b"\r\n\r\n") + 4
            assert link.left == answer[end:]
            assert outcome.value[0] == int(answer[9:12])
        else:
            assert isinstance(outcome, DialFailure), "it waits, though all is there"
            assert outcome.phase == "proxy"
            assert outcome.text.isprintable()


# -- what is answered --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 204 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        head("HTTP/1.1 100 Continue") + head("HTTP/1.1 103 Early Hints", Link="x") + OK,
        head("HTTP/1.1 200 OK", **{f"X-{n}": "y" * 100 for n in range(100)}),
    ],
)
@pytest.mark.parametrize("sealed", [False, True])
async def test_who_speaks_first_is_heard(
    answer: bytes, sealed: bool, ca: Authority, client_context: ssl.SSLContext
) -> None:
    """What comes behind the head, in the same segment, belongs to the tunnel."""
    behaviour = Script(answer + b"220 ready\r\n")
    with Server(behaviour, tls=ca.server() if sealed else None) as proxy:
        over = TLSConnector(client_context, "localhost") if sealed else None
        connector = HTTPProxyConnector(f"http://127.0.0.1:{proxy.port}", over=over)
        async with (
            ConnectionManager(connectors={"smtp": connector}) as mgr,
            mgr.allocate("smtp", "mail.test", 25, 5) as conn,
        ):
            assert await receive_exactly(conn, 11) == b"220 ready\r\n"
            await exchange(conn)


async def test_a_head_in_crumbs(echo_server: Server) -> None:
    """However the answer is cut up, nothing of it is lost and nothing behind it taken."""
    whole = head("HTTP/1.1 200 OK", Via="1.1 somebody", X="\u00e9") + b"\r\nhello"
    rng = random.Random(11)
    for _ in range(8):
        cuts = sorted(rng.sample(range(1, len(whole)), 5))
        parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        with Server(Silent()) as proxy:
            connector = HTTPProxyConnector(f"http://127.0.0.1:{proxy.port}")
            async with ConnectionManager(connectors={"http": connector}) as mgr:
                request = mgr.allocate("http", "target.test", 1, 5)
                await proxy.until(lambda server: server.received > 0)
                for part in parts:
                    proxy.push(part)
                    await anyio.lowlevel.checkpoint()
                async with request as conn:
                    assert await receive_exactly(conn, 7) == b"\r\nhello"


@pytest.mark.parametrize(
    ("answer", "text", "number"),
    [
        (head("HTTP/1.1 407 Who are you?"), "the proxy answered 407 Who are you?", errno.EACCES),
        (head("HTTP/1.1 403 No") + b"<html>", "the proxy answered 403 No", errno.EACCES),
        (head("HTTP/1.0 502"), "the proxy answered 502", None),
        (b"HTTP/1.1 503 \x80\xfe\tBusy\r\n\r\n", "the proxy answered 503 ???Busy", None),
        (head("HTTP/1.1 302 Found", Location="http://x"), "the proxy answered 302 Found", None),
        (b"SSH-2.0-dropbear\r\n", "not HTTP/1: 'SSH-2.0-dropbear'", None),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1: 'HTTP/2 200'", None),
        (b"HTTP/1.1 200 OK\n\n", "not HTTP/1", None),
        (b"HTTP/1.1  200 OK\r\n\r\n", "not HTTP/1", None),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not HTTP/1", None),
        (b"HTTP/1.1 099 OK\r\n\r\n", "not HTTP/1", None),
        (b"HTTP/1.1 200 \x1b[31mred\r\n\r\n", r"not HTTP/1: 'HTTP/1.1 200 ?[31mred'", None),
        (b"\x00\x01\x02\n" * 9, "not HTTP/1: '???'", None),
        (b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", "a bad field: 'no field'", None),
        (b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n", "a bad field", None),
        (b"HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n", "a bad field", None),
        (b"x" * 20_000, "longer than 16384 bytes", None),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 3000, "longer than 16384 bytes", None),
        (head("HTTP/1.1 100 Continue") * 1000, "longer than 16384 bytes", None),
        (None, "closed the connection before it had answered", errno.ECONNRESET),
    ],
)
async def test_answers_that_are_no_tunnel(answer: bytes | None, text: str, number: int | None) -> None:
    with Server(Script(answer)) as proxy:
        connector = HTTPProxyConnector(f"http://me:{SECRET}@127.0.0.1:{proxy.port}")
        async with ConnectionManager(connectors={"http": connector}, max_per_host=1) as mgr:
            for _ in range(2):
                with pytest.raises(ConnectError) as caught:
                    await mgr.allocate("http", "target.test", 1, 5)
                assert caught.value.function == "proxy"
                assert text in caught.value.error_str
                assert caught.value.error_num == number
                assert SECRET not in repr(caught.value) + str(caught.value)
            assert mgr.stats().open == 0
            await proxy.until(lambda server: not server.connections)


@pytest.mark.parametrize("how", ["disconnect_all", "reset_all"])
async def test_cut_in_the_midst(how: str) -> None:
    with Server(Silent()) as proxy:
        connector = HTTPProxyConnector(f"http://127.0.0.1:{proxy.port}")
        async with ConnectionManager(connectors={"http": connector}) as mgr:
            request = mgr.allocate("http", "target.test", 1, 5)
            await proxy.until(lambda server: server.received > 0)
            proxy.push(b"HTTP/1.1 200 OK\r\nVia")
            getattr(proxy, how)()
            with pytest.raises(ConnectError) as caught:
                await request
            assert (caught.value.function, caught.value.error_num) == ("proxy", errno.ECONNRESET)
            assert mgr.stats().open == 0


@pytest.mark.parametrize("limit", ["timeout", "connect_timeout"])
async def test_a_silent_proxy_is_in_the_request_s_time(limit: str, silent_server: Server) -> None:
    connector = HTTPProxyConnector(f"http://127.0.0.1:{silent_server.port}")
    connect_timeout = 0.05 if limit == "connect_timeout" else None
    async with ConnectionManager(connectors={"http": connector}, connect_timeout=connect_timeout) as mgr:
        with pytest.raises(AllocateTimeout) as caught:
            await mgr.allocate("http", "target.test", 1, 0.05 if limit == "timeout" else 5)
        assert caught.value.function == "proxy"
        request = mgr.allocate("http", "target.test", 1)
        await silent_server.until(lambda server: server.received > 0)
        assert request.cancel()
    await silent_server.until(lambda server: not server.connections)
