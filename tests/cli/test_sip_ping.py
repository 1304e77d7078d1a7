"""``keepalive sip-ping`` against pools that answer, ports that do not, and nonsense."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import from_thread

from keepalive import StaticResolver
from keepalive.cli.loops import run as run_job
from keepalive.cli.sip import PingOptions, SipPing, parse_target
from keepalive.sip import SipTLS
from tests.sip.kit import Callee, leg, port_of
from tests.support import refused_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Cli
    from tests.support import Authority


@contextmanager
def answering(proto: str, tls: SipTLS | None = None, addr: str = "127.0.0.1") -> Iterator[int]:
    """Run a pool that answers everything, in a thread of its own; gives its port."""
    ready = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        async with leg(proto, addr, tls=tls, raw=False) as pool:
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
        assert "port closed: Connection refused" in done.stderr
        assert done.stdout == "1 sent, 0 answered, 1 lost\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_closed_port_is_told_at_once_over_udp_too(run: Cli, host: str, backend: str) -> None:
    # Of a datagram socket that was just closed the port is free, in both families for all we know.
    with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
        sock.bind(("::", 0))
        port = sock.getsockname()[1]
    done = run("sip-ping", f"{host}:{port}", "-n", 2, "--interval", 0, "--timeout", 60, "--backend", backend)
    assert done.exit_code == 1
    assert done.stderr == f"Error: {host}:{port}: port closed: the host says so (ICMP)\n" * 2
    assert done.stdout == "2 sent, 0 answered, 2 lost\n"


def test_silence(run: Cli) -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        done = run("sip-ping", f"127.0.0.1:{sock.getsockname()[1]}", "--timeout", 0.1)
    assert done.exit_code == 1
    assert "no answer within 0.1 s" in done.stderr


def test_a_server_that_closes_is_not_waited_for(run: Cli) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            conn, _ = server.accept()
            conn.recv(10_000)
            conn.close()

        thread = threading.Thread(target=serve)
        thread.start()
        done = run("sip-ping", f"127.0.0.1:{server.getsockname()[1]}", "--proto", "tcp", "--timeout", 60)
        thread.join(10)
    assert done.exit_code == 1
    assert "the connection ended before the answer" in done.stderr


@pytest.mark.parametrize("proto", ["udp", "tcp"])
@pytest.mark.parametrize("addresses", ["::1", ("127.0.0.1", "::1")])
def test_names_with_ipv6(
    proto: str, addresses: str | tuple[str, ...], backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two addresses the one where somebody listens is found."""
    with answering(proto, addr="::1") as port:
        ping = PingOptions("six.test", port, proto, 2, 0, 60, insecure=False)
        job = SipPing(ping, StaticResolver({"six.test": addresses}))
        assert run_job(backend, job.run) == 0
    assert len(job.times) == job.sent == 2
    said = capsys.readouterr()
    assert said.out.count(f"200 OK from [::1]:{port} over {proto}: ") == 2
    assert said.err == ""


def test_localhost_is_of_both_families(run: Cli) -> None:
    with answering("udp", addr="::1") as port:
        assert run("sip-ping", f"localhost:{port}").exit_code == 0


def test_names_that_do_not_exist(run: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    job = SipPing(PingOptions("no.test", 5060, "udp", 1, 0, 60, insecure=False), StaticResolver({}))
    assert run_job("asyncio", job.run) == 0
    assert "Error: no.test:5060: resolve: " in capsys.readouterr().err
    assert (job.sent, job.times) == (1, [])


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


@pytest.mark.parametrize(
    "nasty",
    [
        b"\x1b]0;owned\x07\x1b[2J",
        b"\x9b31m\xff\xfe",
        "\u202eevil\x85\u2028".encode(),
        b"\x0eshift",
        b"x" * 50_000,
    ],
    ids=["escape", "c1", "bidi", "shift-out", "long"],
)
def test_a_reason_that_writes_to_the_terminal(run: Cli, nasty: bytes, backend: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        phone.settimeout(10)

        def answer() -> None:
            asked, address = phone.recvfrom(65536)
            rest = asked.partition(b"\r\n")[2]
            phone.sendto(b"SIP/2.0 200 " + nasty + b"\r\n" + rest, address)

        thread = threading.Thread(target=answer)
        thread.start()
        done = run("sip-ping", f"127.0.0.1:{phone.getsockname()[1]}", "--timeout", 2, "--backend", backend)
        thread.join(10)
    shown = done.stdout + done.stderr
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert shown.count("\n") == 2
    assert len(shown) < 600
