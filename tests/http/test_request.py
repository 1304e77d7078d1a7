"""The request as it goes out: what is sent, and what is refused before anything is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keepalive import ConnectionManager, http
from keepalive.http import InvalidRequest, compose

if TYPE_CHECKING:
    from tests.support import Server


def whole(method: str, content: Any = None, *headers: tuple[bytes, bytes]) -> bytes:
    return compose(method, b"/x", b"a.test", headers, content).at_once


def test_what_is_sent() -> None:
    assert whole("GET") == b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"
    assert whole("GET", None, (b"host", b"b.test")) == b"GET /x HTTP/1.1\r\nhost: b.test\r\n\r\n"
    assert whole("POST").endswith(b"a.test\r\nContent-Length: 0\r\n\r\n")
    assert whole("POST", b"abc").endswith(b"\r\nContent-Length: 3\r\n\r\nabc")
    assert whole("GET", b"").endswith(b"\r\nContent-Length: 0\r\n\r\n")
    assert whole("PUT", bytearray(b"abc"), (b"Content-Length", b"3")).endswith(b"h: 3\r\n\r\nabc")
    chunked = (b"Transfer-Encoding", b"chunked")
    assert whole("PUT", memoryview(b"abc"), chunked).endswith(b"chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert whole("PUT", b"", chunked).endswith(b"chunked\r\n\r\n0\r\n\r\n")
    assert whole("M-SEARCH", None, (b"X", b""), (b"Y", b"\xe4 \t;")).endswith(
        b"\r\nX: \r\nY: \xe4 \t;\r\n\r\n"
    )


def test_what_a_message_says() -> None:
    def made(method: str, content: Any, *headers: tuple[bytes, bytes]) -> http.Message:
        return compose(method, b"/", b"a.test", headers, content)

    streamed = made("PUT", iter([b"x"]))
    assert (streamed.length, streamed.repeatable, streamed.at_once) == (None, False, b"")
    assert made("PUT", iter([b"x"]), (b"content-length", b"7")).length == 7
    assert made("PUT", b"x").repeatable
    assert not made("POST", b"x").repeatable
    assert made("GET", None).keep
    assert not made("GET", None, (b"Connection", b"te, Close")).keep
    assert made("GET", None, (b"Connection", b"upgrade"), (b"Upgrade", b"x")).upgrades
    assert made("PUT", b"x", (b"Expect", b"100-Continue")).expects
    assert not made("GET", None, (b"Expect", b"100-continue")).expects


@pytest.mark.parametrize("bad", [b"a\nb", b"a\rb", b"a\r\nX: 1", b"a\x00b", b"\x7f", b" a", b"a ", b"a\x0bb"])
def test_bad_header_value(bad: bytes) -> None:
    with pytest.raises(InvalidRequest, match="header X must be free of control characters"):
        whole("GET", None, (b"X", bad))


@pytest.mark.parametrize("bad", [b"", b"a b", b"a:", b"a\n", b"\xe4", b"(x)", b"a\x00"])
def test_bad_header_name_and_method(bad: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a token"):
        whole("GET", None, (bad, b"x"))
    with pytest.raises(InvalidRequest, match="method must be a token"):
        compose(bad, b"/", b"a", (), None)


@pytest.mark.parametrize("bad", [b"", b"/ /", b"/\r\n", b"/\xff", b"/\x00", b"/\t"])
def test_bad_target_and_host(bad: bytes) -> None:
    with pytest.raises(InvalidRequest, match="target"):
        compose("GET", bad, b"a", (), None)
    with pytest.raises(InvalidRequest, match="Host"):
        compose("GET", b"/", bad, (), None)


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ([(b"Host", b"a"), (b"host", b"b")], None),
        ([(b"Content-Length", b"1"), (b"Content-Length", b"1")], b"x"),
        ([(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")], b"x"),
        ([(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")], b"x"),
        ([(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")], b"x"),
        ([(b"Transfer-Encoding", b"gzip, chunked")], b"x"),
        ([(b"Content-Length", b"+1")], b"x"),
        ([(b"Content-Length", b"1, 1")], b"x"),
        ([(b"Content-Length", b"2")], b"x"),
        ([(b"Content-Length", b"2")], None),
    ],
)
def test_messages_that_say_two_things(headers: list[tuple[bytes, bytes]], content: bytes | None) -> None:
    with pytest.raises(InvalidRequest):
        whole("POST", content, *headers)


async def test_nothing_is_sent_for_a_bad_request(http_server: Server) -> None:
    url = f"http://{http_server.host}:{http_server.port}/"
    async with ConnectionManager() as mgr:
        for method, where, options in (
            ("G\r\nET", url, {}),
            ("GET", url + "a b", {}),
            ("GET", "ftp://a/", {}),
            ("GET", url, {"headers": {"X": "a\r\nY: b"}}),
            ("GET", url, {"headers": {"X": "\u20ac"}}),
            ("POST", url, {"headers": {"Content-Length": "9"}, "content": b"x"}),
        ):
            with pytest.raises(InvalidRequest):
                http.request(mgr, method, where, **options)
        for wrong in ({"content": "text"}, {"content": 5}, {"headers": {"X": 1}}, {"timeout": "soon"}):
            with pytest.raises(TypeError):
                http.request(mgr, "GET", url, **wrong)
        with pytest.raises(ValueError, match="total"):
            http.request(mgr, "GET", url, timeout=-1)
        with pytest.raises(TypeError, match="manager"):
            http.Client(url)  # type: ignore[arg-type]  # that is the test
        with pytest.raises(InvalidRequest, match="header X"):
            http.Client(mgr, headers={"X": "\n"})
        assert mgr.stats().requests == 0
    assert http_server.accepted == 0
