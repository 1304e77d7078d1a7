"""The agent as a service: its socket, its signals, its configuration, its successor."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import AllocateError, ManagerClosed, Reuse
from keepalive import agent as agents
from keepalive.agent.config import load_config
from tests.support.waiting import until

from .kit import open_files, request, service, serving, stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import Authority, Server

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def configure(path: Path, more: str = "", ports: str = '"1-65535"') -> Path:
    file = path.with_suffix(".toml")
    file.write_text(
        f"""
drain_timeout = 5
{more}
[pools.own]
users = ["*"]
max_per_host = 2
[[pools.own.allow]]
schemes = ["http", "https"]
hosts = ["127.0.0.1", "localhost"]
ports = [{ports}]
"""
    )
    return file


# -- socket and signals ---------------------------------------------------------------------------------


def test_socket_is_its_users_own(path: Path) -> None:
    with service(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with service(path, "--config", str(configure(path, 'socket_mode = "0660"'))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_second_agent_is_refused(path: Path) -> None:
    with service(path):
        done = serve_briefly(path)
        assert done.returncode == 1
        assert "listens at" in done.stderr
        assert "--replace" in done.stderr


def serve_briefly(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "keepalive", "serve", "--socket", str(path), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20)


def test_nothing_can_be_replaced_where_nobody_is(path: Path) -> None:
    done = serve_briefly(path, "--replace")
    assert done.returncode == 1
    assert "nothing could be taken over" in done.stderr


def test_wrong_configuration_is_told_with_its_place(path: Path) -> None:
    file = configure(path, ports='"80-"')
    done = serve_briefly(path, "--config", str(file))
    assert done.returncode == 2
    assert "pools.own.allow[0].ports" in done.stderr


async def test_sigterm_waits_for_what_is_lent(path: Path, echo_server: Server) -> None:
    with service(path, "--config", str(configure(path))) as process:
        async with agents.connect(path) as mgr:
            conn = await request(mgr, echo_server)
            process.signal(signal.SIGTERM)
            await until(lambda: not path.exists() or process.process.poll() is not None or refused(path))
            with pytest.raises((ManagerClosed, AllocateError)):
                await request(mgr, echo_server)
            await conn.send(b"x")
            assert await conn.receive() == b"x"
            assert process.process.poll() is None
            conn.release()
            assert await anyio.to_thread.run_sync(process.wait) == 0
    assert not path.exists()


def refused(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) != 0


async def test_second_signal_does_not_wait(path: Path, echo_server: Server) -> None:
    with service(path, "--config", str(configure(path))) as process:
        async with agents.connect(path) as mgr:
            conn = await request(mgr, echo_server)
            process.signal(signal.SIGTERM)
            await until(lambda: refused(path))
            process.signal(signal.SIGINT)
            assert await anyio.to_thread.run_sync(process.wait) == 0
            conn.discard()


async def test_sighup_reads_the_configuration_again(path: Path, echo_server: Server) -> None:
    file = configure(path)
    with service(path, "--config", str(file)) as process:
        async with agents.connect(path) as mgr:
            conn = await request(mgr, echo_server)
            configure(path, ports="9")
            process.signal(signal.SIGHUP)

            async def forbidden() -> bool:
                try:
                    (await request(mgr, echo_server)).release()
                except AllocateError as exc:
                    return "allows no connection" in str(exc)
                return False

            with anyio.fail_after(10):
                while not await forbidden():  # noqa: ASYNC110  # nothing tells when another process has read
                    await anyio.sleep(0.01)
            await conn.send(b"x")
            assert await conn.receive() == b"x"
            conn.release()
            file.write_text("nonsense")
            process.signal(signal.SIGHUP)
            assert await forbidden()


# -- its successor ----------------------------------------------------------------------------------------


@pytest.fixture
def successors() -> Iterator[list[Any]]:
    started: list[Any] = []
    yield started
    for process in started:
        stop(process)


async def succeed(path: Path, successors: list[Any], *options: str) -> Any:
    process = await anyio.to_thread.run_sync(lambda: serving(path, "--replace", *options))
    successors.append(process)
    return process


async def test_successor_takes_everything_over(
    path: Path, echo_server: Server, successors: list[Any]
) -> None:
    file = str(configure(path))
    with service(path, "--config", file) as old:
        async with agents.connect(path) as mgr, agents.connect(path) as other:
            lent, idle = await request(mgr, echo_server), await request(mgr, echo_server)
            waiting = request(other, echo_server)
            new = await succeed(path, successors, "--config", file)
            assert await anyio.to_thread.run_sync(old.wait) == 0
            await lent.send(b"x")
            assert await lent.receive() == b"x"
            idle.release()
            async with waiting as conn:
                assert conn.from_cache is Reuse.DEFERRED
                await conn.send(b"y")
                assert await conn.receive() == b"y"
            lent.release()
            async with request(mgr, echo_server) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
            assert echo_server.accepted == 2
            assert echo_server.peak == 2
            async with agents.connect(path) as third:  # at the same listening socket
                await until(lambda: third.connected)
            assert open_files(new.process.pid) < 40
            new.signal(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(new.wait) == 0
    assert not path.exists()


async def test_idle_connections_are_taken_over(
    path: Path, echo_server: Server, successors: list[Any]
) -> None:
    with service(path) as old:
        async with agents.connect(path) as mgr:
            (await request(mgr, echo_server)).release()
            await succeed(path, successors)
            assert await anyio.to_thread.run_sync(old.wait) == 0
            async with request(mgr, echo_server) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
    assert echo_server.accepted == 1


async def test_successor_has_a_successor(path: Path, echo_server: Server, successors: list[Any]) -> None:
    with service(path) as old:
        async with agents.connect(path) as mgr:
            conn = await request(mgr, echo_server)
            for _ in range(2):
                await succeed(path, successors)
                assert await anyio.to_thread.run_sync(old.wait) == 0
                old = successors[-1]
                await conn.send(b"x")
                assert await conn.receive() == b"x"
            conn.release()
            async with request(mgr, echo_server) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
    assert echo_server.accepted == 1


async def test_tls_stays_with_the_old_agent_until_it_is_returned(
    path: Path, tls_server: Server, ca: Authority, successors: list[Any], tmp_path: Path
) -> None:
    more = f'[tls.https]\nca_file = "{ca.write(tmp_path)[1]}"\nserver_hostname = "localhost"\n'
    file = configure(path)
    file.write_text(file.read_text() + more)
    with service(path, "--config", str(file)) as old:
        async with agents.connect(path) as mgr:
            conn = await request(mgr, tls_server, scheme="https")
            await conn.send(b"x")
            assert await conn.receive() == b"x"
            await succeed(path, successors, "--config", str(file))
            assert old.process.poll() is None
            await conn.send(b"y")
            assert await conn.receive() == b"y"
            stats = await mgr.pool_stats()
            assert stats.lent == 1  # it counts in the new one, too
            conn.release()
            assert await anyio.to_thread.run_sync(old.wait) == 0
            async with request(mgr, tls_server, scheme="https") as conn:
                await conn.send(b"z")
                assert await conn.receive() == b"z"
    assert tls_server.peak == 1


async def test_agent_whose_successor_dies_goes_on(path: Path, echo_server: Server) -> None:
    from keepalive.agent import wire

    with service(path) as old:
        async with agents.connect(path) as mgr:
            conn = await request(mgr, echo_server)
            (await request(mgr, echo_server)).release()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.send(wire.packed(wire.Succeed([1])))
                assert sock.recv(1)
            await conn.send(b"x")
            assert await conn.receive() == b"x"
            conn.release()
            async with request(mgr, echo_server) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
            assert old.process.poll() is None
    assert echo_server.accepted == 2


# -- the service manager ----------------------------------------------------------------------------------


_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


async def test_service_manager_gives_the_socket_and_is_told(
    path: Path, echo_server: Server, tmp_path: Path
) -> None:
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    fd = listener.fileno()
    shell = [sys.executable, "-c", _ACTIVATE, str(fd)]
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with told, listener:
        with service(path, before=shell, pass_fds=[fd], env=environment) as process:
            assert told.recv(100).startswith(b"READY=1")
            async with agents.connect(path) as mgr:
                (await request(mgr, echo_server)).release()
            process.signal(signal.SIGHUP)
            assert told.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert told.recv(100) == b"READY=1"
            process.signal(signal.SIGTERM)
            assert told.recv(100) == b"STOPPING=1"
            assert await anyio.to_thread.run_sync(process.wait) == 0
        assert path.exists()  # it is the service manager's


# -- the configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "pools"),
        ("[pools]", r"\[pools\] is empty"),
        ("[pools.a]\nallow = []", "users or groups"),
        ("[pools.a]\nusers = ['nobody-at-all']\nallow = []", "there is no user 'nobody-at-all'"),
        ("[pools.a]\ngroups = ['none-at-all']\nallow = []", "there is no group"),
        ("[pools.a]\nusers = ['*']\nallow = []\nmax_open = 0", "max_open"),
        ("[pools.a]\nusers = ['*']\nallow = []\nmax_opne = 1", "max_opne"),
        ("[pools.a]\nusers = ['*']\nallow = [{schemes = ['x'], hosts = ['*']}]", "ports are missing"),
        (
            "[pools.a]\nusers = ['*']\nallow = [{schemes = ['x'], hosts = ['10.0.0.1/8'], ports = [1]}]",
            "neither a network nor a name",
        ),
        (
            "[pools.a]\nusers = ['*']\nallow = [{schemes = ['x'], hosts = ['*'], ports = [70000]}]",
            "not within 1-65535",
        ),
        ("socket_mode = 'rw'\n[pools.a]\nusers = ['*']\nallow = []", "socket_mode"),
        ("[tls.https]\nca_file = '/none'\n[pools.a]\nusers = ['*']\nallow = []", r"tls\.https"),
        ("[pools.a\n", "line"),
    ],
)
def test_wrong_configuration(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(agents.ConfigError, match=said):
        load_config(file)
