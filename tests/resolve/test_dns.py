"""The default resolver's answers, answers that are none, and its place on the event loop."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
from anyio import to_thread

from keepalive import ConnectionManager, Resolution
from keepalive.resolve import dns_client as _wire
from keepalive.resolve.resolv_conf import Config
from tests.support.cancelling import cancel_everywhere
from tests.support.nameserver import V4, V6, NameServer, Question, Zone, only, refused, truncated
from tests.support.requests import exchange
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.support import Server


# -- answers -----------------------------------------------------------------------------------------


async def test_both_families() -> None:
    zone = Zone(
        {"a.test": [V4, "30 AAAA 2001:db8::1"], "four.test": [V4, "60 A 192.0.2.2"], "six.test": [V6]}
    )
    with NameServer(zone) as server:
        resolver = only(server)
        found = await resolver.resolve("A.test")
        assert (set(found.addresses), found.ttl) == ({"192.0.2.1", "2001:db8::1"}, 30.0)
        assert (await resolver.resolve("four.test")).addresses == ("192.0.2.1", "192.0.2.2")
        assert (await resolver.resolve("six.test")).addresses == ("2001:db8::1",)
        assert (server.names("A"), server.names("AAAA")) == (["a.test", "four.test", "six.test"],) * 2
        assert len({question.port for question in server.asked}) > 1
        assert len({question.message.id for question in server.asked}) > 1
        assert all(question.message.edns == 0 and not question.by_tcp for question in server.asked)


async def test_ttl_within_bounds() -> None:
    zone = Zone(
        {"short.test": ["0 A 192.0.2.1"], "long.test": ["999999 A 192.0.2.1"], "none.test": []}, negative=9
    )
    with NameServer(zone) as server:
        resolver = only(server, min_ttl=3, max_ttl=100, max_negative_ttl=5, stale=7)
        assert await resolver.resolve("short.test") == Resolution(("192.0.2.1",), 3.0, 7.0)
        assert await resolver.resolve("long.test") == Resolution(("192.0.2.1",), 100.0, 7.0)
        for name, text in (("none.test", "the name has no address"), ("missing.test", "no such name")):
            error = await refused(resolver, name)
            assert (error.errno, error.strerror, getattr(error, "ttl", None)) == (
                socket.EAI_NONAME,
                text,
                5.0,
            )


async def test_negative_answers_without_soa_are_hardly_remembered() -> None:
    """RFC 2308 5."""
    with NameServer(Zone({}, soa=False)) as server:
        assert getattr(await refused(only(server), "missing.test"), "ttl", None) == 1.0


async def test_another_zone_s_soa_says_nothing() -> None:
    def answer(question: Question) -> Iterable[bytes]:
        yield question.reply(rcode="NXDOMAIN", authority=["other.test 999 SOA ns. admin. 1 1 1 1 999"])

    with NameServer(answer) as server:
        assert getattr(await refused(only(server), "missing.test"), "ttl", None) == 1.0


async def test_cname_chains() -> None:
    table = {"a.test": ["5 CNAME b.test."], "b.test": ["60 CNAME c.test."], "c.test": [V4, V6]}
    with NameServer(Zone(table)) as server:
        found = await only(server).resolve("a.test")
        assert (set(found.addresses), found.ttl) == ({"192.0.2.1", "2001:db8::1"}, 5.0)
        assert server.names() == ["a.test"]


async def test_cname_that_the_server_does_not_follow() -> None:
    def one_link(question: Question) -> Iterable[bytes]:
        links = {"a.test": "a.test 10 CNAME B.test.", "b.test": "b.test 60 CNAME c.test."}
        here = links.get(question.name.lower())
        yield question.reply(here or f"{question.name} 20 A 192.0.2.1")

    with NameServer(one_link) as server:
        assert await only(server, search=["no.test"]).resolve("a.test") == Resolution(("192.0.2.1",), 10.0)
        assert [name.lower() for name in server.names()] == ["a.test", "b.test", "c.test"]


async def test_cname_circles() -> None:
    def here(question: Question) -> Iterable[bytes]:
        yield question.reply("a.test 60 CNAME b.test.", "b.test 60 CNAME a.test.")

    def elsewhere(question: Question) -> Iterable[bytes]:
        yield question.reply(f"{question.name} 60 CNAME {'b' if question.name == 'a.test' else 'a'}.test.")

    def onwards(question: Question) -> Iterable[bytes]:
        yield question.reply(f"{question.name} 60 CNAME x{question.name}.")

    for answer in (here, elsewhere, onwards):
        with NameServer(answer) as server, anyio.fail_after(5):
            assert "CNAMEs" in str(await refused(only(server), "a.test"))
            assert len(server.asked) < 30


async def test_truncated_answers_again_over_tcp() -> None:
    many = [f"60 A 192.0.2.{n}" for n in range(60)]

    def answer(question: Question) -> Iterable[bytes]:
        yield from Zone({"a.test": many})(question) if question.by_tcp else [truncated(question)]

    def halved(question: Question) -> Iterable[bytes]:
        wire = bytearray(next(iter(Zone({"a.test": many})(question))))
        wire[2] |= 2
        yield bytes(wire) if question.by_tcp else bytes(wire[: len(wire) // 2 + 3])

    with NameServer(answer) as server:
        assert len((await only(server, timeout=5.0).resolve("a.test")).addresses) == 60
        assert [question.by_tcp for question in server.asked].count(True) == 2
    with NameServer(halved) as server:
        error = await refused(only(server, timeout=5.0), "a.test")
        assert "cut short even by TCP" in str(error)


# -- answers that are none ---------------------------------------------------------------------------


def wrong_id(question: Question) -> bytes:
    wire = bytearray(question.reply(f"{question.name} 60 A 203.0.113.66"))
    wire[1] ^= 1
    return bytes(wire)


def wrong_question(question: Question) -> bytes:
    other = question.reply("evil.test 60 A 203.0.113.66")
    return other.replace(b"\1a\4test", b"\1e\4test")


def a_question(question: Question) -> bytes:
    return question.message.to_wire()


LIES: dict[str, Callable[[Question], bytes]] = {
    "wrong id": wrong_id,
    "wrong question": wrong_question,
    "a question": a_question,
    "rubbish": lambda question: b"\xff" * 40,
    "empty": lambda question: b"",
    "cut": lambda question: question.reply(f"{question.name} 60 A 203.0.113.66")[:-3],
    "pointers in a circle": lambda question: question.reply()[:12] + b"\xc0\x0c" * 8,
}


@pytest.mark.parametrize("lie", LIES)
async def test_lies_before_the_truth_are_ignored(lie: str) -> None:
    def answer(question: Question) -> Iterable[bytes]:
        yield from [LIES[lie](question)] * 3
        yield from Zone({"a.test": [V4]})(question)

    with NameServer(answer) as server:
        assert (await only(server, timeout=2.0).resolve("a.test")).addresses == ("192.0.2.1",)


async def test_lies_alone_are_no_answer() -> None:
    def answer(question: Question) -> Iterable[bytes]:
        yield from (lie(question) for lie in LIES.values())

    with NameServer(answer) as server:
        error = await refused(only(server, attempts=1), "a.test")
        assert f"127.0.0.1 port {server.port}: no answer" in str(error)
        assert (error.errno, getattr(error, "ttl", None)) == (socket.EAI_AGAIN, None)


async def test_another_host_s_answer_does_not_arrive() -> None:
    """RFC 5452 9.1: it comes from the address and the port that were asked, or not at all."""

    def answer(question: Question) -> Iterable[bytes]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(
                question.reply(f"{question.name} 60 A 203.0.113.66"), ("127.0.0.1", question.port)
            )
        yield from Zone({"a.test": [V4]})(question)

    with NameServer(answer) as server:
        assert (await only(server, timeout=2.0).resolve("a.test")).addresses == ("192.0.2.1",)


async def test_records_for_other_names_are_not_used() -> None:
    """heritage pools 3.46: what was not asked for is not believed."""

    def answer(question: Question) -> Iterable[bytes]:
        soa = [". 60 SOA ns. admin. 1 1 1 1 60"]
        yield question.reply("evil.test 60 A 203.0.113.66", "b.test 9 CNAME evil.test.", authority=soa)

    with NameServer(answer) as server:
        assert (await refused(only(server), "a.test")).strerror == "the name has no address"


async def test_addresses_of_a_name_that_does_not_exist() -> None:
    def answer(question: Question) -> Iterable[bytes]:
        yield question.reply(f"{question.name} 60 A 203.0.113.66", rcode="NXDOMAIN")

    with NameServer(answer) as liar, NameServer(Zone({"a.test": [V4]})) as server:
        assert (await only(liar, server).resolve("a.test")).addresses == ("192.0.2.1",)


async def test_fuzz() -> None:
    """Whatever is in a datagram: an error or an answer of the right form, never anything else."""
    rng = random.Random(7)

    def answer(question: Question) -> Iterable[bytes]:
        wire = bytearray(next(iter(Zone({"a.test": ["60 CNAME b.test."], "b.test": [V4, V6]})(question))))
        for _ in range(rng.randrange(4)):
            wire[rng.randrange(2, len(wire))] = rng.randrange(256)
        yield bytes(wire[: rng.randrange(12, len(wire) + 20)])

    with NameServer(answer) as server:
        resolver = only(server, timeout=0.005, attempts=1)

        async def ask() -> None:
            try:
                assert (await resolver.resolve("a.test")).addresses
            except socket.gaierror:
                pass

        for _ in range(10):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(ask)


# -- on the event loop -------------------------------------------------------------------------------


async def test_full_thread_pools_do_not_delay_a_look_up(echo_server: Server) -> None:
    """heritage pools 3.48: cpython#112169: the loop's default executor and anyio's threads are full of
    sleepers."""
    go = threading.Event()
    asleep: list[None] = []

    def sleep() -> None:
        asleep.append(None)
        go.wait()

    with NameServer(Zone({"a.test": ["60 A 127.0.0.1"]})) as server:
        threads = int(to_thread.current_default_thread_limiter().total_tokens)
        if not trio.lowlevel.in_trio_run():
            executor = ThreadPoolExecutor(2)
            asyncio.get_running_loop().set_default_executor(executor)
            for _ in range(4):
                executor.submit(sleep)
            threads += 2
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(to_thread.run_sync, sleep)
            await until(lambda: len(asleep) == threads)
            try:
                async with ConnectionManager(resolver=only(server, timeout=5)) as mgr:
                    with anyio.fail_after(PATIENCE):
                        async with mgr.allocate("http", "a.test", echo_server.port) as conn:
                            await exchange(conn)
            finally:
                go.set()


async def test_cancelled_at_any_moment() -> None:
    """By UDP, by TCP, with an answer under way: no descriptor stays (the leak check looks)."""
    with NameServer(lambda q: Zone({"a.test": [V4]})(q) if q.by_tcp else [truncated(q)]) as server:
        config = Config(servers=(("127.0.0.1", server.port),))

        async def ask() -> None:
            found = await _wire.ask("a.test", "A", config.servers, config)
            assert found.addresses == ("192.0.2.1",)

        async def no_check() -> None:
            pass

        assert await cancel_everywhere(ask, no_check) >= 4


def test_dnspython_is_loaded_by_the_first_question() -> None:
    code = (
        "import sys, keepalive; keepalive.DNSResolver(); print('dns' in sys.modules, 'idna' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False False\n"
