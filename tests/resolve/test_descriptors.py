"""Look-ups share few descriptors, and wait when there are none."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from keepalive import ConnectionManager, DNSResolver, ResolveError
from keepalive.resolve.ports import BURST, MOST_SOCKETS
from tests.support.clocks import brisk
from tests.support.nameserver import NameServer, Question, Zone, truncated
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.support import Server


def only(server: NameServer, **options: object) -> DNSResolver:
    options = {"hosts": None, "timeout": 10.0, **options}
    return DNSResolver([server.address], **options)  # type: ignore[arg-type]  # mixed


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_descriptors(spare: int = 0) -> Iterator[ExitStack]:
    """Leave so many descriptors free; the stack that is given holds the others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        held = stack.enter_context(ExitStack())
        taken: list[int] = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        for fd in taken[:spare]:
            os.close(fd)
        for fd in taken[spare:]:
            held.callback(os.close, fd)
        yield held


@pytest.mark.parametrize("by_tcp", [False, True])
async def test_many_names_share_few_sockets(by_tcp: bool) -> None:
    most = 0
    before = open_files()

    def answer(question: Question) -> Iterable[bytes]:
        nonlocal most
        most = max(most, open_files())
        if by_tcp and not question.by_tcp:
            yield truncated(question)
        elif question.kind == "A":
            number = int(question.name[1:].split(".")[0])
            yield question.reply(f"{question.name} 60 A 10.0.{number // 256}.{number % 256}")
        else:
            yield question.reply()

    count = 200 if by_tcp else 6 * BURST
    found: dict[int, tuple[str, ...]] = {}
    with NameServer(answer) as server:
        resolver = only(server)

        async def ask(number: int) -> None:
            found[number] = (await resolver.resolve(f"n{number}.test")).addresses

        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(ask, number)
        assert len({question.port for question in server.asked if not question.by_tcp}) < len(server.asked)
    assert found == {n: (f"10.0.{n // 256}.{n % 256}",) for n in range(count)}
    # The name server's own sockets, and both ends of TCP connections, are in this process.
    assert most - before < MOST_SOCKETS + (64 if by_tcp else 12)


@brisk
async def test_names_that_nobody_answers_do_not_hold_up_others() -> None:
    silent = [f"s{n}.test" for n in range(2 * BURST)]

    def answer(question: Question) -> Iterable[bytes]:
        return () if question.name.startswith("s") else Zone({"a.test": ["60 A 192.0.2.1"]})(question)

    with NameServer(answer) as server:
        resolver = only(server, timeout=60.0)
        async with anyio.create_task_group() as group:
            for name in silent:
                group.start_soon(resolver.resolve, name)
            await until(lambda: len(server.asked) >= BURST)
            with anyio.fail_after(10):
                assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
            group.cancel_scope.cancel()


async def test_any_of_those_who_share_may_go() -> None:
    """The one that reads for all, too: another goes on."""
    with NameServer(Zone({f"n{n}.test": [f"60 A 10.0.0.{n}"] for n in range(100)})) as server:
        resolver = only(server, timeout=60.0)
        server.holding = True
        found: list[str] = []
        scopes = [anyio.CancelScope() for _ in range(100)]

        async def ask(number: int) -> None:
            with scopes[number]:
                found.extend((await resolver.resolve(f"n{number}.test")).addresses)

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(ask, number)
            await until(lambda: len(server.asked) == 200)
            for number in range(0, 100, 2):
                scopes[number].cancel()
                await checkpoint()
            server.release()
        assert sorted(found) == sorted(f"10.0.0.{number}" for number in range(1, 100, 2))


async def test_a_server_that_is_gone_is_told_to_all_who_share() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    resolver = DNSResolver([f"127.0.0.1:{port}"], hosts=None, timeout=60.0, attempts=1)
    errors: list[str] = []

    async def ask(number: int) -> None:
        with pytest.raises(socket.gaierror) as caught:
            await resolver.resolve(f"n{number}.test")
        errors.append(str(caught.value))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(ask, number)
    assert all("Connection refused" in error for error in errors)
    assert len(errors) == 100


async def test_no_descriptor_is_free(tmp_path: Path) -> None:
    """The number says so, and nothing is remembered of it: the name is asked for when there is room."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 here.test\n")
    with NameServer(Zone({"a.test": ["60 A 127.0.0.1"], "b.test": ["60 A 127.0.0.1"]})) as server:
        async with ConnectionManager(resolver=only(server)) as mgr:
            with pytest.raises(OSError, match="refused"):
                await mgr.allocate("http", "a.test", 1, 5)  # all that is imported at the first question
            for resolver_hosts in (None, str(hosts)):
                resolver = only(server, hosts=resolver_hosts)
                async with ConnectionManager(resolver=resolver) as other:
                    with no_descriptors(), pytest.raises(ResolveError) as caught:
                        await other.allocate("http", "b.test", 1, 5)
                    assert caught.value.error_num == errno.EMFILE
                    assert "Too many open files" in str(caught.value)
                    assert (await resolver.resolve("b.test")).addresses == ("127.0.0.1",)


async def test_a_question_waits_until_a_descriptor_is_free(echo_server: Server) -> None:
    with NameServer(Zone({"a.test": ["60 A 127.0.0.1"], "b.test": ["60 A 127.0.0.1"]})) as server:
        resolver = only(server)
        await resolver.resolve("a.test")
        async with ConnectionManager(resolver=resolver) as mgr:
            with no_descriptors() as held:
                request = mgr.allocate("http", "b.test", echo_server.port, 5)
                for _ in range(20):
                    await checkpoint()
                held.close()
                (await request).discard()


async def test_one_descriptor_is_enough_for_many_questions() -> None:
    names = [f"n{n}.test" for n in range(50)]
    with NameServer(Zone({name: ["60 A 192.0.2.1"] for name in ["warm.test", *names]})) as server:
        resolver = only(server)
        await resolver.resolve("warm.test")
        with no_descriptors(spare=1):
            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(resolver.resolve, name)
