"""``keepalive probe`` on loopback: what it finds, and what it says."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from keepalive.cli.probe import BadRange, parse_span
from tests.cli.test_signals import Terminal
from tests.support import Greeting, Lines, Server, Silent, full_backlog, has_ipv6, refused_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Cli


def probe(run: Cli, *args: object) -> tuple[int, dict[str, Any]]:
    result = run("probe", "--json", *args)
    return result.exit_code, json.loads(result.stdout)


def test_open_refused_and_silent(run: Cli, backend: str) -> None:
    with (
        Server(Greeting(b"220 ready\r\nmore\r\n")) as server,
        Server(Silent()) as silent,
        refused_port() as port,
        full_backlog() as nowhere,
    ):
        targets = f"127.0.0.1:{server.port},{silent.port},{port},{nowhere.port}"
        code, found = probe(run, "--backend", backend, "--timeout", 0.3, "--wait", 0.2, targets)
    assert code == 0
    assert found["ports"] == 4
    assert found["counts"] == {"open": 2, "refused": 1, "no answer": 1, "failed": 0, "not tried": 0}
    lines = {entry["port"]: entry["line"] for entry in found["open"]}
    assert lines == {server.port: "220 ready", silent.port: None}
    answered = next(entry for entry in found["open"] if entry["line"])
    assert 0 < answered["connected"] <= answered["answered"] < 5
    assert found["errors"] == []


def test_what_is_sent_is_answered(run: Cli) -> None:
    with Server(Lines()) as server:
        code, found = probe(run, "--send", r"hello\n", f"127.0.0.1:{server.port}")
    assert (code, found["open"][0]["line"]) == (0, "HELLO")


def test_many_ports_a_few_at_a_time(run: Cli, backend: str) -> None:
    with Server(Greeting(b"here\n")) as server, Server(Greeting(b"x" * 1000)) as long:
        low = min(server.port, long.port) - 300
        low = max(1, low)
        span = f"{low}-{low + 600}"
        code, found = probe(
            run, "--backend", backend, "--concurrency", 20, "--wait", 0.2,
            f"127.0.0.1:{span}", f"localhost:{server.port},{long.port}",
        )  # fmt: skip
    assert code == 0
    assert found["ports"] == 603
    assert sum(found["counts"].values()) == 603
    here = [entry for entry in found["open"] if entry["host"] == "localhost"]
    assert {entry["line"] for entry in here} == {"here", "x" * 256}


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6(run: Cli) -> None:
    with Server(Greeting(b"six\n"), host="::1") as server:
        code, found = probe(run, f"[::1]:{server.port}")
    assert (code, found["open"][0]["line"]) == (0, "six")


def test_nothing_open_is_exit_code_1(run: Cli) -> None:
    with refused_port() as port:
        result = run("probe", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.stdout.startswith("1 ports: 1 refused; ")
    assert result.stderr == ""


def test_unknown_host_is_told_once(run: Cli) -> None:
    result = run("probe", "--concurrency", 3, "nowhere.invalid:1-500")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: nowhere.invalid: resolve: ")
    assert result.stderr.count("\n") == 1
    assert "497 not tried" in result.stdout


def test_table_shows_no_control_characters(run: Cli) -> None:
    with Server(Greeting(b"\x1b[31mred [bold]\xff\n")) as server:
        result = run("probe", f"127.0.0.1:{server.port}")
    assert result.exit_code == 0
    assert ".[31mred [bold]\\xff" in result.stdout
    assert "\x1b" not in result.stdout
    assert "1 ports: 1 open; " in result.stdout


@pytest.mark.parametrize(
    ("text", "host", "ports"),
    [
        ("host", "host", 1024),
        ("host:80", "host", 1),
        ("host:1-3,7,9-10", "host", 6),
        ("::1", "::1", 1024),
        ("[::1]", "::1", 1024),
        ("[fe80::1%lo]:1-65535", "fe80::1%lo", 65535),
    ],
)
def test_hosts_and_ports(text: str, host: str, ports: int) -> None:
    span = parse_span(text)
    assert (span.host, len(span), len(list(span))) == (host, ports, ports)


@pytest.mark.parametrize(
    "text", ["", ":80", "host:", "host:0", "host:65536", "host:3-1", "host:a", "host:1-", "host:-1", "[::1",
             "[::1]80", "host:1,,2", "ho st", "host:٣", "host:1-2-3"],
)  # fmt: skip
def test_wrong_hosts_and_ports(run: Cli, text: str) -> None:
    with pytest.raises(BadRange):
        parse_span(text)
    result = run("probe", "--", text)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [(), ("--concurrency", "0", "h"), ("--wait", "nan", "h"), ("--send", "\\x", "h")]
)
def test_wrong_options(run: Cli, args: tuple[str, ...]) -> None:
    assert run("probe", *args).exit_code == 2


# -- what it shows -----------------------------------------------------------------------------------


@contextmanager
def dripping() -> Iterator[int]:
    """Run a server that sends a byte each 0.1 s and never ends its line; gives its port."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            sock, _ = listener.accept()
            with sock:
                try:
                    while not over.wait(0.1):
                        sock.send(b".")
                except OSError:
                    pass  # the other side has had enough

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(10)


NASTY = {
    "escape": b"\x1b]0;owned\x07\x1b[2J",
    "c1": "\x9b31m\x90q\x9c".encode(),
    "bidi": "\u202egpj.exe\u2066".encode(),
    "shift-out": b"\x0eabc\x0f",
    "separators": "one\u2028two\x85three".encode(),
    "invalid": b"\xff\xfe\xc3(",
    "markup": b"[bold]x[/bold] [link=http://x]",
    "long": b"x" * 1_000_000,
}


@pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY.keys())
def test_nothing_that_a_terminal_acts_on_is_shown(run: Cli, nasty: bytes) -> None:
    with Server(Greeting(nasty + b"\n")) as server:
        result = run("probe", f"127.0.0.1:{server.port}")
        as_json = run("probe", "--json", f"127.0.0.1:{server.port}").stdout
    assert all(char.isprintable() or char == "\n" for char in result.stdout + as_json)
    assert result.stdout.count("\n") == 3
    assert len(result.stdout) < 600


def test_in_a_pipe_a_record_is_a_line_however_narrow(run: Cli) -> None:
    said = b"220 " + b"a long first line, " * 12
    with Server(Greeting(said + b"\n")) as server, Server(Silent()) as silent:
        result = run("probe", "--wait", 0.2, f"localhost:{server.port},{silent.port}", columns=38)
    lines = {int(line.split()[1]): line for line in result.stdout.splitlines()[1:3]}
    assert lines[server.port].split(maxsplit=4)[4] == said.decode().strip()
    assert lines[server.port].startswith("localhost ")
    assert lines[silent.port].split()[3:] == ["-"]
    assert result.stdout.count("\n") == 4


def test_on_a_narrow_terminal_host_and_port_stay_whole() -> None:
    with Server(Greeting(b"220 " + b"x" * 200 + b"\n")) as server:
        terminal = Terminal("probe", f"localhost:{server.port}", columns=38)
        try:
            assert terminal.finish() == 0
        finally:
            terminal.close()
    shown = terminal.seen.decode().replace("\r", "")
    row = next(line for line in shown.splitlines() if "localhost" in line)
    assert row.split()[:2] == ["localhost", str(server.port)]
    cut = next(line for line in shown.splitlines() if "220 xxx" in line)
    assert cut.endswith("...")
    assert len(cut) <= max(38, len(row))


def test_a_port_that_drips_is_bounded_by_wait(run: Cli, backend: str) -> None:
    with dripping() as port:
        started = time.monotonic()
        code, found = probe(run, "--backend", backend, "--wait", 0.5, f"127.0.0.1:{port}")
        took = time.monotonic() - started
    assert code == 0
    assert 0 < len(found["open"][0]["line"]) < 10
    assert took < 5  # 25 without a bound


# -- what could not be asked -------------------------------------------------------------------------


def test_a_name_without_address_beside_an_open_port_is_no_success(run: Cli) -> None:
    with Server(Greeting(b"here\n")) as server:
        result = run("probe", f"localhost:{server.port}", "nowhere.invalid:1-9")
    assert result.exit_code == 1
    assert "1 open" in result.stdout
    assert "nowhere.invalid: resolve: " in result.stderr


def test_errors_are_summed_up(run: Cli) -> None:
    result = run("probe", "255.255.255.255:1-300", *(f"nowhere{n}.invalid:1-5" for n in range(6)))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 2
    assert "255.255.255.255: connect: " in result.stderr
    assert "(300 ports)" in result.stderr
    assert "of 6 hosts: nowhere0.invalid, nowhere1.invalid, nowhere2.invalid and 3 more)" in result.stderr


def limited(soft: int, hard: int, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keepalive", "probe", *map(str, args)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_limit_of_open_files_is_raised_and_that_is_said(backend: str) -> None:
    with Server(Greeting(b"")) as server:
        target = ",".join([str(server.port)] * 600)
        done = limited(256, 4096, "--json", "--concurrency", 600, "--backend", backend, "--wait", 0.5,
                       f"127.0.0.1:{target}")  # fmt: skip
    assert done.stderr == "The limit of open files was raised from 256 to 749.\n"
    assert done.returncode == 0
    assert json.loads(done.stdout)["counts"]["open"] == 600


def test_where_it_cannot_be_raised_that_is_said_and_nothing_is_lost(backend: str) -> None:
    with Server(Greeting(b"x\n")) as server:
        target = ",".join([str(server.port)] * 600)
        done = limited(128, 128, "--json", "--concurrency", 600, "--backend", backend, f"127.0.0.1:{target}")
    assert (
        "is 128, and may not be raised; 600 connections at a time do not fit, some will wait" in done.stderr
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["counts"]["open"] == 600


def test_nothing_is_lost_when_a_write_is_taken_in_part() -> None:
    """As when the process is stopped amid a write; with `PYTHONUNBUFFERED` Python forgets the rest."""
    with Server(Greeting(b"x\n")) as server:
        ports = ",".join([str(server.port)] * 900)
        command = [sys.executable, "-m", "keepalive", "probe", "--json", f"127.0.0.1:{ports}"]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
            assert process.stdout is not None
            unread = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
            while fionread(process.stdout.fileno()) < unread:
                assert process.poll() is None, "everything fitted into the pipe"
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            process.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, process.pid, os.WCONTINUED)
            said = process.stdout.read()
    assert process.returncode == 0
    assert json.loads(said)["counts"]["open"] == 900


def fionread(fd: int) -> int:
    """Return how many bytes wait in a pipe."""
    room = array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, room)
    return room[0]
