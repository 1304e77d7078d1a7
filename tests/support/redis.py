"""A real Redis server for tests."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .peers import free_port, require_peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class RedisServer:
    """A running redis-server.

    :ivar tls_port: 0 without a certificate
    :ivar path: of its Unix socket
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, options: tuple[str, ...], pair: Path | None) -> None:
        self.folder = folder
        self.path = folder / "redis.sock"
        self.port = free_port()
        self.tls_port = free_port() if pair else 0
        self._options = options
        self._pair = pair
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, or start it again, with further options; it is up when this returns."""
        tls = (
            *("--tls-port", str(self.tls_port), "--tls-cert-file", str(self._pair)),
            *("--tls-key-file", str(self._pair), "--tls-ca-cert-file", str(self._pair)),
            *("--tls-auth-clients", "no"),
        )
        self.path.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(require_peer("redis-server"), "--port", str(self.port), "--bind", self.host),
                *("--save", "", "--dir", str(self.folder), "--unixsocket", str(self.path)),
                *(tls if self._pair else ()),
                *(*self._options, *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 10
        while not self.path.exists():  # the last of its listeners
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < end, "redis-server does not listen"
            time.sleep(0.005)

    def kill(self) -> None:
        """Kill it, without a word to its clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def cli(self, *command: str) -> str:
        """Run a command by redis-cli; return its answer."""
        argv = [require_peer("redis-cli"), "-s", str(self.path), *command]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    def clients(self, name: str) -> list[dict[str, str]]:
        """List the connections of this client name."""
        lines = self.cli("CLIENT", "LIST").splitlines()
        told = [dict(part.partition("=")[::2] for part in line.split()) for line in lines]
        return [client for client in told if client["name"] == name]


@contextmanager
def redis_server(folder: Path, *options: str, pair: Path | None = None) -> Iterator[RedisServer]:
    """Run a redis-server with further options; with a certificate ``pair`` it speaks TLS too."""
    require_peer("redis-server")
    server = RedisServer(folder, options, pair)
    try:
        server.start()
        yield server
    finally:
        server.kill()
