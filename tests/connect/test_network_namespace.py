"""A real black hole: a network of one's own whose packets go nowhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keepalive

SET_UP = """
ip link set lo up
ip link add hole type veth peer name end
ip link set hole up
ip link set end up
ip addr add 192.0.2.1/24 dev hole
ip -6 addr add 2001:db8::1/64 dev hole nodad
ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:01 dev hole
ip neigh add 192.0.2.78 lladdr 02:00:00:00:00:01 dev hole
ip neigh add 2001:db8::77 lladdr 02:00:00:00:00:01 dev hole
"""

STORY = """
import subprocess, sys, time
import anyio
from keepalive import AllocateTimeout, ConnectionManager, StaticResolver
from tests.support import Server

for line in sys.argv[2].strip().splitlines():
    subprocess.run(line.split(), check=True, capture_output=True)

table = {
    "six.test": ["2001:db8::77", "192.0.2.1"],
    "four.test": ["192.0.2.77", "192.0.2.78", "2001:db8::1"],
    "hole.test": ["2001:db8::77", "192.0.2.77"],
}

async def main():
    with Server(host="192.0.2.1") as four, Server(host="2001:db8::1") as six:
        async with ConnectionManager(resolver=StaticResolver(table), stagger=0.1) as mgr:
            for name, port, staggers in (("six.test", four.port, 1), ("four.test", six.port, 1)):
                start = time.monotonic()
                async with mgr.allocate("t", name, port, timeout=5) as conn:
                    await conn.send(b"ping")
                    assert await conn.receive() == b"ping"
                assert 0.1 * staggers <= time.monotonic() - start < 3, (name, time.monotonic() - start)
            try:
                await mgr.allocate("t", "hole.test", 80, timeout=1)
            except AllocateTimeout as exc:
                assert exc.function == "connect", exc
                assert "2 of 4 for this key" in str(exc), exc
            else:
                raise AssertionError("somebody answers out of a black hole")
            mgr.shutdown()
    print("well")

options = {"use_uvloop": sys.argv[1] == "uvloop"} if sys.argv[1] != "trio" else {}
anyio.run(main, backend="trio" if sys.argv[1] == "trio" else "asyncio", backend_options=options)
"""


def in_a_network_of_its_own(*command: str) -> subprocess.CompletedProcess[str]:
    root = Path(keepalive.__file__).parent.parent
    return subprocess.run(
        ["unshare", "--map-root-user", "--net", *command],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=60,
        check=False,
    )


def possible() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return not in_a_network_of_its_own("ip", "link", "add", "hole", "type", "veth").returncode


@pytest.mark.skipif(not possible(), reason="needs unshare, ip and the right to make a network namespace")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_black_hole(loop: str) -> None:
    done = in_a_network_of_its_own(sys.executable, "-c", STORY, loop, SET_UP)
    assert (done.stdout, done.stderr) == ("well\n", "")
