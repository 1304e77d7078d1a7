"""Names that are refused, and how the others are asked for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from keepalive import ConnectionManager, ResolveError, StaticResolver
from keepalive.resolve.check import WrongName, ascii_name

if TYPE_CHECKING:
    from tests.support import Server


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("Some.TEST", "some.test"),
        ("some.test.", "some.test."),
        ("single", "single"),
        ("_sip._tcp.a_b.test", "_sip._tcp.a_b.test"),
        ("1.2.3", "1.2.3"),
        ("-odd-.test", "-odd-.test"),
        ("b\u00fccher.test", "xn--bcher-kva.test"),
        ("B\u00dcCHER\u3002test", "xn--bcher-kva.test"),
        ("stra\u00dfe.test", "xn--strae-oqa.test"),  # IDNA 2003 had "strasse"
        ("XN--BCHER-KVA.test", "xn--bcher-kva.test"),
        ("xn--i-7iq.ws", "xn--i-7iq.ws"),  # registered under older rules; what is asked for is the A-label
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("x" * 63 + ".test", "x" * 63 + ".test"),
        (".".join(["x" * 61] * 4) + ".test.", ".".join(["x" * 61] * 4) + ".test."),
    ],
)
def test_names_as_they_are_asked_for(host: str, asked: str) -> None:
    assert ascii_name(host) == asked


WRONG = [
    (".", "empty"),
    ("a..test", "a label is empty"),
    (".a.test", "a label is empty"),
    ("a.test..", "a label is empty"),
    ("x" * 64 + ".test", "a label of 64 characters"),
    (".".join(["x" * 62] * 4) + ".tt", "more than 253"),
    ("\u00fc" * 60 + ".test", "IDNA 2008"),
    ("\u2603.test", "IDNA 2008"),
    ("a\u200db.test", "IDNA 2008"),
    ("\u0627a.test", "IDNA 2008"),  # right-to-left and left-to-right in one label
    ("\u00fc" * 5000, "5000 characters"),
    ("\ud800.test", "IDNA 2008"),
    ("xn--\u00fc.test", "IDNA 2008"),
    ("xn--99999999999.test", "A-label"),
    ("http://a.test", "':' cannot be in one"),
    ("a.test:80", "':' cannot"),
    ("a.test/path", "'/' cannot"),
    ("user@a.test", "'@' cannot"),
    ("[::1]", "'\\['"),
    ("fe80::1%", "':' cannot"),
    ("a\x07b.test", "x07"),
]


@pytest.mark.parametrize(("host", "why"), WRONG)
async def test_wrong_names_reach_no_resolver(host: str, why: str) -> None:
    class Nobody:
        async def resolve(self, host: str) -> Any:
            raise AssertionError(host)

    async with ConnectionManager(resolver=Nobody(), max_open=1) as mgr:
        for _ in range(2):
            with pytest.raises(ResolveError, match=f"addr .* is no host name: .*{why}") as caught:
                await mgr.allocate("http", host, 80, 5)
            assert isinstance(caught.value.__cause__, ValueError)
        assert (mgr.stats().open, mgr.stats().waiting) == (0, 0)


async def test_nul_and_white_space_are_refused_at_the_call() -> None:
    async with ConnectionManager() as mgr:
        for host in ("a\0.test", "a b.test", "", "a.test\n"):
            with pytest.raises(ValueError, match="addr"):
                mgr.allocate("http", host, 80)


async def test_however_a_name_is_written_it_is_one(echo_server: Server) -> None:
    resolver = StaticResolver({"B\u00fccher.test": "127.0.0.1"})
    async with ConnectionManager(resolver=resolver) as mgr:
        for host in ("b\u00fccher.test", "B\u00dcCHER.TEST.", "xn--bcher-kva.test"):
            (await mgr.allocate("http", host, echo_server.port, 5)).release()
        # Full-width digits are an address, and a full-width name may be localhost.
        for host in ("\uff11\uff12\uff17.0.0.1", "\uff4cocalhost"):
            (await mgr.allocate("http", host, echo_server.port, 5)).release()


def test_any_text_is_a_name_or_refused() -> None:
    rng = random.Random(5)
    alphabet = "a.-_x\0\n %:/\\[\u00fc\u00df\u2603\u200d\ud800\u3002\U0001f4a9\uff0e1" + "xn--"
    for _ in range(5000):
        host = "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 12)))
        try:
            name = ascii_name(host)
        except WrongName:
            continue
        assert name.isascii()
        assert name == ascii_name(name)
