"""The hosts file and resolv.conf: what they say, what is skipped, when they are read again."""

from __future__ import annotations

import logging
import os
import random
from typing import TYPE_CHECKING

import pytest

from keepalive.resolve import hosts_file as _hosts
from keepalive.resolve import resolv_conf as _resolv
from keepalive.resolve.files import LOOK_EVERY, Watched
from keepalive.resolve.resolv_conf import Config, candidates

if TYPE_CHECKING:
    from pathlib import Path


def quiet(number: int, why: str) -> None:
    raise AssertionError(f"line {number}: {why}")


def test_resolv_conf() -> None:
    text = """# a comment
; another
nameserver 192.0.2.1 trailing words
nameserver\t2001:db8::1
nameserver fe80::1%lo
domain old.test
search a.test B.test. a.test .
sortlist 192.0.2.0
options ndots:3 timeout:7 rotate edns0 unknown:5
options attempts:4 use-vc no-aaaa
"""
    assert _resolv.parse(text, quiet) == Config(
        servers=(("192.0.2.1", 53), ("2001:db8::1", 53), ("fe80::1%lo", 53)),
        search=("a.test", "b.test"),
        ndots=3,
        timeout=7.0,
        attempts=4,
        rotate=True,
        by_tcp=True,
        no_ipv6=True,
    )
    assert _resolv.parse("", quiet) == Config(servers=(("127.0.0.1", 53),), timeout=2.0, attempts=2)
    assert _resolv.parse("options ndots:99 timeout:99 attempts:99", quiet) == Config(
        ndots=15, timeout=30.0, attempts=5
    )
    assert _resolv.parse("options timeout:0 attempts:0 ndots:0\nsearch a.test\nsearch", quiet) == Config(
        ndots=0, timeout=1.0, attempts=1
    )


def test_malformed_lines_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(
        b"nameserver\nnameserver not.an.address\n\xff\xfe\0\nnameserver 192.0.2.1\n"
        b"search " + b"x" * 64 + b" ok.test a..b\noptions ndots:many timeout:-1 attempts:\xc2\xb2\nnonsense\n"
    )
    with caplog.at_level(logging.WARNING, "keepalive"):
        config = Watched(str(file), _resolv.parse).value()
    assert config == Config(servers=(("192.0.2.1", 53),), search=("ok.test",))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 7
    assert "resolv.conf, line 1 is skipped" in caplog.text
    assert "'not.an.address' is no address" in caplog.text

    hosts = tmp_path / "hosts"
    hosts.write_bytes(
        b"127.0.0.1\n::1 # no name\nnonsense here\n\0\n192.0.2.1 One.test. two.test # three.test\r\n"
        b"2001:db8::1 one.test\n192.0.2.1 one.test\n192.0.2.9 \xff.test\n"
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "keepalive"):
        table = Watched(str(hosts), _hosts.parse).value()
    assert table.get("one.test") == ("192.0.2.1", "2001:db8::1")
    assert table.get("two.test") == ("192.0.2.1",)
    assert not table.get("three.test")
    assert len(caplog.records) == 4


def test_rubbish_never_raises() -> None:
    rng = random.Random(1)
    words = ["nameserver", "search", "options", "domain", "ndots:", "timeout:5", ":", "127.0.0.1", "::1"]
    words += ["a.test", ".", "#", ";", "\0", "\u00fc", "\n", "\n", "\t", "x"]
    for _ in range(2000):
        text = " ".join(rng.choice(words) for _ in range(rng.randrange(20)))
        assert _resolv.parse(text, lambda *_: None).servers
        _hosts.parse(text, lambda *_: None)


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    reads: list[str] = []

    def parse(text: str, complain: object) -> str:
        reads.append(text)
        return text

    file = tmp_path / "file"
    watched = Watched(str(file), parse, lambda: now)
    assert watched.value() == ""  # not there: like an empty one
    file.write_text("one")
    assert watched.value() == ""  # looked at a moment ago
    now += LOOK_EVERY
    assert watched.value() == "one"
    now += LOOK_EVERY
    assert watched.value() == "one"
    assert reads == ["", "one"]  # not read again without need
    os.utime(file, ns=(1, 1))
    file.write_text("two")  # as long as before
    now += LOOK_EVERY
    assert watched.value() == "two"
    other = tmp_path / "other"  # as editors do it
    other.write_text("three")
    other.rename(file)
    now += LOOK_EVERY
    assert watched.value() == "three"
    file.unlink()
    file.mkdir()  # cannot be read
    now += LOOK_EVERY
    assert watched.value() == ""
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("name", "ndots", "tried"),
    [
        ("host", 1, ["host.a.test", "host.b.test", "host"]),
        ("host.", 1, ["host"]),
        ("host.sub", 1, ["host.sub", "host.sub.a.test", "host.sub.b.test"]),
        ("host.sub", 2, ["host.sub.a.test", "host.sub.b.test", "host.sub"]),
        ("host.sub.", 5, ["host.sub"]),
        ("host", 0, ["host", "host.a.test", "host.b.test"]),
        (".".join(["x" * 60] * 4), 1, [".".join(["x" * 60] * 4), ".".join(["x" * 60] * 4) + ".a.test"]),
    ],
)
def test_search_list(name: str, ndots: int, tried: list[str]) -> None:
    """resolv.conf(5); names that would be too long are left out."""
    second = "b.test" if len(name) < 100 else "much.too.long.test"
    assert candidates(name, ("a.test", second), ndots) == tried
