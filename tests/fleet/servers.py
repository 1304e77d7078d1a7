"""Redis servers of our own, as real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.peers import free_port, require_peer

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from pathlib import Path


class RedisServer:
    """One server, which keeps nothing: started again it is empty."""

    def __init__(self, folder: Path, *options: str, program: str = "redis-server") -> None:
        self.program = require_peer(program)
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        argv = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        argv += ["--dir", str(self.folder), "--daemonize", "no", *self.options]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, "the server has ended"
                assert time.monotonic() < end, "the server does not listen"
                time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash does; what it held is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def redis_server(folder: Path, *options: str, program: str = "redis-server") -> Iterator[RedisServer]:
    server = RedisServer(folder, *options, program=program)
    server.start()
    try:
        yield server
    finally:
        server.kill()
