"""``keepalive get`` goes by the proxies that the environment names, as curl does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.http.kit import Script
from tests.support import HttpOrigin, Server
from tests.support.peers import microsocks, tinyproxy

from .test_get import url

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli
    from tests.support import Authority


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_by_an_http_proxy(
    run: Cli, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    plain, secret = HttpOrigin(), HttpOrigin()
    with (
        Server(plain) as http, Server(secret, tls=ca.server()) as https,
        tinyproxy(tmp_path, "BasicAuth me secret") as port,
    ):  # fmt: skip
        monkeypatch.setenv("ALL_PROXY", f"http://me:secret@127.0.0.1:{port}")
        result = run.json("--backend", backend, "-n", 3, "-c", 1, url(http), url(https, scheme="https"))
        assert result["statuses"] == {"200": 6}
        assert "via" in plain.requests[0][1]
        assert https.accepted == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert run.json(url(http))["statuses"] == {"200": 1}
        assert "via" not in plain.requests[-1][1]


def test_by_a_socks_proxy(run: Cli, ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Server(HttpOrigin()) as http, Server(HttpOrigin(), tls=ca.server()) as https, microsocks() as port,
    ):  # fmt: skip
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        result = run.json("-n", 3, "-c", 1, url(http), url(https, scheme="https"))
        assert result["statuses"] == {"200": 6}
        assert result["connections"]["opened"] == 2


def test_by_a_proxy_that_speaks_tls(run: Cli, ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    with Server(script, tls=ca.server()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", url(proxy, "", "https"))
        monkeypatch.setenv("HTTPS_PROXY", url(proxy, "", "https"))
        result = run.json("http://far.invalid/x", "https://far.invalid/x")
        assert result["statuses"] == {"404": 1}
        assert "proxy" in result["errors"][0]["error"]
    assert sorted((a.method, a.target) for a in script.asked) == [
        ("CONNECT", "far.invalid:443"), ("GET", "http://far.invalid/x")
    ]  # fmt: skip


def test_an_impossible_proxy_is_told(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://me:sesame@localhost:1")
    result = run("get", "http://far.invalid/")
    assert result.exit_code == 2
    assert "a proxy of the environment" in result.stderr
    assert "sesame" not in result.output
