"""URLs, taken apart and refused."""

from __future__ import annotations

import pytest

from keepalive.http import InvalidURL, parse_url


@pytest.mark.parametrize(
    ("url", "where", "target", "host"),
    [
        ("http://a.example", ("http", "a.example", 80), "/", "a.example"),
        ("HTTPS://A.Example/x", ("https", "a.example", 443), "/x", "a.example"),
        ("http://a.example:80/", ("http", "a.example", 80), "/", "a.example"),
        ("http://a.example:443/", ("http", "a.example", 443), "/", "a.example:443"),
        ("http://[::1]:8080/?q=1#f", ("http", "::1", 8080), "/?q=1", "[::1]:8080"),
        ("http://[fe80::1%25eth0]/", ("http", "fe80::1%eth0", 80), "/", "[fe80::1]"),
        ("http://127.0.0.1?x", ("http", "127.0.0.1", 80), "/?x", "127.0.0.1"),
        (
            "http://b\u00fccher.example/\u00fc?\u00fc",
            None,
            "/%C3%BC?%C3%BC",
            "xn--bcher-kva.example",
        ),
        ("http://a.example/%41//b;c=d", None, "/%41//b;c=d", "a.example"),
    ],
)
def test_url_is_taken_apart(url: str, where: tuple[str, str, int] | None, target: str, host: str) -> None:
    found = parse_url(url)
    if where is not None:
        assert found[:3] == where
    assert (found.target, found.authority) == (target, host)


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
        ("http://a%00b.example/", "no host name"),
        ("http://a.example\\@b.example/", "user name"),
        ("http://a.example/\ud800", "surrogates"),
        (f"http://{'a' * 64}.example/", "no host name"),
    ],
)
def test_bad_url_says_why(url: str, why: str) -> None:
    with pytest.raises(InvalidURL, match=why):
        parse_url(url)
