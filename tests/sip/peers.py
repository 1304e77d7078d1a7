"""SIP programs that others wrote: sipp, and Net::SIP itself (``sip_peer.pl``)."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio import to_thread

from tests.support import require_peer

if TYPE_CHECKING:
    from collections.abc import Iterator

PEER = Path(__file__).parent / "sip_peer.pl"


LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


def loops_in_turn(names: str, *values: Any) -> pytest.MarkDecorator:
    """Parametrize a test so that each value has a loop, and each loop a value, but not every pair is run.

    Programs take long to start, and which loop our end runs on is no matter to them: what differs between
    the loops is tested with peers in this process.
    """
    cases = [
        pytest.param(LOOPS[loop], *(value if isinstance(value, tuple) else (value,)), id=f"{loop}-{number}")
        for number, (loop, value) in zip(
            range(max(len(LOOPS), len(values))), zip(cycle(LOOPS), cycle(values), strict=False), strict=False
        )
    ]
    return pytest.mark.parametrize(("anyio_backend", *names.split(",")), cases, indirect=["anyio_backend"])


def one_loop(name: str) -> pytest.MarkDecorator:
    """Run a test on this loop only; see `loops_in_turn`."""
    return pytest.mark.parametrize("anyio_backend", [pytest.param(LOOPS[name], id=name)], indirect=True)


@cache
def _has_net_sip(perl: str) -> bool:
    argv = [perl, "-MNet::SIP", "-MIO::Socket::SSL", "-e", "1"]
    return subprocess.run(argv, capture_output=True).returncode == 0


def net_sip() -> list[str]:
    """Return the beginning of Net::SIP's command line, or skip."""
    perl = require_peer("perl")
    if not _has_net_sip(perl):
        if os.environ.get("REQUIRE_PEERS") == "1":
            pytest.fail("Net::SIP is not installed, though REQUIRE_PEERS=1 is set")
        pytest.skip("needs Net::SIP (Debian: libnet-sip-perl, libio-socket-ssl-perl)")
    return [perl, str(PEER)]


async def run(argv: list[str], folder: Path) -> tuple[int, str]:
    """Run a program to its end beside the loop; gives its status and what it said."""

    def call() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            cwd=folder,
            env={**os.environ, "TERM": "dumb"},
        )

    done = await to_thread.run_sync(call)
    return done.returncode, done.stdout.decode(errors="replace")


@contextmanager
def running(argv: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "TERM": "dumb"},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def net_sip_uas(folder: Path, proto: str, *more: str) -> Iterator[int]:
    """Run Net::SIP as a server; gives its port."""
    with running([*net_sip(), "uas", "--proto", proto, "--port", "0", *more], folder) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("LISTENING"), line
        yield int(line.split()[-1])


def sipp(*args: str) -> list[str]:
    """Return a command line of sipp."""
    return [require_peer("sipp"), *args, "-i", "127.0.0.1", "-nostdin", "-max_socket", "1000"]
