"""What an HTTP proxy wants to know of a user: challenges, and the answer to Digest (RFC 7616). Pure."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PIECE = re.compile(
    rf'[\s,]*(?:({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))'
    rf"|({_TOKEN})(?:\s+[\w.~+/-]+=*(?=\s*(?:,|$)))?)"
)
_HASHES = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}
"""The algorithms that are answered, the better one first."""


class Challenge(NamedTuple):
    """One scheme that the proxy takes, and its parameters."""

    scheme: str
    params: dict[str, str]


def challenges(field: str) -> list[Challenge]:
    """Read a Proxy-Authenticate field (RFC 9110 11.6.1). What cannot be read ends the list."""
    found: list[Challenge] = []
    at = 0
    while match := _PIECE.match(field, at):
        name, quoted, plain, scheme = match.groups()
        at = match.end()
        if scheme is not None:
            found.append(Challenge(scheme, {}))
        elif found:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].params.setdefault(name.lower(), value)
    return found


def answerable(offered: list[Challenge]) -> Challenge | None:
    """Choose the Digest challenge with the best algorithm, if there is one that can be answered."""
    for algorithm in _HASHES:
        for challenge in offered:
            params = challenge.params
            if challenge.scheme.lower() != "digest" or not {"realm", "nonce"} <= params.keys():
                continue
            qop = [part.strip().lower() for part in params.get("qop", "auth").split(",")]
            if params.get("algorithm", "MD5").upper() == algorithm and "auth" in qop:
                return challenge
    return None


def digest(challenge: Challenge, pair: tuple[str, str], target: str, cnonce: str) -> bytes:
    """Return the Proxy-Authorization field that answers a challenge to CONNECT.

    :param target: the request's target: host and port
    :param cnonce: a random text, new each time
    """
    params, (user, password) = challenge.params, pair
    algorithm = params.get("algorithm", "MD5").upper()
    new = _HASHES[algorithm]

    def hashed(*parts: str) -> str:
        return new(":".join(parts).encode()).hexdigest()

    secret, action = hashed(user, params["realm"], password), hashed("CONNECT", target)
    count = "00000001"
    if "qop" in params:
        response = hashed(secret, params["nonce"], count, cnonce, "auth", action)
    else:  # RFC 2069
        response = hashed(secret, params["nonce"], action)
    fields = [
        f"username={_quoted(user)}",
        f"realm={_quoted(params['realm'])}",
        f"nonce={_quoted(params['nonce'])}",
        f"uri={_quoted(target)}",
        f'response="{response}"',
        f"algorithm={algorithm}",
    ]
    if "qop" in params:
        fields += ["qop=auth", f"nc={count}", f'cnonce="{cnonce}"']
    if "opaque" in params:
        fields.append(f"opaque={_quoted(params['opaque'])}")
    return f"Proxy-Authorization: Digest {', '.join(fields)}\r\n".encode()


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
