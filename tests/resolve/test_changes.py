"""What was learned from files that have changed is forgotten; so is what `evict` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectionManager, DNSResolver, Resolution, ResolveError
from keepalive.resolve.files import LOOK_EVERY
from keepalive.resolve.service import Names
from keepalive.transport.loops import current_runtime
from keepalive.transport.reactor import Reactor
from tests.support.nameserver import NameServer, Zone
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Server

HERE = "86400 A 127.0.0.1"


@pytest.mark.parametrize("changed", ["hosts", "resolv.conf"])
async def test_old_answers_do_not_live_on(changed: str, tmp_path: Path, echo_server: Server) -> None:
    """Neither "no such name" nor an address."""
    hosts, conf = tmp_path / "hosts", tmp_path / "resolv.conf"
    with NameServer(
        Zone({"there.test": ["86400 A 127.0.0.9"], "new.b.test": [HERE]}, negative=300)
    ) as server:
        conf.write_text("nameserver 127.0.0.1\noptions ndots:2\n")

        class Watchful(DNSResolver):
            look_every = 0.0
            port = server.port

        resolver = Watchful(hosts=str(hosts), resolv_conf=str(conf))
        async with ConnectionManager(resolver=resolver) as mgr:
            for _ in range(2):
                with pytest.raises(ResolveError):
                    await mgr.allocate(
                        "http", "new.test" if changed == "hosts" else "new", echo_server.port, 5
                    )
            if changed == "hosts":
                hosts.write_text("127.0.0.1 new.test\n")
                (await mgr.allocate("http", "new.test", echo_server.port, 5)).discard()
                hosts.write_text("127.0.0.1 new.test there.test\n")
                (await mgr.allocate("http", "there.test", echo_server.port, 5)).discard()
            else:
                conf.write_text("nameserver 127.0.0.1\nsearch b.test\n")
                (await mgr.allocate("http", "new", echo_server.port, 5)).discard()


class Changing:
    """A resolver whose editions a test makes."""

    def __init__(self) -> None:
        self.now = 1
        self.asked: list[str] = []
        self.gate = anyio.Event()

    def edition(self) -> object:
        return self.now

    async def resolve(self, host: str) -> Resolution:
        self.asked.append(host)
        now = self.now
        await self.gate.wait()
        return Resolution((f"192.0.2.{now}",), 60.0)


async def test_a_question_of_before_is_not_joined() -> None:
    """Who waits for it gets its answer; who asks later gets a new one, and only that is remembered."""
    resolver = Changing()
    reactor = Reactor(current_runtime(), lambda _: None, lambda: None)
    names = Names(resolver, reactor)
    got: list[tuple[str, ...]] = []

    async def ask() -> None:
        got.append(await names.resolve("a.test"))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await until(lambda: len(resolver.asked) == 1)
        resolver.now = 2
        group.start_soon(ask)
        await until(lambda: len(resolver.asked) == 2)
        resolver.gate.set()
    assert sorted(got) == [("192.0.2.1",), ("192.0.2.2",)]
    assert await names.resolve("a.test") == ("192.0.2.2",)
    assert len(resolver.asked) == 2
    names.close()
    await reactor.wait_for_tasks()
    await reactor.aclose()


async def test_the_end_ends_questions_of_before(echo_server: Server) -> None:
    resolver = Changing()
    async with ConnectionManager(resolver=resolver) as mgr:
        requests = [mgr.allocate("http", "a.test", echo_server.port)]
        await until(lambda: len(resolver.asked) == 1)
        mgr.evict()
        requests.append(mgr.allocate("http", "a.test", 1))
        await until(lambda: len(resolver.asked) == 2)
        for request in requests:
            request.cancel()


@pytest.mark.parametrize("addr", ["a.test", "A.test.", None])
async def test_evict_forgets_names(addr: str | None, echo_server: Server) -> None:
    zone = Zone({"a.test": ["86400 A 127.0.0.9"], "b.test": [HERE]}, negative=300)
    with NameServer(zone) as server:
        resolver = DNSResolver([server.address], hosts=None, timeout=5)
        async with ConnectionManager(resolver=resolver) as mgr:
            for host in ("a.test", "b.test", "a.test"):
                try:
                    (await mgr.allocate("http", host, echo_server.port, 5)).discard()
                except OSError:
                    pass  # nobody listens at 127.0.0.9
            assert server.names() == ["a.test", "b.test"]
            zone.table["a.test"] = [HERE]
            mgr.evict(addr=addr)
            for host in ("a.test", "b.test"):
                (await mgr.allocate("http", host, echo_server.port, 5)).discard()
            again = ["a.test"] if addr else ["a.test", "b.test"]
            assert server.names() == ["a.test", "b.test", *again]


def test_files_are_looked_at_rarely() -> None:
    assert LOOK_EVERY == 1.0
