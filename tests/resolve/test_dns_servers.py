"""The default resolver, its name servers that do not help, its files and its arguments."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import DNSResolver, Resolution
from tests.support.nameserver import V4, V6, NameServer, Question, Zone, only, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


class Watchful(DNSResolver):
    """Looks at its files each time."""

    look_every = 0.0


# -- servers that do not help ------------------------------------------------------------------------


def silent(question: Question) -> Iterable[bytes]:
    return ()


def servfail(question: Question) -> Iterable[bytes]:
    yield question.reply(rcode="SERVFAIL")


@pytest.mark.parametrize("bad", [silent, servfail])
async def test_the_second_server(bad: Callable[[Question], Iterable[bytes]]) -> None:
    with NameServer(bad) as first, NameServer(Zone({"a.test": [V4]})) as second:
        assert (await only(first, second).resolve("a.test")).addresses == ("192.0.2.1",)
        assert first.names() == second.names() == ["a.test"]


async def test_a_server_that_is_not_there(unused_udp_port: int) -> None:
    """The kernel tells at once; nobody waits for the time-out."""
    with NameServer(Zone({"a.test": [V4]})) as server, anyio.fail_after(5):
        resolver = DNSResolver([f"127.0.0.1:{unused_udp_port}", server.address], timeout=60, hosts=None)
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        error = await refused(DNSResolver([f"127.0.0.1:{unused_udp_port}"], timeout=60, hosts=None), "a.test")
        assert "Connection refused" in str(error)


@pytest.fixture
def unused_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_attempts() -> None:
    with NameServer(silent) as first, NameServer(servfail) as second:
        error = await refused(only(first, second, attempts=3, timeout=0.3), "a.test")
        assert (first.names(), second.names()) == (
            ["a.test"] * 3,
            ["a.test"],
        )  # who has said all is not asked again
        assert "no answer" in str(error)
        assert "SERVFAIL" in str(error)


async def test_the_second_try_of_the_same_server() -> None:
    seen: list[str] = []

    def answer(question: Question) -> Iterable[bytes]:
        seen.append(question.kind)
        if seen.count(question.kind) > 1:
            yield from Zone({"a.test": [V4, V6]})(question)

    with NameServer(answer) as server:
        assert len((await only(server, timeout=0.5).resolve("a.test")).addresses) == 2
        assert len({question.port for question in server.asked}) == 4


async def test_rotate() -> None:
    zone = Zone({"a.test": [V4]})
    with NameServer(zone) as first, NameServer(zone) as second:
        resolver = only(first, second, rotate=True, timeout=5.0)
        for _ in range(4):
            await resolver.resolve("a.test")
        assert (len(first.names()), len(second.names())) == (2, 2)


async def test_a_server_older_than_edns() -> None:
    def answer(question: Question) -> Iterable[bytes]:
        if question.message.edns >= 0:
            yield question.reply(rcode="FORMERR")
        else:
            yield from Zone({"a.test": [V4]})(question)

    with NameServer(answer) as server:
        assert (await only(server).resolve("a.test")).addresses == ("192.0.2.1",)


@pytest.mark.parametrize("lost", ["A", "AAAA"])
async def test_a_family_without_answer_does_not_hold_up_the_other(lost: str) -> None:
    """RFC 4074: some servers drop, refuse or deny what they do not know. Half an answer is not kept long."""
    told: list[Resolution] = []
    with NameServer(lambda q: () if q.kind == lost else Zone({"a.test": [V4, V6]})(q)) as server:
        found = await only(server, attempts=1).resolve_parts("a.test", told.append)
        assert len(found.addresses) == 1
        assert (":" in found.addresses[0]) is (lost == "A")
        assert (found.ttl, found.partial) == (10.0, True)
        assert [part.addresses for part in told] == [found.addresses]


async def test_a_family_waits_a_moment_for_the_other() -> None:
    """Not for all the time-outs and attempts that its questions have."""
    with NameServer(lambda q: () if q.kind == "AAAA" else Zone({"a.test": [V4]})(q)) as server:
        with anyio.fail_after(5):
            assert (await only(server, timeout=60.0).resolve("a.test")).addresses == ("192.0.2.1",)


@pytest.mark.parametrize("rcode", ["NXDOMAIN", "NOTIMP", "SERVFAIL"])
async def test_a_server_that_does_not_know_ipv6(rcode: str) -> None:
    def answer(question: Question) -> Iterable[bytes]:
        if question.kind == "AAAA":
            yield question.reply(rcode=rcode)
        else:
            yield from Zone({"a.test": [V4]})(question)

    with NameServer(answer) as server:
        assert (await only(server).resolve("a.test")).addresses == ("192.0.2.1",)


async def test_nobody_knows_whether_there_is_ipv6() -> None:
    """No address by IPv4 and no answer by IPv6: that is a failure, which is not remembered."""

    def answer(question: Question) -> Iterable[bytes]:
        if question.kind == "A":
            yield from Zone({"a.test": [V6]})(question)

    with NameServer(answer) as server:
        assert (await refused(only(server, attempts=1), "a.test")).errno == socket.EAI_AGAIN


# -- names, files ------------------------------------------------------------------------------------


async def test_search_list() -> None:
    zone = Zone({"host.b.test": [V4], "host.sub": [V4], "none.a.test": ["60 TXT x"]})
    with NameServer(zone) as server:
        resolver = only(server, search=["a.test", "b.test"])
        assert (await resolver.resolve("host")).addresses == ("192.0.2.1",)
        assert server.names() == ["host.a.test", "host.b.test"]
        server.asked.clear()
        assert (await resolver.resolve("host.sub")).addresses
        await refused(resolver, "host.")
        assert server.names() == ["host.sub", "host"]
        assert (await refused(resolver, "none")).strerror == "the name has no address"


async def test_the_search_ends_when_nobody_can_tell() -> None:
    """What comes later in the list may be somebody else's host."""

    def answer(question: Question) -> Iterable[bytes]:
        good = question.name == "host.b.test"
        yield question.reply(
            *([f"host.b.test {V4}"] if good else []), rcode="NOERROR" if good else "SERVFAIL"
        )

    with NameServer(answer) as server:
        await refused(only(server, search=["a.test", "b.test"]), "host")
        assert server.names() == ["host.a.test"]


async def test_resolv_conf(tmp_path: Path) -> None:
    """Read at the first question, and again when it has changed; arguments go first."""
    file = tmp_path / "resolv.conf"
    with NameServer(Zone({"host.a.test": [V4], "host.b.test": ["60 A 192.0.2.2"]})) as server:

        class Here(Watchful):
            port = server.port

        resolver = Here(resolv_conf=str(file), hosts=None)
        file.write_text("nameserver 127.0.0.1\nsearch a.test\n")
        assert (await resolver.resolve("host")).addresses == ("192.0.2.1",)
        file.write_text("nameserver 127.0.0.1\nsearch  b.test\n")
        assert (await resolver.resolve("host")).addresses == ("192.0.2.2",)
        assert (await Here(search=["a.test"], resolv_conf=str(file)).resolve("host")).addresses == (
            "192.0.2.1",
        )
        server.asked.clear()
        file.write_text("nameserver 127.0.0.1\noptions use-vc no-aaaa\n")
        await resolver.resolve("host.a.test")
        assert [(question.kind, question.by_tcp) for question in server.asked] == [("A", True)]


async def test_hosts_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("192.0.2.7 here.test Other.Test. b\u00fccher.test\n2001:db8::7 here.test\n")
    with NameServer(Zone({"here.test": [V4]})) as server:
        resolver = Watchful([server.address], hosts=str(file), timeout=0.2)
        assert set((await resolver.resolve("HERE.test.")).addresses) == {"192.0.2.7", "2001:db8::7"}
        assert (await resolver.resolve("other.test")).addresses == ("192.0.2.7",)
        assert server.asked == []
        file.write_text("")
        assert (await resolver.resolve("here.test")).addresses == ("192.0.2.1",)


async def test_names_that_dns_is_never_asked_for() -> None:
    """RFC 6761 6.4, RFC 7686."""
    with NameServer(Zone({})) as server:
        for name in ("nowhere.invalid", "invalid", "x.onion."):
            assert (await refused(only(server), name)).strerror == "no such name"
        assert (await only(server).resolve("192.0.2.1")).addresses == ("192.0.2.1",)
        assert server.asked == []


# -- arguments ---------------------------------------------------------------------------------------


def test_nameservers() -> None:
    resolver = DNSResolver(["192.0.2.1", "192.0.2.1:54", "2001:db8::1", "[2001:db8::1]:55", "fe80::1%lo"])
    assert resolver._given["servers"] == (
        ("192.0.2.1", 53),
        ("192.0.2.1", 54),
        ("2001:db8::1", 53),
        ("2001:db8::1", 55),
        ("fe80::1%lo", 53),
    )


WRONG = [
    ("nameservers", "192.0.2.1", TypeError),
    ("nameservers", 5, TypeError),
    ("nameservers", [5], TypeError),
    ("nameservers", [], ValueError),
    *[
        ("nameservers", [entry], ValueError)
        for entry in (
            "",
            "ns.test",
            "192.0.2.1:",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.1:x",
            "192.0.2.1:+5",
        )
    ],
    *[
        ("nameservers", [entry], ValueError)
        for entry in ("[2001:db8::1]", "[192.0.2.1]:53", "2001:db8::1:99999")
    ],
    ("search", "a.test", TypeError),
    ("search", [5], TypeError),
    ("search", ["a..test"], ValueError),
    ("ndots", -1, ValueError),
    ("ndots", 16, ValueError),
    ("ndots", 1.0, TypeError),
    ("timeout", 0, ValueError),
    ("timeout", "5", TypeError),
    ("attempts", 0, ValueError),
    ("attempts", True, TypeError),
    ("attempts", float("inf"), TypeError),
    ("rotate", 1, TypeError),
    ("hosts", "", ValueError),
    ("hosts", 5, TypeError),
    ("resolv_conf", None, TypeError),
    ("min_ttl", -1, ValueError),
    ("min_ttl", float("nan"), ValueError),
    ("min_ttl", 1e9, ValueError),
    ("max_ttl", None, TypeError),
    ("max_negative_ttl", "1", TypeError),
    ("stale", -1.0, ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_wrong_arguments_are_named(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        DNSResolver(**{name: value})  # type: ignore[arg-type]  # that is the point
