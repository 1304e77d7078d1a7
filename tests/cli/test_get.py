"""``keepalive get`` against test origins: what it counts, what it reuses, what it says of failures."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from keepalive.cli.get import percentiles
from tests.support import (
    Answer,
    Greeting,
    HttpOrigin,
    Server,
    Silent,
    answer,
    full_backlog,
    has_ipv6,
    nginx,
    refused_port,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli
    from tests.support import Authority


def url(server: Server, path: str = "/", scheme: str = "http") -> str:
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{scheme}://{host}:{server.port}{path}"


def test_counts_and_reuses(run: Cli, http_server: Server, backend: str) -> None:
    result = run.json("--backend", backend, "-n", 20, "-c", 3, url(http_server), url(http_server, "/missing"))
    assert result["statuses"] == {"200": 20, "404": 20}
    assert result["answered"] == 40
    assert result["connections"]["opened"] == http_server.accepted <= 3
    assert result["handshakes_saved"] == {"tcp": 40 - http_server.accepted, "tls": 0}
    assert result["bytes"] == 20 * len("hello") + 20 * len("no such page")
    latency = result["latency"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert http_server.peak <= 3
    assert http_server.connections == 0


def test_limit_per_host_is_kept(run: Cli, http_server: Server) -> None:
    result = run.json("-n", 50, "-c", 10, "--max-per-host", 2, url(http_server))
    assert result["answered"] == 50
    assert http_server.peak <= 2
    assert result["connections"]["reused_deferred"] > 0


def test_request_is_what_servers_expect(run: Cli) -> None:
    origin = HttpOrigin()
    with Server(origin) as server:
        run("get", url(server, "/?q=1"))
    [(path, headers)] = origin.requests
    assert path == "/?q=1"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["user-agent"].startswith("keepalive/")


@pytest.mark.parametrize(
    "path", ["/", "/chunked", "/hint", "/empty", "/http10-keep", "/missing", "/broken", "/moved"]
)
def test_connection_is_reused_after(run: Cli, http_server: Server, path: str) -> None:
    result = run.json("-n", 3, "-c", 1, url(http_server, path))
    assert result["answered"] == 3
    assert result["handshakes_saved"]["tcp"] == 2


@pytest.mark.parametrize("path", ["/close", "/http10", "/to-the-end", "/extra"])
def test_connection_is_not_reused_after(run: Cli, http_server: Server, path: str) -> None:
    result = run.json("-n", 3, "-c", 1, url(http_server, path))
    assert result["statuses"] == {"200": 3}
    assert result["bytes"] == 15
    assert result["handshakes_saved"]["tcp"] == 0
    assert result["retried"] == 0
    assert http_server.accepted == 3


def test_announced_idle_time_is_heeded(run: Cli) -> None:
    with Server(HttpOrigin({"/": answer(extra="Keep-Alive: max=9, timeout=0\r\n")})) as server:
        result = run.json("-n", 3, "-c", 1, url(server))
    assert (result["answered"], result["connections"]["opened"]) == (3, 3)


def test_stale_connection_is_retried_once_on_a_fresh_one(run: Cli, backend: str) -> None:
    with Server(HttpOrigin(stale=True)) as server:
        result = run.json("--backend", backend, "-n", 4, "-c", 1, url(server))
    assert result["statuses"] == {"200": 4}
    # Each second request finds its connection stale, and the retry's connection is stale for the next one.
    assert result["retried"] == 3


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nothing", "ended without an answer"),
        ("/short", "in the middle of the answer"),
        ("/garbage", "not HTTP/1.1"),
        ("/never", "timed out after 0.2 s (no full answer)"),
    ],
)
def test_bad_answer_is_an_error_and_not_retried(
    run: Cli, http_server: Server, path: str, why: str, backend: str
) -> None:
    target = url(http_server, path)
    timeout = ("--timeout", 0.2) if path == "/never" else ()
    result = run("get", "--backend", backend, *timeout, target)
    assert result.exit_code == 1
    assert why in result.stderr
    assert result.stderr.startswith(f"Error: {target}: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert http_server.accepted == 1


def test_endless_head_is_refused(run: Cli) -> None:
    with Server(Greeting(b"HTTP/1.1 200 OK\r\n" + b"X-Header: more\r\n" * 50_000)) as server:
        result = run("get", url(server))
    assert result.exit_code == 1
    assert "head is longer" in result.stderr


def test_refused_host(run: Cli, backend: str) -> None:
    with refused_port() as port:
        result = run("get", "--backend", backend, "-n", 20, "-c", 1, f"http://127.0.0.1:{port}/")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"Error: http://127.0.0.1:{port}/: connect: ")
    assert "refused" in first
    assert "(5 times)" in first
    assert "15 requests were not tried" in second


def test_unresolvable_host(run: Cli) -> None:
    result = run("get", "--timeout", 5, "http://no-such-host.invalid/")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: http://no-such-host.invalid/: ")
    assert "resolve" in result.stderr


def test_host_that_never_connects(run: Cli, backend: str) -> None:
    with full_backlog() as there:
        result = run("get", "--backend", backend, "--timeout", 0.2, f"http://{there.host}:{there.port}/")
    assert result.exit_code == 1
    assert "timed out after 0.2 s (connect)" in result.stderr


def test_tls_that_never_answers(run: Cli) -> None:
    with Server(Silent()) as server:
        result = run("get", "--timeout", 0.2, url(server, scheme="https"))
    assert result.exit_code == 1
    assert "timed out after 0.2 s (tls)" in result.stderr


def test_good_and_bad_hosts_together(run: Cli, http_server: Server) -> None:
    with refused_port() as port:
        result = run("get", f"http://127.0.0.1:{port}/", url(http_server))
    assert result.exit_code == 1
    assert "refused" in result.stderr
    assert "200: 1" in result.stdout
    assert "Failed" in result.stdout


@pytest.mark.parametrize("bad", ["nonsense", "ftp://127.0.0.1/", "http://me:secret@127.0.0.1/"])
def test_bad_url_is_told_in_one_line_before_anything_is_fetched(
    run: Cli, http_server: Server, bad: str
) -> None:
    result = run("get", url(http_server), bad)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert bad in result.stderr
    assert result.stderr.count("\n") == 1
    assert http_server.accepted == 0


@pytest.mark.parametrize("args", [(), ("-n", "0"), ("-c", "x"), ("--timeout", "0"), ("--timeout", "nan")])
def test_wrong_options_are_usage_errors(run: Cli, http_server: Server, args: tuple[str, ...]) -> None:
    target = (url(http_server),) if args else ()
    assert run("get", *args, *target).exit_code == 2


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_literal(run: Cli) -> None:
    with Server(HttpOrigin(), host="::1") as server:
        assert run.json(url(server))["statuses"] == {"200": 1}


def test_https_is_verified_and_reused(run: Cli, ca: Authority, backend: str) -> None:
    with Server(HttpOrigin(), tls=ca.server(alpn=("http/1.1",))) as server:
        result = run.json("--backend", backend, "-n", 10, "-c", 2, url(server, scheme="https"))
    assert result["statuses"] == {"200": 10}
    assert result["handshakes_saved"]["tls"] == 10 - server.handshakes >= 8


def test_certificate_for_another_name(run: Cli, ca: Authority, backend: str) -> None:
    with Server(HttpOrigin(), tls=ca.server("other.example")) as server:
        target = url(server, scheme="https")
        result = run("get", "--backend", backend, target)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {target}: tls: ")
        assert result.stderr.count("\n") == 1
        assert run("get", "--insecure", "--backend", backend, target).exit_code == 0


def test_table_is_plain_and_short_without_a_terminal(run: Cli, http_server: Server) -> None:
    result = run("get", "-n", 5, "-c", 1, url(http_server))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert lines == [
        "Statuses", "Connections", "Handshakes saved", "Time", "Body bytes", "Latency, ms",
    ]  # fmt: skip  # one line tells as much
    assert "1 opened, reused 4 times immediate" in result.stdout
    assert "\x1b" not in result.stdout


def test_json_tells_failures_too(run: Cli) -> None:
    with refused_port() as port:
        result = run("get", "--json", f"http://127.0.0.1:{port}/")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (found["answered"], found["failed"], found["errors"][0]["count"]) == (0, 1, 1)
    assert found["latency"] == {}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_full_disk_is_told_in_one_line(http_server: Server) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "keepalive", "get", url(http_server)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == f"Error: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}\n"


def test_real_nginx(run: Cli, tmp_path: Path, ca: Authority, backend: str) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    pair, _ = ca.write(folder)
    with nginx(folder, pair, requests=25) as peer:
        (peer.www / "big").write_bytes(bytes(1_000_000))
        plain, tls = f"http://127.0.0.1:{peer.port}", f"https://localhost:{peer.tls_port}"
        args = ("--backend", backend, "-n", 50, "-c", 4)
        result = run.json(*args, f"{plain}/", f"{tls}/", f"{plain}/missing", f"{plain}/close", f"{tls}/big")
    assert result["statuses"] == {"200": 200, "404": 50}
    assert result["failed"] == 0
    assert result["bytes"] > 50_000_000
    # nginx closes after 25 requests on a connection, so some are opened anew, but few.
    assert 150 <= result["handshakes_saved"]["tcp"] < 250 - 50
    assert result["handshakes_saved"]["tls"] >= 80


def test_percentiles_are_values_that_occurred() -> None:
    assert percentiles([]) == {}
    assert percentiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0, "max": 3.0}
    assert percentiles([float(n) for n in range(100, 0, -1)]) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}


def test_http_to_a_port_with_tls_says_so_in_words(run: Cli, backend: str, ca: Authority) -> None:
    with Server(HttpOrigin(), tls=ca.server()) as server:
        result = run("get", "-n", 3, "--backend", backend, url(server))
    assert result.exit_code == 1
    assert f"127.0.0.1:{server.port} speaks TLS: ask it by https://, not http://." in result.stderr
    assert result.stderr.count("speaks TLS") == 1


def test_https_to_a_port_without_tls_says_so_in_words(run: Cli, http_server: Server, backend: str) -> None:
    target = url(http_server, "/secret?token=1", "https")
    result = run("get", "-n", 3, "--timeout", 0.5, "--backend", backend, target)
    assert result.exit_code == 1
    expected = f"127.0.0.1:{http_server.port} speaks HTTP without TLS: ask it by http://, not https://."
    assert expected in result.stderr
    assert result.stderr.count("without TLS") == 1
    origin = http_server.behaviour
    assert isinstance(origin, HttpOrigin)
    assert [path for path, _ in origin.requests] == ["/"]  # nothing of the user's goes out in the clear


@pytest.mark.parametrize("alert", [b"\x15\x03\x01\x00\x02\x02\x46", b""])
def test_http_to_a_port_that_only_alerts_or_hangs_up(run: Cli, alert: bytes) -> None:
    with Server(HttpOrigin({"/": Answer(alert, close=True)})) as server:
        result = run("get", url(server))
    assert result.exit_code == 1
    assert ("does the port want https://?" in result.stderr) is (not alert)


def test_what_fails_for_other_reasons_is_no_matter_of_schemes(run: Cli) -> None:
    with Server(Greeting(b"220 ftp\r\n")) as server:
        for scheme in ("http", "https"):
            result = run("get", url(server, scheme=scheme))
            assert result.exit_code == 1
            assert "speaks TLS" not in result.stderr
            assert "without TLS" not in result.stderr


def test_a_nginx_that_answers_400_at_its_tls_port(run: Cli, tmp_path: Path, ca: Authority) -> None:
    with nginx(tmp_path, ca.write(tmp_path)[0]) as server:
        result = run("get", f"http://127.0.0.1:{server.tls_port}/")
    assert "400: 1" in result.stdout
    assert "speaks TLS" in result.stderr


@pytest.mark.parametrize("nasty", [b"\x1b[2J\x9b31m\x0e\xff", "\u202eevil\u2028".encode(), b"x" * 1_000_000])
def test_errors_show_nothing_that_a_terminal_acts_on(run: Cli, nasty: bytes) -> None:
    for said in (nasty + b"\r\n\r\n", b"HTTP/1.1 200 " + nasty + b"\r\n\r\n"):
        with Server(Greeting(said)) as server:
            result = run("get", "--timeout", 2, url(server))
        shown = result.stdout + result.stderr
        assert all(char.isprintable() or char == "\n" for char in shown)
        assert len(shown) < 3000


def test_table_in_a_narrow_pipe_is_not_folded(run: Cli, http_server: Server) -> None:
    result = run("get", "-n", 3, url(http_server), columns=20)
    assert sum("Connections" in line and "deferred" in line for line in result.stdout.splitlines()) == 1
