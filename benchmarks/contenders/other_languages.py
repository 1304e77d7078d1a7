"""Contenders in other languages."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks.contenders.contender import USERS, Program
from benchmarks.setups import setup_for

if TYPE_CHECKING:
    from benchmarks.orders import Figures, Order

HERE = Path(__file__).resolve().parent.parent


class Go(Program):
    """net/http's Transport, and net.Dial for the cold connections."""

    name = "Go net/http"
    plays = (
        "exchange-1",
        "exchange-64",
        "exchange-5000",
        "download",
        "upload",
        "cold-tcp",
        "cold-tls",
        "cold-resumed",
        *(name for name in USERS if name != "many-hosts"),
    )
    program = "go"
    package = "golang-go"
    sources: ClassVar = (HERE / "go" / "main.go", HERE / "go" / "users.go")
    remarks: ClassVar = {
        **dict.fromkeys(
            USERS, "Go: one processor; for each step it limits connecting, TLS and the answer's head"
        ),
        "many-hosts": "Go's transport has no limit of connections in all",
        "exchange-1": "parses HTTP",
        "exchange-64": "parses HTTP; 64 goroutines, one processor",
        "cold-tcp": "net.Dial and Close",
        "cold-tls": "tls.Dial and Close",
        "cold-resumed": "tls.Dial with a ClientSessionCache",
    }

    @classmethod
    def binary(cls) -> Path:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keepalive-bench"
        texts = b"".join(source.read_bytes() for source in cls.sources)
        return home / f"go-{hashlib.sha256(texts).hexdigest()[:12]}"

    @classmethod
    def build(cls) -> None:
        target = cls.binary()
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            argv = ["go", "build", "-o", str(target), *map(str, cls.sources)]
            subprocess.run(
                argv, check=True, capture_output=True, text=True, env={**os.environ, "GO111MODULE": "off"}
            )

    @classmethod
    def command(cls, order: Order) -> list[str]:
        site = order.site
        if order.workload in USERS:
            setup = setup_for(order)
            settings = {
                "Url": setup.home + setup.path,
                "Content": (setup.content or b"").decode(),
                "Proxy": setup.proxy or "",
                "Points": order.points,
            }
            where = f"{setup.addr}:{setup.port}"
            argv = [str(cls.binary()), order.workload, where, str(order.budget), site.ca_file]
            return [*argv, json.dumps(settings)]
        ports = {"cold-tls": site.tls_port, "cold-resumed": site.ticket_port, "upload": site.sink_port}
        port = ports.get(order.workload, site.port)
        return [str(cls.binary()), order.workload, f"127.0.0.1:{port}", str(order.budget), site.ca_file]


class Poe(Program):
    """The ancestor, on POE's default loop."""

    name = "POE Keepalive"
    plays = ("warm", "contention", "keys")
    program = "perl"
    package = "libpoe-component-client-keepalive-perl"
    source: ClassVar[Path] = HERE / "perl" / "poe.pl"
    remarks: ClassVar = {"warm": "POE::Component::Client::Keepalive, of Perl; every answer is an event"}

    @classmethod
    def missing(cls) -> str | None:
        if reason := super().missing():
            return reason
        check = ["perl", "-MPOE::Component::Client::Keepalive", "-e", "1"]
        if subprocess.run(check, capture_output=True, stdin=subprocess.DEVNULL).returncode:
            return f"POE::Component::Client::Keepalive is not installed (Debian: {cls.package})"
        return None

    @classmethod
    def command(cls, order: Order) -> list[str]:
        points = ",".join(map(str, order.points))
        port = str(order.site.hold_port)
        return ["perl", str(cls.source), order.workload, port, str(order.budget), points, str(order.patience)]


class Wrk(Program):
    """What a client that is all C and has no pool can do."""

    name = "wrk"
    plays = ("exchange-1", "exchange-64")
    program = "wrk"
    package = "wrk"
    remarks: ClassVar = {"exchange-64": "8 connections, no tasks"}

    @classmethod
    def command(cls, order: Order) -> list[str]:
        connections = "1" if order.workload == "exchange-1" else "8"
        # Its shortest run is a second.
        return ["wrk", "-t1", "-d1s", "-c" + connections, f"http://127.0.0.1:{order.site.port}/"]

    @classmethod
    def parse(cls, output: str) -> Figures:
        found = re.search(r"Requests/sec:\s+([\d.]+)", output)
        if found is None:
            raise ValueError(f"no rate in what wrk said: {output}")
        return {0: {"time": 1e6 / float(found[1])}}
