"""``keepalive probe`` on loopback: what it finds, and what it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from keepalive.cli.ports import BadRange, parse_span
from tests.support import Greeting, Lines, Server, Silent, full_backlog, has_ipv6, refused_port

if TYPE_CHECKING:
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
