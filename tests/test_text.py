"""What strangers write is made fit to be shown: by one function, and in every error and log that shows it."""

from __future__ import annotations

import logging
import pickle
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepalive import ConnectError, ConnectionManager, HTTPProxyConnector, Key, http
from keepalive.base.text import printable
from keepalive.errors import AllocateError
from keepalive.multi import MultiClient
from keepalive.sip import SendError, SipConfig, open_leg
from tests.support import Greeting, Server

if TYPE_CHECKING:
    from keepalive.multi import Peer

NASTY = {
    "escape": b"\x1b]0;owned\x07\x1b[2J",
    "c1": "\x9b31m\x90q\x9c".encode(),
    "raw c1": b"\x9b31mred\x9c",
    "bidi": "\u202egpj.exe\u2066\u200f".encode(),
    "shift-out": b"\x0eabc\x0f",
    "line separators": "one\u2028two\u2029three\x85".encode(),
    "invalid": b"\xff\xfe\xc3(\xed\xa0\x80",
    "tab and bell": b"a\tb\x08\x07c\x7f",
    "long": b"x" * 1_000_000,
    "long and nasty": b"\x1b[31m" * 200_000,
}
kinds = pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY.keys())


def check(text: str, most: int = 2000) -> None:
    assert text.isprintable(), f"{text!r:.300}"
    assert len(text) <= most


@given(st.binary() | st.text(st.characters()), st.integers(3, 40))
def test_whatever_comes_in_what_goes_out_is_one_bounded_printable_line(text: str | bytes, most: int) -> None:
    shown = printable(text, most)
    check(shown, most)
    assert printable(shown, most) == shown


def test_what_is_fit_stays_as_it_is() -> None:
    for text in ("", "OK", "Größe 漢字 é", "a\\x1b", "x" * 1000):
        assert printable(text) == text
        assert printable(text.encode()) == text


def test_what_is_replaced_and_what_is_cut() -> None:
    assert printable(b"\x1b[31mred\xff\r\n") == ".[31mred\\xff.."
    assert printable("a\u202eb\x9bc\u2028d\ud800e\ue000f\ufffdg") == "a.b.c.d.e.f.g"
    assert printable("x" * 11, 10) == "xxxxxxx..."
    assert printable("ä" * 11, 10) == printable("ä".encode() * 11, 10) == "äääääää..."
    assert printable(b"\x00\x01", instead="?") == "??"


@kinds
def test_errors_of_requests(nasty: bytes) -> None:
    text = nasty.decode("latin-1")
    key = Key("http", "h", 1, "http", "h", 1)
    for error in (AllocateError(key, "proxy", None, text), SendError(text, "tls", None, text)):
        check(error.error_str)
        check(str(error), 3000)
        check(repr(error), 3000)
        check(str(pickle.loads(pickle.dumps(error))), 3000)
    check(str(http.BadAnswer(text)))
    check(str(http.ReadError(nasty.decode(errors="replace"))))


@kinds
async def test_http_reasons_and_garbage(nasty: bytes) -> None:
    for answer in (
        b"HTTP/1.1 200 " + nasty + b"\r\nContent-Length: 0\r\n\r\n",
        nasty + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + nasty + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + nasty + b": x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + nasty + b"\r\n",
    ):
        with Server(Greeting(answer)) as server:
            async with ConnectionManager() as manager:
                client = http.Client(manager, timeout=20)
                try:
                    async with client.request("GET", f"http://127.0.0.1:{server.port}/") as response:
                        check(repr(response))
                        await response.read()
                except http.HTTPError as exc:
                    check(str(exc))


@kinds
async def test_proxy_answers(nasty: bytes) -> None:
    for answer in (
        b"HTTP/1.1 403 " + nasty + b"\r\n\r\n",
        b"HTTP/1.1 407 No\r\nProxy-Authenticate: " + nasty + b"\r\n\r\n",
        b"HTTP/1.1 403 No\r\n" + nasty + b": x\r\n\r\n",
        nasty + b"\r\n\r\n",
    ):
        with Server(Greeting(answer)) as server:
            proxy = HTTPProxyConnector(f"http://127.0.0.1:{server.port}")
            async with ConnectionManager(connectors={"http": proxy}) as manager:
                with pytest.raises(ConnectError) as caught:
                    await manager.allocate("http", "nowhere.invalid", 80, 10)
                assert caught.value.function == "proxy"
                check(str(caught.value))


@kinds
async def test_what_a_callback_raises_about_what_came(nasty: bytes) -> None:
    told: list[str] = []
    over = anyio.Event()

    def on_input(peer: Peer, data: object) -> None:
        raise ValueError(nasty.decode("latin-1"))

    with Server(Greeting(b"hello\n")) as server:
        async with MultiClient(
            on_input=on_input,
            on_error=lambda peer, what, number, text: told.append(text),
            on_disconnected=lambda peer: over.set(),
        ) as client:
            client.connect("127.0.0.1", server.port)
            await over.wait()
    check("".join(told[:1]))
    assert told


@kinds
async def test_logs_of_messages_that_cannot_be_parsed(nasty: bytes, caplog: pytest.LogCaptureFixture) -> None:
    head = b"SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bKa\r\nFrom: <sip:a@h>;tag=a\r\nTo: <sip:b@h>\r\n"
    rest = b"Call-ID: a\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    messages = [b"OPTIONS urn:" + nasty[:9000].replace(b"\n", b"") + b" " + head + rest, nasty + b"\r\n\r\n"]
    with caplog.at_level(logging.INFO, "keepalive"):
        async with open_leg("tcp", "127.0.0.1", 0, config=SipConfig(raw=False)) as pool:
            for message in messages:
                async with await anyio.connect_tcp(*pool.master.getsockname()[:2]) as stream:
                    try:
                        await stream.send(message)
                        await stream.send_eof()
                        async for _ in stream:
                            pass
                    except (anyio.BrokenResourceError, OSError):
                        pass  # closed by the leg before it had read all
    for record in caplog.records:
        check(record.getMessage())
