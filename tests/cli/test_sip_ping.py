"""``keepalive sip-ping`` against pools that answer, ports that do not, and nonsense."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import from_thread

from keepalive.cli.sip import parse_target
from keepalive.sip import SipTLS
from tests.sip.kit import Callee, leg, port_of
from tests.support import refused_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Cli
    from tests.support import Authority


@contextmanager
def answering(proto: str, tls: SipTLS | None = None) -> Iterator[int]:
    """Run a pool that answers everything, in a thread of its own; gives its port."""
    ready = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        async with leg(proto, tls=tls, raw=False) as pool:
            Callee(pool)
            end = anyio.Event()
            found.extend((port_of(pool), end, anyio.lowlevel.current_token()))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    try:
        yield found[0]
    finally:
        from_thread.run_sync(found[1].set, token=found[2])
        thread.join(10)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_answers_are_timed(run: Cli, proto: str, backend: str) -> None:
    with answering(proto) as port:
        done = run(
            "sip-ping", f"127.0.0.1:{port}", "--proto", proto, "-n", 3, "--interval", 0, "--backend", backend
        )
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert len(lines) == 4
    assert all(line.startswith(f"200 OK from 127.0.0.1:{port} over {proto}: ") for line in lines[:3])
    assert lines[3].startswith("3 sent, 3 answered, 0 lost; ms: least ")


def test_tls_is_verified(run: Cli, ca: Authority, tmp_path: Path) -> None:
    folder = tmp_path / "sip"
    folder.mkdir()
    pair, trust = ca.write(folder, "localhost")
    with answering("tls", SipTLS(cert=pair, ca=trust)) as port:
        assert run("sip-ping", f"localhost:{port}", "--proto", "tls").exit_code == 0
        wrong = run("sip-ping", f"127.0.0.1:{port}", "--proto", "tls")
        assert wrong.exit_code == 1
        assert "hostname verification failed" in wrong.stderr
        assert run("sip-ping", f"127.0.0.1:{port}", "--proto", "tls", "--insecure").exit_code == 0


def test_refused_and_lost(run: Cli) -> None:
    with refused_port() as port:
        done = run("sip-ping", f"127.0.0.1:{port}", "--proto", "tcp")
        assert done.exit_code == 1
        assert "Connection refused" in done.stderr
        assert done.stdout == "1 sent, 0 answered, 1 lost\n"
        done = run("sip-ping", f"127.0.0.1:{port}", "--timeout", 0.1)
        assert done.exit_code == 1
        assert "no answer within 0.1 s" in done.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.test", ("a.test", 5060)),
        ("a.test:1", ("a.test", 1)),
        ("[::1]", ("::1", 5060)),
        ("::1", ("::1", 5060)),
        ("[::1]:7", ("::1", 7)),
    ],
)
def test_targets(text: str, found: tuple[str, int]) -> None:
    assert parse_target(text, "udp") == found
    assert parse_target("a.test", "tls") == ("a.test", 5061)


@pytest.mark.parametrize("text", ["", ":5060", "a:b", "a:0", "a:65536", "a b", "[]:1"])
def test_nonsense(run: Cli, text: str) -> None:
    done = run("sip-ping", text)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
