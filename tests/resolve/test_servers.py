"""Servers that are silent, old or refuse: what one resolver remembers of them, and how its search goes on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectionManager, DNSResolver, ResolveError
from keepalive.resolve import resolv_conf as _resolv
from keepalive.resolve.server_status import DEAD_FOR, ServerStatus
from tests.support.nameserver import NameServer, Question, Zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from keepalive.resolve.resolv_conf import Config

V4 = "60 A 192.0.2.1"


def only(*servers: NameServer, **options: object) -> DNSResolver:
    options = {"hosts": None, "timeout": 0.1, **options}
    return DNSResolver([server.address for server in servers], **options)  # type: ignore[arg-type]  # mixed


def silent(question: Question) -> Iterable[bytes]:
    return ()


def servfail(question: Question) -> Iterable[bytes]:
    yield question.reply(rcode="SERVFAIL")


async def test_a_silent_server_costs_its_time_once() -> None:
    """Not once for each candidate of each name."""
    with NameServer(silent) as first, NameServer(Zone({"host.c.test": [V4], "other.test": [V4]})) as second:
        resolver = only(first, second, search=["a.test", "b.test", "c.test"], timeout=0.3)
        assert (await resolver.resolve("host")).addresses == ("192.0.2.1",)
        assert (await resolver.resolve("other.test")).addresses == ("192.0.2.1",)
        assert first.names() == ["host.a.test"]
        assert second.names() == ["host.a.test", "host.b.test", "host.c.test", "other.test"]


async def test_a_server_that_is_silent_is_asked_when_nobody_else_knows() -> None:
    talks: list[bool] = []

    def answer(question: Question) -> Iterable[bytes]:
        return Zone({"b.test": [V4]})(question) if talks else ()

    with NameServer(answer) as first, NameServer(servfail) as second:
        resolver = only(first, second, attempts=1)
        with pytest.raises(socket.gaierror):
            await resolver.resolve("a.test")
        talks.append(True)
        assert (await resolver.resolve("b.test")).addresses == ("192.0.2.1",)
        second.asked.clear()
        assert (await resolver.resolve("b.test")).addresses == ("192.0.2.1",)
        assert second.asked == []  # the first has its place again


def test_who_is_asked_when() -> None:
    one, two, three = ((f"192.0.2.{n}", 53) for n in (1, 2, 3))
    status = ServerStatus()
    servers = (one, two, three)
    status.answered(two, 1.0)
    status.silent(one, 2.0, 4.0)
    status.silent(two, 0.5, 4.0)  # others had their answers meanwhile
    assert status.order(servers, 5.0) == [two, three, one]
    assert status.order(servers, 4.0 + DEAD_FOR) == [one, two, three]  # one question tries it
    assert status.order(servers, 4.0 + DEAD_FOR) == [two, three, one]
    status.answered(one, 40.0)
    assert status.order(servers, 40.0) == [one, two, three]


async def test_a_server_that_drops_what_has_edns_in_it() -> None:
    def answer(question: Question) -> Iterable[bytes]:
        return () if question.message.edns >= 0 else Zone({"a.test": [V4], "b.test": [V4]})(question)

    with NameServer(answer) as server:
        resolver = only(server)
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        server.asked.clear()
        assert (await resolver.resolve("b.test")).addresses == ("192.0.2.1",)
        assert [question.message.edns for question in server.asked] == [-1, -1]  # it is remembered


async def test_failures_are_remembered_for_a_second() -> None:
    """RFC 9520 3.2. But an old answer that may serve goes before."""
    with NameServer(servfail) as server:
        async with ConnectionManager(resolver=only(server)) as mgr:
            for _ in range(5):
                with pytest.raises(ResolveError, match="SERVFAIL") as caught:
                    await mgr.allocate("http", "a.test", 80, 5)
                assert caught.value.error_num is None
            assert server.names() == ["a.test"]


# -- search lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [silent, servfail])
@pytest.mark.parametrize("kind", ["A", "AAAA"])
async def test_the_search_goes_on_when_one_family_says_that_there_is_no_such_name(
    kind: str, answer: Callable[[Question], Iterable[bytes]]
) -> None:
    """RFC 8020: that is final for all types."""

    def answers(question: Question) -> Iterable[bytes]:
        if question.kind != kind and question.name == "host.a.test":
            return answer(question)
        return Zone({"host.b.test": [V4]})(question)

    with NameServer(answers) as server:
        resolver = only(server, search=["a.test", "b.test"], attempts=1)
        assert (await resolver.resolve("host")).addresses == ("192.0.2.1",)


async def test_the_search_goes_on_when_a_single_label_is_refused() -> None:
    """With ndots 0 it is asked for as it is first; many servers have no answer to that."""

    def answer(question: Question) -> Iterable[bytes]:
        return Zone({"host.a.test": [V4]})(question) if "." in question.name else servfail(question)

    with NameServer(answer) as server:
        resolver = only(server, search=["a.test"], ndots=0)
        assert (await resolver.resolve("host")).addresses == ("192.0.2.1",)
        with pytest.raises(socket.gaierror, match="SERVFAIL") as caught:
            await resolver.resolve("other")
        assert caught.value.errno == socket.EAI_AGAIN  # nobody said that there is none


async def test_the_search_does_not_go_on_with_whole_names_that_nobody_can_tell_of() -> None:
    """What comes later in the list may be somebody else's host."""
    with NameServer(servfail) as server:
        with pytest.raises(socket.gaierror, match="SERVFAIL"):
            await only(server, search=["a.test"]).resolve("www.test")
        assert server.names() == ["www.test"]


def test_the_environment_and_the_machine_s_name() -> None:
    """resolv.conf(5)."""

    def read(text: str, host_name: str = "me.corp.test", **environ: str) -> Config:
        return _resolv.surroundings(_resolv.parse(text, lambda *_: None), environ, host_name)

    assert read("").search == ("corp.test",)
    assert read("", "me").search == read("", "").search == read("search .").search == ()
    assert read("search a.test").search == ("a.test",)
    assert read("search a.test", LOCALDOMAIN="b.test c.test").search == ("b.test", "c.test")
    assert read("search a.test", LOCALDOMAIN="").search == ()
    config = read("options ndots:2 timeout:9", RES_OPTIONS="ndots:3 attempts:4 rotate use-vc no-aaaa x:y")
    assert (config.ndots, config.timeout, config.attempts) == (3, 9.0, 4)
    assert (config.rotate, config.by_tcp, config.no_ipv6) == (True, True, True)
    assert read("options ndots:2", RES_OPTIONS="ndots:x").ndots == 2


async def test_the_environment_counts_beside_given_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALDOMAIN", "b.test")
    monkeypatch.setenv("RES_OPTIONS", "no-aaaa")
    with NameServer(Zone({"host.b.test": [V4]})) as server, anyio.fail_after(10):
        assert (await only(server).resolve("host")).addresses == ("192.0.2.1",)
        assert [question.kind for question in server.asked] == ["A"]
        with pytest.raises(socket.gaierror):
            await only(server, search=[]).resolve("host")  # arguments go first
