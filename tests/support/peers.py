"""Programs that tests talk to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin"


def require_peer(name: str) -> str:
    """Give the path of an installed program.

    Without it the test is skipped, but fails where REQUIRE_PEERS=1 promises that nothing is missing.
    """
    found = shutil.which(name, path=_SBIN)
    if found is not None:
        return found
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(f"{name} is not installed, though REQUIRE_PEERS=1 is set")
    pytest.skip(f"needs {name}, which is not installed")


def free_port() -> int:
    """Find a port for a program that cannot take over a listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(argv: list[str | Path], port: int) -> Iterator[None]:
    """Run a program until the end of the block; it is up when it accepts connections."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, f"{argv[0]} has ended"
                assert time.monotonic() < end, f"{argv[0]} does not listen"
                time.sleep(0.005)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def tinyproxy(folder: Path, *settings: str) -> Iterator[int]:
    """Run an HTTP proxy with further lines in its configuration; gives its port."""
    program, port = require_peer("tinyproxy"), free_port()
    config = folder / "tinyproxy.conf"
    user = "User root" if os.geteuid() == 0 else ""  # it would become nobody, who may not write here
    lines = (f"Port {port}", "Listen 127.0.0.1", "LogLevel Critical", user, *settings)
    config.write_text("".join(f"{line}\n" for line in lines))
    with running([program, "-d", "-c", config], port):
        yield port


@contextmanager
def microsocks(*options: str) -> Iterator[int]:
    """Run a SOCKS 5 proxy; gives its port."""
    program, port = require_peer("microsocks"), free_port()
    with running([program, "-i", "127.0.0.1", "-p", str(port), *options], port):
        yield port


_NGINX = """
{user}daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log combined buffer=4k flush=1s;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    keepalive_timeout 30s;
    keepalive_requests {requests};
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl{http2};
        ssl_certificate {pair};
        ssl_certificate_key {pair};
        root {folder}/www;
        location = /close {{ keepalive_timeout 0; return 200 "closed\\n"; }}
    }}
}}
"""


class Nginx:
    """A running nginx: ``port`` speaks HTTP, ``tls_port`` HTTPS, files come from ``www``."""

    def __init__(self, port: int, tls_port: int, www: Path) -> None:
        self.port = port
        self.tls_port = tls_port
        self.www = www


@contextmanager
def nginx(folder: Path, pair: Path, *, requests: int = 1000, http2: bool = False) -> Iterator[Nginx]:
    """Run nginx in ``folder`` with the certificate ``pair``; it closes after so many requests each."""
    program = require_peer("nginx")
    www = folder / "www"
    www.mkdir()
    (www / "index.html").write_text("<p>hello</p>\n")
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, tls_port = (sock.getsockname()[1] for sock in listeners)
        config = folder / "nginx.conf"
        config.write_text(
            _NGINX.format(
                user="user root;\n" if os.geteuid() == 0 else "",  # others may not enter pytest's folders
                folder=folder,
                requests=requests,
                port=port,
                tls_port=tls_port,
                pair=pair,
                http2=" http2" if http2 else "",
            )
        )
        numbers = [sock.fileno() for sock in listeners]
        # nginx takes over listening sockets named by NGINX (its way to upgrade in place). So the ports cannot
        # be taken by somebody else, and connections wait in the kernel's queue until it is up.
        process = subprocess.Popen(
            [program, "-p", folder, "-c", config, "-e", folder / "error.log"],
            env={**os.environ, "NGINX": "".join(f"{number};" for number in numbers)},
            pass_fds=numbers,
            stdin=subprocess.DEVNULL,
        )
        for sock in listeners:
            sock.close()
        try:
            yield Nginx(port, tls_port, www)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


@contextmanager
def dnsmasq(folder: Path, *options: str) -> Iterator[str]:
    """Run dnsmasq on a free port of 127.0.0.1 with these options; gives its "address:port"."""
    program = require_peer("dnsmasq")
    for _ in range(5):
        port = _port_for_both()
        process = subprocess.Popen(
            [
                *(program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
                *(f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces"),
                *(f"--pid-file={folder}/pid", "--log-facility=-"),
                *([] if os.geteuid() else ["--user=root"]),  # others may not enter pytest's folders
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if _listens(process, port):
                yield f"127.0.0.1:{port}"
                return
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)
    pytest.fail("dnsmasq does not start")


def _port_for_both() -> int:
    """Find a port that UDP and TCP have free; for TCP, of connections that ended lately too."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False
