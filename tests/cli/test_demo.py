"""``keepalive demo``, and what belongs to no command."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from keepalive.cli.demo import IN_ALL, PER_HOST

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def row(text: str, name: str) -> list[int]:
    """Give the numbers of one row of the table."""
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return [int(number) for number in re.findall(r"\d+", line.partition(")")[2] if ")" in line else line)]


def test_demo_tells_what_reuse_saves(run: Cli, backend: str) -> None:
    result = run("demo", "--requests", 90, "--backend", backend)
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    assert row(text, "requests") == [90, 90]
    reused, each = row(text, "connections opened")
    assert reused < each == 90
    immediate, deferred = row(text, "reused, immediate")[0], row(text, "reused, deferred")[0]
    assert immediate + deferred >= 90 - reused
    assert row(text, "reused, immediate")[1] == row(text, "reused, deferred")[1] == 0
    assert max(row(text, "peak per host")) <= PER_HOST
    assert max(row(text, "peak in all")) <= IN_ALL
    assert row(text, "waited")[0] > 0
    saved = re.search(r"Time saved: (-?[\d.]+) s", text)
    assert saved is not None
    assert float(saved[1]) > 0
    assert "held back for 30 ms" in text, "what is simulated must be said"


def test_demo_needs_a_request(run: Cli) -> None:
    assert run("demo", "--requests", 0).exit_code == 2


def test_version_and_help(run: Cli) -> None:
    assert re.fullmatch(r"keepalive, version \d+\.\d+\.\d+\n", run("--version").stdout)
    text = run("--help").stdout
    assert "demo" in text
    assert "get" in text
    assert "--max-per-host" in run("get", "-h").stdout


@pytest.mark.parametrize("name", ["click", "httptools", "rich"])
def test_missing_extra_is_told_in_one_line(name: str) -> None:
    code = f"import sys; sys.modules['{name}'] = None; from keepalive.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"keepalive: {name} is missing; install it with: pip install 'keepalive-manager[cli]'\n"
    )


@pytest.mark.parametrize("requests", [1, 2, 3, 30])
def test_no_negative_saving(run: Cli, requests: int) -> None:
    last = ""
    for delay in (0, 5):
        result = run("demo", "--requests", requests, "--setup-delay", delay)
        assert result.exit_code == 0
        last = result.stdout.splitlines()[-1]
        assert last.startswith(("Time saved: ", "No time saved: "))
        assert "-" not in last.partition("Try more")[0]
    if requests == 1:
        assert last.startswith("No time saved: no connection was used twice.")
