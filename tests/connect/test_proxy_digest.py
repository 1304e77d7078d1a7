"""Digest authentication towards HTTP proxies (RFC 7616), and what is said where it cannot be done."""

from __future__ import annotations

import errno
import hashlib
import re
from typing import TYPE_CHECKING

import pytest

from keepalive import ConnectError, ConnectionManager, HTTPProxyConnector
from keepalive.connect.proxy_digest import Challenge, answerable, challenges, digest
from tests.support import Server
from tests.support.proxies import OK, Script, head
from tests.support.requests import exchange
from tests.support.tunnel import Tunnel

if TYPE_CHECKING:
    import asyncio

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


class DigestProxy(Tunnel):
    """Let in whoever answers the challenge, one request for each connection."""

    def __init__(self, target: Server, algorithm: str) -> None:
        super().__init__(target)
        self.algorithm = algorithm
        self.heads: list[bytes] = []

    async def _agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(asked)
        good = self._good(asked.decode())
        challenge = f'Digest realm="the \\"realm\\"", nonce="n0", qop="auth", algorithm={self.algorithm}'
        fields = {"Proxy-Authenticate": f'Basic realm="b", {challenge}', "Content-Length": 2}
        writer.write(OK if good else head("HTTP/1.1 407 Who", **fields) + b"no")
        return good

    def _good(self, asked: str) -> bool:
        target = asked.split()[1]
        found = re.search("Proxy-Authorization: Digest (.*)\r\n", asked)
        if found is None:
            return False
        said = dict(re.findall(r'(\w+)="?([\w.:-]*)', found[1]))

        def hashed(text: str) -> str:
            return HASHES[self.algorithm](text.encode()).hexdigest()

        secret, action = hashed('me:the "realm":sesame'), hashed(f"CONNECT:{target}")
        proof = hashed(f"{secret}:n0:{said['nc']}:{said['cnonce']}:auth:{action}")
        return (said["response"], said["uri"]) == (proof, target)


@pytest.mark.parametrize("algorithm", HASHES)
async def test_a_proxy_that_wants_digest_gets_it(algorithm: str, echo_server: Server) -> None:
    with DigestProxy(echo_server, algorithm) as proxy:
        via = HTTPProxyConnector(f"http://me:sesame@127.0.0.1:{proxy.port}")
        async with ConnectionManager(connectors={"via": via}) as mgr:
            for _ in range(2):
                async with mgr.allocate("via", "localhost", echo_server.port, 5) as conn:
                    await exchange(conn)
                    conn.discard()
    assert len(proxy.heads) == 4
    assert b"Basic" not in b"".join(proxy.heads[1:])


async def test_a_wrong_password_is_tried_once(echo_server: Server) -> None:
    with DigestProxy(echo_server, "MD5") as proxy:
        via = HTTPProxyConnector(f"http://me:wrong@127.0.0.1:{proxy.port}")
        async with ConnectionManager(connectors={"via": via}) as mgr:
            with pytest.raises(ConnectError, match="it wants Basic, Digest") as caught:
                await mgr.allocate("via", "localhost", echo_server.port, 5)
    assert caught.value.error_num == errno.EACCES
    assert len(proxy.heads) == 2


async def test_the_error_names_the_schemes_that_the_proxy_wants() -> None:
    answer = head("HTTP/1.1 407 Who", **{"Proxy-Authenticate": "Negotiate abc==, NTLM"})
    with Server(Script(answer)) as proxy:
        via = HTTPProxyConnector(f"http://me:sesame@127.0.0.1:{proxy.port}")
        async with ConnectionManager(connectors={"via": via}) as mgr:
            with pytest.raises(ConnectError, match=r"407 Who \(it wants Negotiate, NTLM\)"):
                await mgr.allocate("via", "localhost", 80, 5)


def test_the_better_algorithm_is_chosen() -> None:
    offered = challenges(
        'Digest realm="a", nonce="1", qop="auth,auth-int", algorithm=MD5, Digest realm="b", nonce="2",'
        ' algorithm=SHA-256, Digest realm="c", nonce="3", algorithm=SHA-512-256'
    )
    assert [challenge.params["realm"] for challenge in offered] == ["a", "b", "c"]
    assert answerable(offered) is offered[1]


@pytest.mark.parametrize(
    "field",
    ["", "Digest", 'Digest realm="x', "=,=", 'Digest realm="r", nonce="n", qop="auth-int"', 'Basic "'],
)
def test_what_cannot_be_answered_is_not(field: str) -> None:
    assert answerable(challenges(field)) is None


def test_without_qop_the_answer_is_that_of_rfc_2069() -> None:
    challenge = Challenge("Digest", {"realm": "r", "nonce": "n", "opaque": "o"})
    secret = hashlib.md5(b"u:r:p").hexdigest()
    action = hashlib.md5(b"CONNECT:h:1").hexdigest()
    proof = hashlib.md5(f"{secret}:n:{action}".encode()).hexdigest()
    answer = digest(challenge, ("u", "p"), "h:1", "c").decode()
    assert f'response="{proof}"' in answer
    assert 'opaque="o"' in answer
    assert "cnonce" not in answer
