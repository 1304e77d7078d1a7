"""What strangers may send to an agent: it ends them, and nobody else notices."""

from __future__ import annotations

import os
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from keepalive import agent as agents
from keepalive.agent import wire
from keepalive.agent.core.frames import framed
from tests.support.waiting import until, until_equal

from .kit import here, listening, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support import Server

    from .kit import Here

HELLO = wire.packed(wire.Hello([1]))


def raw(ag: Here) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.connect(ag.path)
    return sock


@asynccontextmanager
async def serving(folder: Path, server: Server) -> AsyncIterator[Here]:
    """Run an agent; in the end an honest borrower must be served as ever."""
    async with here(folder) as ag, ag.connect() as mgr:
        yield ag
        async with request(mgr, server) as conn:
            await conn.send(b"x")
            assert await conn.receive() == b"x"


async def told(sock: socket.socket) -> list[Any]:
    """Read until the agent has closed the line; return what it has said."""
    data = b""
    with sock:
        while True:
            try:
                more = sock.recv(65536)
            except BlockingIOError:
                await anyio.lowlevel.checkpoint()
                continue
            except ConnectionResetError:  # it has left unread what was sent
                break
            if not more:
                break
            data += more
    said = []
    while data:
        size = int.from_bytes(data[:4])
        said.append(wire.of_agent(data[4 : 4 + size]))
        data = data[4 + size :]
    return said


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        framed(b"\xc1"),
        framed(b"\x93\xa5hello"),
        framed(msgspec.msgpack.encode(["lent", 1, None, 1, 0.0, 0.0, True, 2])),
        HELLO + HELLO,
        wire.packed(wire.Release(1)),
        wire.packed(wire.Ask(1)),
        wire.packed(wire.Allocate(1, ("http", "h", 1, "http", "h", 1))),
        wire.packed(wire.Succeed([99])),
        HELLO + wire.packed(wire.Release(7)),
        HELLO + framed(msgspec.msgpack.encode(["allocate", 0, ["http", "h", 1, "http", "h", 1]])),
        HELLO + framed(msgspec.msgpack.encode(["allocate", 1, ["http", "h" * 5000, 1, "http", "h", 1]])),
        HELLO + framed(msgspec.msgpack.encode(["allocate", 1, ["http", "h", 70000, "http", "h", 1]])),
        HELLO
        + framed(msgspec.msgpack.encode(["allocate", 1, ["http", "h", 1, "http", "h", 1], float("nan")])),
    ],
)
async def test_who_breaks_the_rules_is_dropped(tmp_path: Path, echo_server: Server, sent: bytes) -> None:
    async with serving(tmp_path, echo_server) as ag:
        sock = raw(ag)
        sock.send(sent)
        said = await told(sock)
        assert not said or isinstance(said[-1], wire.Refusal)
        await until_equal(lambda: len(ag.agent.peers), 1)


async def test_other_version_is_told_which_are_spoken(tmp_path: Path, echo_server: Server) -> None:
    async with serving(tmp_path, echo_server) as ag:
        sock = raw(ag)
        sock.send(wire.packed(wire.Hello([7, 8])))
        (refusal,) = await told(sock)
        assert refusal.versions == [1]
        assert "versions" in refusal.text


async def test_fields_of_a_later_version_are_skipped(tmp_path: Path, echo_server: Server) -> None:
    async with serving(tmp_path, echo_server) as ag:
        sock = raw(ag)
        sock.send(framed(msgspec.msgpack.encode(["hello", [2, 1], False, None, "more", {"and": "more"}])))
        await until(lambda: any(peer.greeted for peer in ag.agent.peers if peer.pid == os.getpid()))
        sock.close()


async def test_half_a_message_waits_for_its_other_half(tmp_path: Path, echo_server: Server) -> None:
    async with serving(tmp_path, echo_server) as ag:
        sock = raw(ag)
        for byte in HELLO:
            sock.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()
        await until(lambda: all(peer.greeted for peer in ag.agent.peers))
        sock.send(HELLO[:5])
        sock.close()
        await until_equal(lambda: len(ag.agent.peers), 1)


async def test_descriptors_that_are_sent_to_the_agent_are_closed(tmp_path: Path, echo_server: Server) -> None:
    async with serving(tmp_path, echo_server) as ag:
        sock = raw(ag)
        mine, theirs = socket.socketpair()
        with mine, sock:
            socket.send_fds(sock, [HELLO], [theirs.fileno()])
            theirs.close()
            mine.setblocking(False)
            await until(lambda: ended(mine))


def ended(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False


async def test_who_never_reads_holds_up_nobody(tmp_path: Path, echo_server: Server) -> None:
    async with serving(tmp_path, echo_server) as ag:
        with raw(ag) as sock:
            sock.send(HELLO)
            question = wire.packed(wire.Ask(1))
            sent = 0
            while sent < 20000:
                try:
                    sock.send(question)
                    sent += 1
                except BlockingIOError:
                    break
            await until(lambda: any(peer.greeted for peer in ag.agent.peers))
        await until_equal(lambda: len(ag.agent.peers), 1)


async def test_garbage_at_random_ends_nobody_else(tmp_path: Path, echo_server: Server) -> None:
    rng = random.Random(7)
    messages = [HELLO, wire.packed(wire.Ping()), wire.packed(wire.Cancel(3)), wire.packed(wire.Discard(1))]
    messages.append(
        wire.packed(wire.Allocate(1, ("http", echo_server.host, echo_server.port, "http", "a", 1), 1.0))
    )
    async with serving(tmp_path, echo_server) as ag:
        for _ in range(100):
            data = bytearray(b"".join(rng.choices(messages, k=4)))
            for _ in range(rng.randrange(4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with raw(ag) as sock:
                sock.send(HELLO * rng.randrange(2) + data[: rng.randrange(len(data))])
            await anyio.lowlevel.checkpoint()
        await until_equal(lambda: len(ag.agent.peers), 1)
        await until_equal(lambda: ag.agent.desk.out, 0)
        await until(lambda: not ag.agent.desk.effects)


async def test_borrower_leaves_an_agent_that_makes_no_sense(tmp_path: Path) -> None:
    for said in (b"HTTP/1.1 400 Bad\r\n", framed(b"\xc1"), wire.packed(wire.Recall(1)), b""):
        path = tmp_path / "liar.sock"
        with listening(path) as listener:
            listener.setblocking(False)

            async def lie(listener: socket.socket = listener, said: bytes = said) -> None:
                await anyio.wait_readable(listener)
                with listener.accept()[0] as sock:
                    sock.send(said)

            async with anyio.create_task_group() as group:
                group.start_soon(lie)
                with pytest.raises(agents.AgentError):
                    await agents.connect(path).__aenter__()
        path.unlink()


async def test_user_whom_the_configuration_does_not_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        f"""
[pools.others]
users = [{os.geteuid() + 1}]
allow = [{{schemes = ["*"], hosts = ["*"], ports = [80]}}]
"""
    )
    async with here(tmp_path, agents.load_config(file)) as ag:
        with pytest.raises(agents.AgentError, match="nothing for user"):
            await ag.connect(on_agent_loss="retry").__aenter__()
