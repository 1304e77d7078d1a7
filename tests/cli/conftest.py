"""Run the command line in this process, as click's own test runner does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from keepalive.cli.app import cli

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Authority


class Cli:
    """Call ``keepalive`` with arguments; an exception that the command does not handle fails the test."""

    def __init__(self, authority: Path) -> None:
        # OpenSSL takes the system's trust from here.
        self._runner = CliRunner(env={"SSL_CERT_FILE": str(authority)})

    def __call__(self, *args: object, columns: int = 100) -> Result:
        env = {"COLUMNS": str(columns)}
        result = self._runner.invoke(cli, [str(arg) for arg in args], prog_name="keepalive", env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *args: object) -> dict[str, Any]:
        """Call ``keepalive get --json``; gives what it prints."""
        found: dict[str, Any] = json.loads(self("get", "--json", *args).stdout)
        return found


@pytest.fixture
def run(tmp_path: Path, ca: Authority) -> Cli:
    return Cli(ca.write(tmp_path)[1])


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
