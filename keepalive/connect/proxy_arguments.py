"""Checks of what proxies are given: URLs, credentials, header fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit


def proxy_url(value: object, ports: Mapping[str, int]) -> tuple[str, str, int, tuple[str, str] | None]:
    """Check a proxy's URL; return its scheme, host, port and credentials.

    No message repeats the URL: it may hold a password.
    """
    if not isinstance(value, str):
        msg = f"proxy must be a URL as a str, not of type {type(value).__name__}"
        raise TypeError(msg)
    try:
        parts = urlsplit(value if value.isprintable() and " " not in value else "")
        scheme, host, number = parts.scheme, parts.hostname or "", parts.port
        pair = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        whole = not (parts.path.strip("/") or parts.query or parts.fragment)
    except ValueError:
        scheme, host, number, pair, whole = "", "", None, None, False
    if scheme not in ports or not host or number == 0 or not whole:
        known = " or ".join(f"{name}://host:{port}" for name, port in ports.items())
        msg = f"proxy must be a URL like {known}, with user:password@ before the host if it wants them"
        raise ValueError(msg)
    return scheme, host, ports[scheme] if number is None else number, credentials(pair)


def credentials(value: object) -> tuple[str, str] | None:
    """Check a pair of user name and password. No message repeats them."""
    if value is None:
        return None
    if not isinstance(value, tuple) or [type(part) for part in value] != [str, str]:
        msg = "auth must be a tuple of user name and password, both str"
        raise TypeError(msg)
    if not all(part.isprintable() for part in value):
        msg = "auth must have no control characters"
        raise ValueError(msg)
    return value


_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_FIELD_VALUE = re.compile(
    rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
).fullmatch
_FRAMING = (b"host", b"content-length", b"transfer-encoding")


def header_lines(name: str, value: object) -> bytes:
    """Check HTTP header fields, pairs of str or bytes; return their lines. No message repeats a value."""
    pairs = value.items() if isinstance(value, Mapping) else value
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        msg = f"{name} must be a mapping or pairs, not {type(value).__name__}"
        raise TypeError(msg)
    lines = b""
    for pair in pairs:
        if (
            not isinstance(pair, tuple)
            or len(pair) != 2
            or any(type(part) not in (str, bytes) for part in pair)
        ):
            msg = f"{name} must be pairs of str or bytes"
            raise TypeError(msg)
        try:
            field, text = (part.encode("latin-1") if isinstance(part, str) else part for part in pair)
        except UnicodeEncodeError:
            msg = f"{name} must be latin-1"
            raise ValueError(msg) from None
        if not _FIELD_NAME(field) or field.lower() in _FRAMING:
            msg = f"{name} must be named by tokens, and not Host or a length: {field!r} is no such name"
            raise ValueError(msg)
        if not _FIELD_VALUE(text):
            msg = f"{name} must be free of control characters and outer space: {field.decode()} is not"
            raise ValueError(msg)
        lines += b"%b: %b\r\n" % (field, text)
    return lines
