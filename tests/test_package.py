"""What there is before anything runs: the version, the extras and their absence, and what an import costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import keepalive

ROOT = Path(keepalive.__file__).parent.parent


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )


HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {packages}:
            return None
        found = (finder.find_spec(name, path, target) for finder in finders)
        return next((spec for spec in found if spec is not None), None)

finders = sys.meta_path[:]
sys.meta_path[:] = [Hidden()]
"""


def without(packages: str, code: str) -> str:
    """Run code where packages are not installed; gives the last line of what it complains."""
    done = python(HIDING.format(packages=packages.split()) + code)
    assert done.returncode, done.stdout
    return done.stderr.strip().splitlines()[-1]


def test_version() -> None:
    assert keepalive.__version__ == version("keepalive-manager")
    assert "__version__" in dir(keepalive)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"module 'keepalive' has no attribute 'Nothing'"):
        keepalive.Nothing  # noqa: B018  # to ask is the test


def test_parts_are_there_without_an_import_of_their_own() -> None:
    done = python(
        "import keepalive; print(keepalive.errors.TLSError is keepalive.TLSError, keepalive.abc.Observer)"
    )
    assert done.stdout.startswith("True <class"), done.stderr


def test_all_brings_every_extra_for_users() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.partition("[")[2].rstrip("]").split(","))
    assert named == set(extras) - {"all", "test", "bench", "docs", "dev"}


@pytest.mark.parametrize(
    ("package", "extra", "code"),
    [
        ("httptools", "http", "import keepalive.http"),
        ("httptools", "http", "from keepalive import http"),
        ("httptools", "http", "import keepalive.httpx"),
        ("hiredis", "redis", "from keepalive.redis import RedisLifecycle"),
        ("redis", "redis", "from keepalive.redis import ConnectionPool"),
        ("socksio", "socks", "import keepalive; keepalive.SOCKS5Connector('socks5://h')"),
        ("sipmessage", "sip", SIP := "import anyio, keepalive.sip as sip\nasync def main():\n"
         "    async with sip.open_leg('udp', '127.0.0.1', 0, config=sip.SipConfig(raw=False)): pass\n"
         "anyio.run(main)"),
        ("click", "cli", "from keepalive.__main__ import main; main()"),
        ("rich", "cli", "from keepalive.__main__ import main; main()"),
        ("httptools", "cli", "from keepalive.__main__ import main; main()"),
    ],
)  # fmt: skip
def test_what_misses_its_extra_says_which(package: str, extra: str, code: str) -> None:
    said = without(package, code)
    assert package in said
    assert f"pip install 'keepalive-manager[{extra}]'" in said


def test_without_httpx_it_says_which_extra() -> None:
    said = without("httpx httpx2", "import keepalive.httpx as h; h.Transport()")
    assert "pip install 'keepalive-manager[httpx]'" in said


def test_an_import_that_fails_inside_of_a_package_is_told_as_it_is() -> None:
    said = without("httptools.parser", "import keepalive.http")
    assert "cannot import name 'parser'" in said
    assert "pip install" not in said


def test_importing_the_package_loads_nothing_big() -> None:
    done = python("import sys, keepalive; print(*sorted(sys.modules))")
    loaded = set(done.stdout.split())
    assert not {"anyio", "asyncio", "ssl", "socket", "typing", "dataclasses", "logging"} & loaded


def test_a_name_loads_only_what_it_needs() -> None:
    done = python("import sys; from keepalive import KeepaliveError, Key, Reuse; print(*sorted(sys.modules))")
    assert not {"anyio", "asyncio", "ssl"} & set(done.stdout.split())
    done = python("import sys; from keepalive import ConnectionManager; print(*sorted(sys.modules))")
    assert not {"dns", "idna", "httptools", "socksio", "trio", "click"} & set(done.stdout.split())
    done = python(
        "import sys; from keepalive.redis import Commands, RedisLifecycle; print(*sorted(sys.modules))"
    )
    assert not {"redis", "trio"} & set(done.stdout.split())
