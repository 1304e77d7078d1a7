"""With `retire_moved`, connections whose address has left what their name stands for are retired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectionManager, DNSResolver, Resolution
from tests.support import Server
from tests.support.clocks import brisk
from tests.support.inside import driver_of
from tests.support.nameserver import NameServer, Question
from tests.support.nameserver import Zone as Zone6
from tests.support.recorder import Recorder
from tests.support.requests import exchange
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import Iterable


class Zone:
    """A resolver whose answer can be changed, and which counts."""

    def __init__(self, *addresses: str, ttl: float = 1.0) -> None:
        self.addresses = addresses
        self.ttl = ttl
        self.fails = False
        self.asked = 0
        self.bell = anyio.Event()

    async def resolve(self, host: str) -> Resolution:
        self.asked += 1
        bell, self.bell = self.bell, anyio.Event()
        bell.set()
        if self.fails:
            raise OSError("the name server is away")
        return Resolution(self.addresses, self.ttl)


class Hanging(Zone):
    """One that may take for ever."""

    hangs = False
    ended = 0

    async def resolve(self, host: str) -> Resolution:
        found = await super().resolve(host)
        try:
            if self.hangs:
                await anyio.sleep_forever()
        finally:
            self.ended += self.hangs
        return found


def manager(zone: Zone, **more: Any) -> ConnectionManager:
    return ConnectionManager(resolver=zone, retire_moved=True, keep_alive=None, **more)


@brisk
async def test_retires_idle_and_lent_ones_when_the_name_moves() -> None:
    # heritage pools 2.7.
    with Server(host="127.0.0.1") as old, Server(host="127.0.0.2", port=old.port) as new:
        zone, seen = Zone("127.0.0.1"), Recorder()
        async with manager(zone, observer=seen) as mgr:
            lent = await mgr.allocate("t", "db.test", old.port, 5)
            async with mgr.allocate("t", "db.test", old.port, 5) as conn:
                await exchange(conn)
            assert (old.accepted, mgr.stats().idle) == (2, 1)
            zone.addresses = ("127.0.0.2",)
            await seen.until(lambda: seen.reasons() == ["retired"])
            await exchange(lent)  # its user notices nothing
            lent.release()
            assert seen.reasons() == ["retired", "retired"]
            async with mgr.allocate("t", "db.test", old.port, 5) as conn:
                await exchange(conn)
            assert (old.accepted, new.accepted) == (2, 1)
            assert mgr.stats().idle == 1


@brisk
async def test_an_answer_of_one_family_says_nothing_of_the_other(echo_server: Server) -> None:
    """Nobody could tell the IPv6 addresses this time: that is no reason to leave them."""
    half: list[str] = []

    def answer(question: Question) -> Iterable[bytes]:
        if question.kind in half:
            yield question.reply(rcode="SERVFAIL")
        else:
            yield from Zone6({"db.test": ["1 A 127.0.0.9", "1 AAAA ::1"]})(question)

    with Server(host="::1") as six, NameServer(answer) as names:
        resolver, seen = DNSResolver([names.address], hosts=None), Recorder()
        async with ConnectionManager(resolver=resolver, retire_moved=True, observer=seen) as mgr:
            async with mgr.allocate("t", "db.test", six.port, 5) as conn:
                await exchange(conn)
            half.append("AAAA")
            before = len(names.asked)
            await anyio.sleep(1)  # what a name stands for is asked for once a second at most
            await until(lambda: len(names.asked) >= before + 2)
            await until(lambda: not driver_of(mgr).reactor.tasks)
            assert (seen.reasons(), mgr.stats().idle) == ([], 1)
            half[:] = ["A"]  # and now the other way round, and ::1 is gone
            names.answer = lambda q: Zone6({"db.test": ["1 AAAA ::2"]})(q) if q.kind == "AAAA" else answer(q)
            await anyio.sleep(1)
            await seen.until(lambda: seen.reasons() == ["retired"], 15)


async def test_a_question_that_was_given_up_is_asked_again(echo_server: Server) -> None:
    """A dial joined in, and took the look-up with it when it went."""
    zone = Hanging("127.0.0.1", ttl=0.0)
    async with manager(zone) as mgr:
        async with mgr.allocate("t", "db.test", echo_server.port, 5) as conn:
            await exchange(conn)
        zone.hangs = True
        moved = driver_of(mgr).address_watch
        assert moved is not None
        moved._due["db.test"] = 0.0
        moved._ring()
        await turns()
        assert zone.asked == 2
        request = mgr.allocate("t", "db.test", echo_server.port, 5, fresh=True)
        await turns()
        request.cancel()
        driver_of(mgr).pool.tick(driver_of(mgr).now() + 11)  # the spare attempt's time is over
        driver_of(mgr).act()
        await until(lambda: zone.ended == 1)
        assert "db.test" in moved._due


@brisk
@pytest.mark.parametrize("how", ["fails", "nothing", "more"])
async def test_what_retires_nothing(how: str, echo_server: Server) -> None:
    zone, seen = Zone("127.0.0.1"), Recorder()
    async with manager(zone, observer=seen) as mgr:
        async with mgr.allocate("t", "db.test", echo_server.port, 5) as conn:
            await exchange(conn)
        zone.fails = how == "fails"
        zone.addresses = {"fails": (), "nothing": (), "more": ("::1", "127.0.0.1")}[how]
        with anyio.fail_after(5):
            await zone.bell.wait()
        async with mgr.allocate("t", "db.test", echo_server.port, 5) as conn:
            assert conn.from_cache == "immediate"
        assert seen.reasons() == []


async def test_asks_no_more_when_the_name_is_out_of_use(echo_server: Server) -> None:
    zone = Zone("127.0.0.1", ttl=0.01)
    async with manager(zone) as mgr:
        async with mgr.allocate("t", "db.test", echo_server.port, 5) as conn:
            conn.discard()
        watch = driver_of(mgr).address_watch
        assert watch is not None
        watch._ring()  # and finds nothing to ask for
        await turns()
        assert zone.asked == 1
        async with mgr.allocate("t", "127.0.0.1", echo_server.port, 5) as conn:
            await exchange(conn)
        assert zone.asked == 1


async def test_without_the_option_nobody_asks(echo_server: Server) -> None:
    zone = Zone("127.0.0.1", ttl=0.01)
    async with ConnectionManager(resolver=zone) as mgr:
        async with mgr.allocate("t", "db.test", echo_server.port, 5) as conn:
            await exchange(conn)
        assert driver_of(mgr).address_watch is None
        assert zone.asked == 1


def test_bad_argument() -> None:
    with pytest.raises(TypeError, match="retire_moved"):
        ConnectionManager(retire_moved="yes")  # type: ignore[arg-type]  # that is the test
