"""Real servers that speak HTTP/2: nginx, Go's net/http, hypercorn, nghttpd."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectionManager, TLSConnector, http
from tests.support import nginx, require_peer
from tests.support.peers import free_port, running
from tests.support.waiting import until

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support import Authority

BIG = b"0123456789" * 100_000

# What is open is what its handlers count.
GO = """
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
)

var open int64

func main() {
	big := strings.Repeat("0123456789", 100000)
	http.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		atomic.AddInt64(&open, 1)
		defer atomic.AddInt64(&open, -1)
		io.WriteString(w, big)
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Size")
		size, _ := io.Copy(w, r.Body)
		w.Header().Set("X-Size", fmt.Sprint(size))
	})
	http.HandleFunc("/open", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, atomic.LoadInt64(&open), " ", r.Proto)
	})
	http.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		atomic.AddInt64(&open, 1)
		defer atomic.AddInt64(&open, -1)
		<-r.Context().Done()
	})
	panic(http.ListenAndServeTLS(os.Args[1], os.Args[2], os.Args[2], nil))
}
"""

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200,
        "headers": [(b"x-version", scope["http_version"].encode())]})
    await send({"type": "http.response.body", "body": body or b"hello"})
"""


@asynccontextmanager
async def client(
    context: ssl.SSLContext, **options: Any
) -> AsyncIterator[tuple[http.Client, ConnectionManager]]:
    async with ConnectionManager(**http.HTTP2Lifecycle().manager_options(context), **options) as mgr:
        yield http.Client(mgr, http2=True, timeout=20), mgr


async def fetch(client: http.Client, url: str, method: str = "GET", content: Any = None) -> bytes:
    async with client.request(method, url, content=content) as response:
        assert response.status == 200
        assert response.http_version == "2"
        return await response.read()


async def test_nginx(tmp_path: Path, ca: Authority) -> None:
    pair, _ = ca.write(tmp_path)
    with nginx(tmp_path, pair, http2=True, requests=100) as server:
        (server.www / "big").write_bytes(BIG)
        async with client(ca.client(), max_per_host=1) as (asks, mgr):
            base = f"https://localhost:{server.tls_port}"
            assert await fetch(asks, f"{base}/") == b"<p>hello</p>\n"
            async with anyio.create_task_group() as tasks:
                for _ in range(250):  # it says GOAWAY after a hundred each
                    tasks.start_soon(fetch, asks, f"{base}/")
                for _ in range(10):
                    tasks.start_soon(fetch, asks, f"{base}/big")
            assert await fetch(asks, f"{base}/big") == BIG
            async with asks.request("GET", f"{base}/big") as response:
                await response.__anext__()
            async with asks.request("GET", f"http://localhost:{server.port}/") as plain:
                assert (plain.http_version, plain.stream_id) == ("1.1", None)
                await plain.read()
            assert 3 <= mgr.stats().opened <= 6


@pytest.fixture(scope="session")
def go_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a server; Go remembers what it has built before."""
    folder = tmp_path_factory.mktemp("go")
    source, program = folder / "server.go", folder / "server"
    source.write_text(GO)
    subprocess.run([require_peer("go"), "build", "-o", program, source], check=True, timeout=80, cwd=folder)
    return program


async def test_go(tmp_path: Path, ca: Authority, go_server: Path) -> None:
    pair, _ = ca.write(tmp_path)
    port = free_port()
    with running([go_server, f"localhost:{port}", pair], port):
        async with client(ca.client(), max_per_host=1) as (asks, mgr):
            base = f"https://localhost:{port}"
            assert await fetch(asks, f"{base}/open") == b"0 HTTP/2.0"
            async with asks.request("POST", f"{base}/echo", content=BIG) as response:
                assert await response.read() == BIG
                assert response.trailers.get("x-size") == str(len(BIG))
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(fetch, asks, f"{base}/wait")
                await until(lambda: mgr.stats().lent == 1)
                while await fetch(asks, f"{base}/open") != b"20 HTTP/2.0":
                    pass
                tasks.cancel_scope.cancel()
            while await fetch(asks, f"{base}/open") != b"0 HTTP/2.0":
                pass
            assert mgr.stats().opened == 1


async def test_go_and_we_count_alike_after_a_storm(tmp_path: Path, ca: Authority, go_server: Path) -> None:
    dice = random.Random(11)
    pair, _ = ca.write(tmp_path)
    port = free_port()
    with running([go_server, f"localhost:{port}", pair], port):
        async with client(ca.client(), max_per_host=1) as (asks, mgr):
            base = f"https://localhost:{port}"

            async def work() -> None:
                for _ in range(20):
                    with anyio.move_on_after(dice.random() * 0.05 if dice.random() < 0.3 else 100):
                        await fetch(asks, base + dice.choice(["/open", "/big", "/echo"]))

            async with anyio.create_task_group() as tasks:
                for _ in range(32):
                    tasks.start_soon(work)
            while await fetch(asks, f"{base}/open") != b"0 HTTP/2.0":
                pass
            now = mgr.stats()
            assert (now.opened, now.open, now.idle, now.waiting) == (1, 1, 1, 0)


@pytest.mark.parametrize("secure", [True, False], ids=["TLS", "prior knowledge"])
async def test_hypercorn(tmp_path: Path, ca: Authority, secure: bool) -> None:
    pair, _ = ca.write(tmp_path)
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    tls = ["--certfile", pair, "--keyfile", pair] if secure else []
    argv = [sys.executable, "-m", "hypercorn", f"{tmp_path}/app:app", "--bind", f"localhost:{port}", *tls]
    with running([*map(str, argv)], port):
        two = http.HTTP2Lifecycle(prior_knowledge=not secure)
        async with ConnectionManager(**two.manager_options(ca.client()), max_per_host=2) as mgr:
            asks = http.Client(mgr, http2=True, timeout=20)
            base = f"http{'s' * secure}://localhost:{port}"
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(fetch, asks, f"{base}/")
            assert await fetch(asks, f"{base}/", "POST", BIG) == BIG


async def test_nghttpd(tmp_path: Path, ca: Authority) -> None:
    program = require_peer("nghttpd")
    pair, _ = ca.write(tmp_path)
    (tmp_path / "big").write_bytes(BIG)
    port = free_port()
    with running([program, "-d", str(tmp_path), "-m", "7", str(port), str(pair), str(pair)], port):
        async with client(ca.client(), max_per_host=1) as (asks, _), anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(fetch, asks, f"https://localhost:{port}/big")


async def test_a_server_without_http2_gets_http11(tmp_path: Path, ca: Authority) -> None:
    pair, _ = ca.write(tmp_path)
    with nginx(tmp_path, pair) as server:
        async with client(ca.client()) as (asks, mgr):
            async with asks.request("GET", f"https://localhost:{server.tls_port}/") as response:
                assert (response.http_version, response.stream_id) == ("1.1", None)
                await response.read()
            assert mgr.stats().idle == 1


def test_a_client_insists_on_a_manager_that_can() -> None:
    with pytest.raises(ValueError, match="http2 needs a manager"):
        http.Client(ConnectionManager(connectors={"https": TLSConnector()}), http2=True)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_streams": 0}, ValueError, "max_streams"),
        ({"window": 1000}, ValueError, "window"),
        ({"window": 1e6}, TypeError, "window"),
        ({"ping_after": 0}, ValueError, "ping_after"),
        ({"ping_after": "5"}, TypeError, "ping_after"),
        ({"head_limits": 5}, TypeError, "head_limits"),
        ({"prior_knowledge": "yes"}, TypeError, "prior_knowledge"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        http.HTTP2Lifecycle(**options)
