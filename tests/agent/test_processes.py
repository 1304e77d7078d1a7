"""Agents and borrowers as real processes: killed, stopped, short of descriptors, at work together."""

from __future__ import annotations

import json
import signal
import socket
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from keepalive.agent import wire
from tests.support import Server

from .kit import Process, open_files, service, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


@contextmanager
def borrower(kind: str, path: Path, server: Server, **options: Any) -> Iterator[Process]:
    argv = [sys.executable, "-m", "tests.agent.child", kind, str(path), server.host, str(server.port)]
    process = Process([*argv, json.dumps(options)])
    try:
        assert process.hear() == "ready"
        yield process
    finally:
        process.end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
def one_each(tmp_path: Path) -> Path:
    """Give a configuration with one connection per host and a short patience."""
    file = tmp_path / "agent.toml"
    file.write_text(
        """
drain_timeout = 2
[pools.own]
users = ["*"]
max_per_host = 1
loan_timeout = 0.5
[[pools.own.allow]]
schemes = ["http"]
hosts = ["127.0.0.1"]
ports = ["1-65535"]
"""
    )
    return file


def test_killed_borrower_loses_its_own_and_nothing_else(
    path: Path, one_each: Path, echo_server: Server
) -> None:
    with service(path, "--config", str(one_each)), borrower("hold", path, echo_server) as first:
        assert first.hear() == "held hello"
        with borrower("hold", path, echo_server) as second:
            first.signal(signal.SIGKILL)
            first.wait()
            seconds = until(lambda: echo_server.accepted == 2)
            assert seconds < 1  # 0.1 s on a machine that has nothing else to do
            assert second.hear() == "held hello"
    assert echo_server.peak == 1


def test_stopped_borrower_keeps_what_it_has_for_loan_timeout_only(
    path: Path, one_each: Path, echo_server: Server
) -> None:
    with service(path, "--config", str(one_each)), borrower("hold", path, echo_server) as first:
        assert first.hear() == "held hello"
        first.signal(signal.SIGSTOP)
        with borrower("hold", path, echo_server) as second:
            assert second.hear() == "held hello"
            assert echo_server.peak == 1
            first.signal(signal.SIGCONT)
            first.say("use")
            while (told := first.hear()).startswith("BrokenResourceError"):
                first.say("use")  # it met the cut socket before it had read what the agent says of it
            assert told.startswith("ClosedResourceError")
            second.say("release")
            assert second.hear() == "released"
            first.say("allocate")
            assert first.hear() == "held immediate"


def test_busy_borrower_keeps_what_it_has(path: Path, one_each: Path, echo_server: Server) -> None:
    with service(path, "--config", str(one_each)), borrower("hold", path, echo_server) as first:
        assert first.hear() == "held hello"
        with borrower("hold", path, echo_server) as second:
            until(lambda: has_lived(first, 2.0))
            first.say("use")
            assert first.hear() == "used again"
            first.say("release")
            assert first.hear() == "released"
            assert second.hear() == "held hello"
    assert echo_server.accepted == 1


def has_lived(process: Process, seconds: float) -> bool:
    with open(f"/proc/{process.process.pid}/stat") as file:
        started = int(file.read().rpartition(") ")[2].split()[19]) / 100
    with open("/proc/uptime") as file:
        return float(file.read().split()[0]) - started > seconds


def test_killed_agent_leaves_loans_usable(path: Path, one_each: Path, echo_server: Server) -> None:
    with service(path, "--config", str(one_each)) as agent, borrower("hold", path, echo_server) as first:
        assert first.hear() == "held hello"
        agent.signal(signal.SIGKILL)
        agent.wait()
        first.say("use")
        assert first.hear() == "used again"
        first.say("release")
        assert first.hear() == "released"
        echo_server.wait_for(lambda server: server.connections == 0)
        first.say("allocate")
        assert "the agent is gone" in first.hear()
        with service(path):  # the dead one's file is no obstacle

            def held() -> bool:
                first.say("allocate")
                return first.hear() == "held None"

            until(held)


def test_requests_wait_for_the_next_agent_if_they_are_told_to(path: Path, echo_server: Server) -> None:
    with ExitStack() as stack:
        agent = stack.enter_context(service(path))
        first = stack.enter_context(
            borrower("hold", path, echo_server, connect={"on_agent_loss": "retry"}, timeout=20)
        )
        assert first.hear() == "held hello"
        agent.signal(signal.SIGKILL)
        agent.wait()
        first.say("release")
        assert first.hear() == "released"
        first.say("allocate")
        stack.enter_context(service(path))
        assert first.hear() == "held None"


def test_request_fails_at_its_timeout_when_no_agent_comes(path: Path, echo_server: Server) -> None:
    with service(path) as agent:
        options = {"connect": {"on_agent_loss": "retry"}, "timeout": 0.3}
        with borrower("hold", path, echo_server, **options) as first:
            assert first.hear() == "held hello"
            agent.signal(signal.SIGKILL)
            agent.wait()
            first.say("allocate")
            said = first.hear()
            assert said.startswith("AllocateTimeout")
            assert "there is no agent" in said


def test_stopped_agent_lets_requests_fail_at_their_timeout(path: Path, echo_server: Server) -> None:
    with service(path) as agent, borrower("hold", path, echo_server, timeout=0.3) as first:
        assert first.hear() == "held hello"
        agent.signal(signal.SIGSTOP)
        first.say("use")
        assert first.hear() == "used again"
        first.say("release")
        assert first.hear() == "released"
        first.say("allocate")
        assert first.hear().startswith("AllocateTimeout")
        agent.signal(signal.SIGCONT)
        first.say("allocate")
        assert first.hear() == "held immediate"
    assert echo_server.accepted == 1


def test_borrower_short_of_descriptors_is_told_and_goes_on(path: Path, echo_server: Server) -> None:
    with service(path, "--config", str(many(path))), borrower("grab", path, echo_server, files=40) as first:
        assert first.hear() == "short AllocateError 24"
        assert first.hear() == "well still"


@pytest.mark.parametrize(("files", "said"), [(40, "short 0"), (200, "enough 0")])
def test_many_that_come_together_fail_each_by_itself(
    path: Path, echo_server: Server, files: int, said: str
) -> None:
    options = {"files": files, "tasks": 60}
    with service(path, "--config", str(many(path))), borrower("rush", path, echo_server, **options) as crowd:
        assert crowd.hear() == said


def many(path: Path) -> Path:
    file = path.with_suffix(".toml")
    file.write_text(
        """
[pools.own]
users = ["*"]
max_per_host = 1000
max_open = 1000
[[pools.own.allow]]
schemes = ["*"]
hosts = ["*"]
ports = ["1-65535"]
"""
    )
    return file


def test_agent_short_of_descriptors_serves_whom_it_can(path: Path, echo_server: Server) -> None:
    limited = ["sh", "-c", 'ulimit -n 48; exec "$@"', "sh"]
    with service(path, "--config", str(many(path)), before=limited), ExitStack() as stack:
        holders = [stack.enter_context(borrower("hold", path, echo_server)) for _ in range(5)]
        assert all(holder.hear() == "held hello" for holder in holders)
        crowd = stack.enter_context(borrower("grab", path, echo_server))
        assert crowd.hear().startswith("short")
        assert crowd.hear() == "well still"
        holders[0].say("use")
        assert holders[0].hear() == "used again"


def test_silent_strangers_use_up_no_descriptors(path: Path, echo_server: Server) -> None:
    limited = ["sh", "-c", 'ulimit -n 48; exec "$@"', "sh"]
    with service(path, before=limited), ExitStack() as stack:
        for _ in range(60):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(path))
        with borrower("hold", path, echo_server) as honest:
            assert honest.hear() == "held hello"


def test_hundreds_of_borrowers_are_connected_at_a_time(path: Path, echo_server: Server) -> None:
    with service(path) as agent, ExitStack() as stack:
        hello = wire.packed(wire.Hello([1]))
        lines = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(700)]
        for line in lines:
            line.connect(str(path))
            line.sendall(hello)
        assert all(line.recv(100) for line in lines)
        with borrower("hold", path, echo_server) as honest:
            assert honest.hear() == "held hello"
        assert open_files(agent.process.pid) > 700


@pytest.mark.parametrize("sticky", [0.0, 0.005])
def test_processes_at_work_never_exceed_the_limit(path: Path, sticky: float) -> None:
    with Server() as server:
        file = path.with_suffix(".toml")
        file.write_text(many(path).read_text().replace("max_per_host = 1000", "max_per_host = 2"))
        options = {"seconds": 1.5, "tasks": 8, "connect": {"sticky": sticky}}
        with service(path, "--config", str(file)) as agent, ExitStack() as stack:
            workers = [stack.enter_context(borrower("work", path, server, **options)) for _ in range(2)]
            counts = [json.loads(worker.hear().removeprefix("done ")) for worker in workers]
            assert all(min(count) > 0 for count in counts), "nobody starves"
            assert server.peak <= 2
            assert server.accepted <= 4
            assert open_files(agent.process.pid) < 100
