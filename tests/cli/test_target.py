"""URLs on the command line."""

from __future__ import annotations

import pytest

from keepalive._cli.target import BadURL, parse


@pytest.mark.parametrize(
    ("url", "where", "line", "host"),
    [
        ("http://a.example", ("http", "a.example", 80), "GET / HTTP/1.1", "a.example"),
        ("HTTPS://A.Example/x", ("https", "a.example", 443), "GET /x HTTP/1.1", "a.example"),
        ("http://a.example:80/", ("http", "a.example", 80), "GET / HTTP/1.1", "a.example"),
        ("http://a.example:443/", ("http", "a.example", 443), "GET / HTTP/1.1", "a.example:443"),
        ("http://[::1]:8080/?q=1#f", ("http", "::1", 8080), "GET /?q=1 HTTP/1.1", "[::1]:8080"),
        ("http://[fe80::1%25eth0]/", ("http", "fe80::1%eth0", 80), "GET / HTTP/1.1", "[fe80::1]"),
        ("http://127.0.0.1?x", ("http", "127.0.0.1", 80), "GET /?x HTTP/1.1", "127.0.0.1"),
        (
            "http://b\u00fccher.example/\u00fc?\u00fc",
            None,
            "GET /%C3%BC?%C3%BC HTTP/1.1",
            "xn--bcher-kva.example",
        ),
        ("http://a.example/%41//b;c=d", None, "GET /%41//b;c=d HTTP/1.1", "a.example"),
    ],
)
def test_url_becomes_key_and_request(
    url: str, where: tuple[str, str, int] | None, line: str, host: str
) -> None:
    target = parse(url)
    if where is not None:
        assert (target.scheme, target.host, target.port) == where
    head = target.request.decode("ascii").split("\r\n")
    assert head[:2] == [line, f"Host: {host}"]
    assert head[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "begins with http"),
        ("a.example", "begins with http"),
        ("ftp://a.example/", "scheme 'ftp' is not"),
        ("http:///x", "names no host"),
        ("http://a.example:0/", "port 0"),
        ("http://a.example:99999/", "Port out of range"),
        ("http://a.example:x/", "Port could not be cast"),
        ("http://me:secret@a.example/", "user name or password"),
        ("http://a.example/a b", "space or a control"),
        ("http://a.example/\r\nX-Evil:1", "space or a control"),
        ("http://[::1/", "Invalid IPv6 URL"),
        ("http://[nonsense]/", "nonsense"),
        ("http://a..example/", "no host name"),
        (f"http://{'a' * 64}.example/", "no host name"),
    ],
)
def test_bad_url_says_why(url: str, why: str) -> None:
    with pytest.raises(BadURL, match=why):
        parse(url)
