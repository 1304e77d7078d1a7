"""The workers of a web server borrow from one agent."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectionManager, KeepaliveError, http
from tests.docs.examples import examples
from tests.support import HttpOrigin, Server
from tests.support.peers import free_port, nginx

from .kit import Process, service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Authority

pytestmark = pytest.mark.timeout(60)
CONFIG = """
[pools.own]
users = ["*"]
max_per_host = 2
[[pools.own.allow]]
schemes = ["http"]
hosts = ["127.0.0.1"]
ports = ["1-65535"]
"""


async def get_all(url: str, count: int) -> set[bytes]:
    """Ask so many times, many at a time; the server may still be starting."""
    bodies = set()
    async with ConnectionManager(max_per_host=16, keep_alive=0) as mgr:
        client = http.Client(mgr, timeout=20)
        with anyio.fail_after(30):
            while True:
                try:
                    async with client.request("GET", url) as response:
                        await response.read()
                    break
                except (KeepaliveError, http.HTTPError):
                    await anyio.sleep(0.05)

        async def get() -> None:
            async with client.request("GET", url) as response:
                assert response.status == 200
                bodies.add(await response.read())

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(get)
    return bodies


def test_uvicorns_workers_share_the_agents_connections(tmp_path: Path) -> None:
    code = next(example.code for example in examples() if example.name == "agent_app")
    (tmp_path / "app.py").write_text(code)
    path, file, port = tmp_path / "agent.sock", tmp_path / "agent.toml", free_port()
    file.write_text(CONFIG)
    with Server(HttpOrigin()) as server, service(path, "--config", str(file)):
        environment = {**os.environ, "AGENT": str(path), "UPSTREAM": f"http://127.0.0.1:{server.port}/"}
        options = ["--workers", "2", "--port", str(port), "--log-level", "critical"]
        web = Process([sys.executable, "-m", "uvicorn", *options, "app:app"], cwd=tmp_path, env=environment)
        try:
            assert anyio.run(get_all, f"http://127.0.0.1:{port}/", 100) == {b"hello"}
        finally:
            web.process.terminate()
            web.process.wait(15)
            web.end()
        assert server.peak <= 2
        assert server.accepted <= 4


async def test_nginx_behind_an_agent(tmp_path: Path, ca: Authority) -> None:
    from keepalive import agent as agents

    pair, authority = ca.write(tmp_path)
    path, file = tmp_path / "agent.sock", tmp_path / "agent.toml"
    file.write_text(
        CONFIG.replace('["http"]', '["http", "https"]').replace('"127.0.0.1"', '"127.0.0.1", "localhost"')
        + f'[tls.https]\nca_file = "{authority}"\n'
    )
    with nginx(tmp_path, pair, requests=7) as peer, service(path, "--config", str(file)):
        async with agents.connect(path, sticky=0.01) as mgr, anyio.create_task_group() as group:
            client = http.Client(mgr, timeout=20)

            async def get(url: str) -> None:
                async with client.request("GET", url) as response:
                    assert await response.read() == b"<p>hello</p>\n"

            for _ in range(20):
                group.start_soon(get, f"http://localhost:{peer.port}/")
                group.start_soon(get, f"https://localhost:{peer.tls_port}/")
