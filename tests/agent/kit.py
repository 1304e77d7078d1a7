"""An agent to test with: in the test's own loop, or a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from keepalive import TLSConnector, agent
from keepalive.agent.config import Config, own_user

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from keepalive.agent import AgentManager
    from tests.support import Server


def config(context: ssl.SSLContext | None = None, **limits: Any) -> Config:
    """Make the configuration of an agent for this user only, with limits of its pool."""
    own = own_user()
    connectors = {"https": TLSConnector(context, server_hostname="localhost")} if context else own.connectors
    return Config(own.policies, {"own": limits}, connectors)


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(128)
    return sock


class Here:
    """An agent in the test's own loop."""

    def __init__(self, path: Path, served: agent.Agent) -> None:
        self.path = str(path)
        self.agent = served

    def connect(self, **options: Any) -> AgentManager:
        return agent.connect(self.path, **options)


@asynccontextmanager
async def here(folder: Path, settings: Config | None = None, **limits: Any) -> AsyncIterator[Here]:
    """Run an agent beside the test."""
    path = folder / "agent.sock"
    async with agent.Agent(settings or config(**limits), [listening(path)]) as served:
        yield Here(path, served)
    path.unlink()


def request(mgr: Any, server: Server, timeout: float | None = 5.0, **more: Any) -> Any:
    scheme = more.pop("scheme", "http")
    return mgr.allocate(scheme, server.host, server.port, timeout, **more)


class Process:
    """A Python program that runs beside the test; `say` and `hear` are lines of its pipes."""

    def __init__(self, argv: list[str], **options: Any) -> None:
        self.process: subprocess.Popen[str] = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, **options
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        line: str = self.process.stdout.readline()
        return line.strip()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def serving(path: Path, *options: str, before: Sequence[str] = (), **more: Any) -> Process:
    """Start ``keepalive serve``, by way of the command `before`; it is up when this returns."""
    argv = [*before, sys.executable, "-m", "keepalive", "serve", "--socket", str(path), *options]
    process = Process(argv, stderr=subprocess.PIPE, **more)
    stderr = process.process.stderr
    assert stderr is not None
    while line := stderr.readline():
        if line.startswith("Serving"):
            break
    else:
        stop(process)
        raise AssertionError(f"it ends with {process.wait()}")
    return process


@contextmanager
def service(path: Path, *options: str, **more: Any) -> Iterator[Process]:
    process = serving(path, *options, **more)
    try:
        yield process
    finally:
        stop(process)


def stop(process: Process) -> None:
    process.end()
    if process.process.stderr is not None:
        process.process.stderr.close()


def until(holds: Any, seconds: float = 10.0) -> float:
    """Block until something holds; gives how long that took."""
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() - begin < seconds, "not reached in time"
        time.sleep(0.002)
    return time.monotonic() - begin


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
