# ruff: noqa: E501  # command lines and configurations
"""Real servers: nginx, uvicorn, Python's own."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectionManager, TLSConnector
from keepalive.http import BadAnswer, Client
from tests.http.kit import Script, ok, then_close
from tests.support import Server, require_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support import Authority

CONFIG = """
{user}daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    keepalive_requests 10;
    keepalive_timeout 30s 7s;
    client_max_body_size 2m;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {pair}; ssl_certificate_key {pair};
        root {folder};
        location = /gzip {{ gzip on; gzip_min_length 1; gzip_types *; default_type text/x; alias {folder}/big; }}
        location = /ok {{ return 200 "fine"; }}
        location = /close {{ keepalive_timeout 0; return 200 "closed"; }}
        location /up {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1; proxy_read_timeout 200ms; proxy_request_buffering off;
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, pair: Path, upstream: int) -> Iterator[tuple[str, str]]:
    """Run nginx before an upstream of ours; gives the URLs of its two listeners."""
    program = require_peer("nginx")
    (folder / "big").write_bytes(b"0123456789" * 30_000)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    port, tls_port = (sock.getsockname()[1] for sock in listeners)
    config = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(
        CONFIG.format(user=user, folder=folder, port=port, tls_port=tls_port, pair=pair, upstream=upstream)
    )
    numbers = [sock.fileno() for sock in listeners]
    process = subprocess.Popen(
        [program, "-p", folder, "-c", config, "-e", folder / "error.log"],
        env={**os.environ, "NGINX": "".join(f"{number};" for number in numbers)},
        pass_fds=numbers,
        stdin=subprocess.DEVNULL,
    )
    for sock in listeners:
        sock.close()
    try:
        yield f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(10_000)


async def test_nginx(tmp_path: Path, ca: Authority) -> None:
    pair, _ = ca.write(tmp_path)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream = Script(
        {
            "/up": lambda peer, asked: peer.send(ok(str(len(asked.body)).encode())),
            "/up/slow": lambda peer, asked: None,
            "/up/cut": then_close(ok(b"x" * 99)[:-50]),
            "/up/cut-chunk": then_close(chunked + b"5\r\nhello\r\n"),
            "/up/chunked": chunked + b"5\r\nhello\r\n0\r\n\r\n",
            "/up/to-the-end": then_close(b"HTTP/1.1 200 OK\r\n\r\nhello"),
        }
    )
    with Server(upstream) as behind, nginx(tmp_path, pair, behind.port) as (plain, tls):
        connectors = {"https": TLSConnector(ca.client())}
        async with ConnectionManager(max_per_host=1, connectors=connectors) as mgr:
            client = Client(mgr, timeout=10)

            async def ask(where: str, method: str = "GET", **options: Any) -> tuple[int, bytes]:
                async with client.request(method, where, **options) as response:
                    return response.status, await response.read()

            for base in (plain, tls):
                before = mgr.stats().opened
                for _ in range(25):  # it closes after ten each, and says so
                    assert await ask(f"{base}/ok") == (200, b"fine")
                assert mgr.stats().opened - before == 3
                assert await ask(f"{base}/big") == (200, b"0123456789" * 30_000)
                assert (await ask(f"{base}/big", "HEAD"))[1] == b""
                assert (await ask(f"{base}/big", headers={"Range": "bytes=0-4"})) == (206, b"01234")
                status, packed = await ask(f"{base}/gzip", headers={"Accept-Encoding": "gzip"})
                assert (status, gzip.decompress(packed)) == (200, b"0123456789" * 30_000)
                assert (await ask(f"{base}/missing"))[0] == 404
                assert await ask(f"{base}/close") == (200, b"closed")
                assert await ask(f"{base}/up", "POST", content=bytes(1_000_000)) == (200, b"1000000")
                assert await ask(f"{base}/up", "POST", content=pieces(30)) == (200, b"300000")
                assert (await ask(f"{base}/up", "POST", content=bytes(3_000_000)))[0] == 413
                for path in ("chunked", "to-the-end"):
                    assert await ask(f"{base}/up/{path}") == (200, b"hello")
                assert (await ask(f"{base}/up/slow"))[0] == 504
                for path in ("cut", "cut-chunk"):
                    with pytest.raises(BadAnswer, match="in the middle"):
                        await ask(f"{base}/up/{path}")
                async with client.request("GET", f"{base}/big") as response:
                    assert response.headers.get("Connection") == "keep-alive"
                assert mgr.stats().lent == 0


APP = """
import json

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    if scope["path"] != "/early":
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["raw_path"])]})
    for n in range(3):
        await send({"type": "http.response.body", "body": b"%d;" % len(body), "more_body": n < 2})
"""


@contextmanager
def uvicorn(folder: Path) -> Iterator[str]:
    pytest.importorskip("uvicorn")
    (folder / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = sock.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--fd", str(number), "--http", "h11", "--log-level", "error"],
            pass_fds=[number], cwd=folder, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        port = sock.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def test_uvicorn(tmp_path: Path) -> None:
    with uvicorn(tmp_path) as base:
        async with ConnectionManager(max_per_host=2) as mgr:
            client = Client(mgr, timeout=20)

            async def ask(method: str, path: str, content: Any, headers: Any = None) -> None:
                async with client.request(method, base + path, content=content, headers=headers) as response:
                    assert response.status == 200
                    assert response.headers.get("x-path") == path
                    size = 300_000 if content is not None else 0
                    assert await response.read() == b"%d;" % size * 3

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(ask, "GET", "/", None)
                    group.start_soon(ask, "POST", "/a", bytes(300_000))
                    group.start_soon(ask, "POST", "/b", pieces(30))
                    group.start_soon(ask, "PUT", "/c", bytes(300_000), {"Expect": "100-continue"})
            assert mgr.stats().opened == 2
            async with client.request("POST", base + "/early", content=bytes(300_000)) as response:
                assert await response.read() == b"0;0;0;"


class Handler(SimpleHTTPRequestHandler):
    """Python's own: 1.0 by default, 1.1 with its content-length."""

    def log_message(self, format: str, *args: Any) -> None:  # its name
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps({"size": len(body), "version": self.protocol_version}).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
async def test_http_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    kind = type("Versioned", (Handler,), {"protocol_version": version})

    def handler(*args: Any) -> BaseHTTPRequestHandler:
        return kind(*args, directory=str(tmp_path))  # type: ignore[no-any-return]  # made above

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        try:
            async with ConnectionManager(max_per_host=1) as mgr:
                client = Client(mgr, timeout=10)
                for path, status in (("/file", 200), ("/missing", 404), ("/file", 200), ("/", 200)):
                    async with client.request("GET", base + path) as response:
                        assert response.status == status
                        assert len(await response.read()) == int(response.headers.get("Content-Length") or 0)
                big = {"Expect": "100-continue"} if version == "HTTP/1.1" else {}
                async with client.request(
                    "POST", f"{base}/x", content=bytes(500_000), headers=big
                ) as response:
                    assert json.loads(await response.read()) == {"size": 500_000, "version": version}
                opened = mgr.stats().opened
                assert opened == (2 if version == "HTTP/1.1" else 5)  # it closes after a 404
        finally:
            server.shutdown()
            thread.join()
