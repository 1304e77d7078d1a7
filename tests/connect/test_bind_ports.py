"""With `bind_address` one local port serves many targets: `connect` chooses it, not `bind` (ip(7))."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keepalive

STORY = """
import subprocess, sys
import anyio
from contextlib import ExitStack
from keepalive import ConnectionManager
from tests.support import Server

subprocess.run("ip link set lo up".split(), check=True, capture_output=True)
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("50000 50003")

async def main():
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(host=f"127.0.0.{n}", port=4000 + n)) for n in range(2, 14)]
        async with ConnectionManager(bind_address="127.0.0.1") as mgr:
            conns = [await mgr.allocate("t", server.host, server.port, 5) for server in servers]
            for conn in conns:
                await conn.send(b"ping")
                assert await conn.receive() == b"ping"
            for conn in conns:
                conn.discard()
    print("well", len(conns))

options = {"use_uvloop": sys.argv[1] == "uvloop"} if sys.argv[1] != "trio" else {}
anyio.run(main, backend="trio" if sys.argv[1] == "trio" else "asyncio", backend_options=options)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_more_connections_than_ports(loop: str) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    root = Path(keepalive.__file__).parent.parent
    command = [unshare, "-rn", sys.executable, "-c", STORY, loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert done.stdout == "well 12\n", done.stderr
