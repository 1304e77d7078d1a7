"""Starts what the contenders talk to: nginx where it is installed, and the bundled server beside it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders.contender import REQUEST
from benchmarks.orders import BIG, JSON, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent

NGINX_CONF = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes 1;
{user}{affinity}
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    default_type text/plain;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_protocols TLSv1.3;
    server {{
        listen 127.0.0.1:{ports[0]} backlog=4096;
        location = /big {{ root {folder}; }}
        location = /json {{ default_type application/json; root {folder}; }}
        location / {{ return 200 "Hello, world\\n"; }}
    }}
    server {{
        listen 0.0.0.0:{ports[3]} backlog=4096;
        if ($remote_addr !~ ^127) {{ return 444; }}
        location / {{ return 200 "Hello, world\\n"; }}
    }}
    server {{
        listen 127.0.0.1:{ports[1]} ssl backlog=4096;
        ssl_session_cache off;
        ssl_session_tickets off;
        location = /big {{ root {folder}; }}
        location / {{ return 200 "Hello, world\\n"; }}
    }}
    server {{
        listen 127.0.0.1:{ports[2]} ssl backlog=4096;
        ssl_session_tickets on;
        location / {{ return 200 "Hello, world\\n"; }}
    }}
}}
"""
NGINX_PLAIN = re.compile(
    r"    ssl_cert.*?TLSv1\.3;\n|(?<=\}\n)    server \{\n[^\n]*ssl backlog.*?\n    \}\n", re.DOTALL
)


def find(program: str) -> str | None:
    # Debian keeps servers where only root's PATH looks.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


def find_nginx() -> str | None:
    return find("nginx")


def make_certificates(folder: Path) -> bool:
    """Write cert.pem, key.pem and ca.pem; say False where the tool for it is missing."""
    if importlib.util.find_spec("trustme") is None:
        return False
    import trustme

    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    for index, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(folder / "cert.pem", append=index > 0)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return True


def free_ports(count: int) -> list[int]:
    """Find ports; all are held until all are found, so that no two are the same."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


@contextmanager
def running(argv: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    process: subprocess.Popen[str] = subprocess.Popen(argv, text=True, **options)  # type: ignore[call-overload]  # options by name
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def nginx_config(folder: Path, ports: list[int], core: int | None, with_tls: bool) -> str:
    affinity = "" if core is None else f"worker_cpu_affinity {1 << core:b};"
    user = "user root;\n" if os.geteuid() == 0 else ""  # others may not enter the folder
    text = NGINX_CONF.format(folder=folder, ports=ports, affinity=affinity, user=user)
    return text if with_tls else NGINX_PLAIN.sub("", text)


def ask(port: int) -> int:
    """Make one exchange and give the size of the reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
        return len(sock.recv(65536))


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 5
    while True:
        try:
            ask(port)
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"the server did not start: {process.args!r}") from None
            time.sleep(0.02)
        else:
            return


def wait_until_open(port: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 5
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"this did not start: {process.args!r}") from None
            time.sleep(0.02)
        else:
            return


@contextmanager
def redis(folder: Path, core: int | None) -> Iterator[int]:
    """Run redis-server on a core; gives its port, 0 where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield 0
        return
    port = free_ports(1)[0]
    pin = () if core is None else ("--server_cpulist", str(core))
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *pin]
    with running(argv, stdout=subprocess.DEVNULL) as process:
        wait_until_open(port, process)
        yield port


@contextmanager
def tinyproxy(folder: Path, core: int | None) -> Iterator[int]:
    """Run an HTTP proxy on a core; gives its port, 0 where it is not installed."""
    program = find("tinyproxy")
    if program is None:
        yield 0
        return
    port = free_ports(1)[0]
    user = "User root\n" if os.geteuid() == 0 else ""  # as nginx
    config = folder / "tinyproxy.conf"
    config.write_text(f"Port {port}\nListen 127.0.0.1\nLogLevel Critical\nMaxClients 512\n{user}")
    with running([program, "-d", "-c", str(config)], stdout=subprocess.DEVNULL) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        wait_until_open(port, process)
        yield port


@contextmanager
def dnsmasq(core: int | None) -> Iterator[int]:
    """Run a name server that knows all of bench.test, on a core; gives its port, 0 where it is missing."""
    program = find("dnsmasq")
    if program is None:
        yield 0
        return
    port = free_ports(1)[0]
    argv = [
        *(
            program,
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file",
        ),
        *(f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-"),
        *(
            "--address=/bench.test/127.0.0.1",
            "--address=/bench.test/::1",
            *(["--user=root"] if os.geteuid() == 0 else []),
        ),
    ]
    with running(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        wait_until_open(port, process)
        yield port


@contextmanager
def servers(core: int | None, choice: str) -> Iterator[Site]:
    """Run the servers on a core; TLS ports are 0 where no certificates can be made."""
    nginx = None if choice == "bundled" else find_nginx()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keepalive-bench-")))
        has_tls = make_certificates(folder)
        files = [str(folder / "cert.pem"), str(folder / "key.pem")] if has_tls else []
        argv = [sys.executable, "-m", "benchmarks.bundled_server", "-" if core is None else str(core), *files]
        pipe = subprocess.PIPE
        origin = stack.enter_context(running(argv, cwd=ROOT, stdin=pipe, stdout=pipe))
        assert origin.stdout is not None
        ports: dict[str, int] = {"tls_port": 0, "ticket_port": 0, **json.loads(origin.stdout.readline())}
        server = "the bundled one, not nginx: figures of exchanges hold its time too"
        if nginx:
            numbers = free_ports(4)
            config = folder / "nginx.conf"
            with (folder / "big").open("wb") as big:
                big.truncate(BIG)  # a file of zeros, with no blocks on any disk
            (folder / "json").write_bytes(JSON)
            config.write_text(nginx_config(folder, numbers, core, has_tls))
            process = stack.enter_context(running([nginx, "-p", str(folder), "-c", str(config)]))
            wait_for(numbers[0], process)
            ports["port"], ports["hosts_port"] = numbers[0], numbers[3]
            if has_tls:
                ports["tls_port"], ports["ticket_port"] = numbers[1:3]
            server = (
                subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr.split(": ")[-1].strip()
            )
        ports["proxy_port"] = stack.enter_context(tinyproxy(folder, core))
        ports["dns_port"] = stack.enter_context(dnsmasq(core))
        ports["redis_port"] = stack.enter_context(redis(folder, core))
        yield Site(ca_file=str(folder / "ca.pem"), server=server, reply_size=ask(ports["port"]), **ports)
