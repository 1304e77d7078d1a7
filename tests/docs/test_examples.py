"""What the README and the manual show works as it stands there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import ConnectError, Connection, ConnectionManager, SetupError, TLSConnector
from keepalive.sip import open_leg
from tests.agent.kit import here as agent_here
from tests.docs.examples import ROOT, examples, run
from tests.fleet.servers import redis_server as fleet_store
from tests.http.kit import Script
from tests.http2.kit import Origin
from tests.support import Lines, Server
from tests.support.nameserver import NameServer, Zone
from tests.support.proxies import HttpProxy
from tests.support.redis import redis_server
from tests.support.waiting import until

if TYPE_CHECKING:
    import ssl

    from keepalive import Connector
    from keepalive.sip import Source
    from tests.support import Authority


def test_every_example_has_a_name_and_is_run_here() -> None:
    source = ast.parse(Path(__file__).read_text("utf-8"))
    told = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant)}
    assert [example for example in examples() if example.name not in told] == []


def test_examples_of_one_name_are_one_example() -> None:
    codes: dict[str | None, set[str]] = {}
    for example in examples():
        codes.setdefault(example.name, set()).add(example.code)
    assert [name for name, variants in codes.items() if len(variants) > 1] == []


@pytest.mark.timeout(300)  # mypy reads everything anew
def test_examples_pass_a_strict_type_checker(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    pytest.importorskip("mypy", reason="mypy comes with the extra dev")
    for example in examples():
        (tmp_path / f"example_{example.name}.py").write_text(example.code, "utf-8")
    # It takes long over the libraries, which are the same next time.
    cache = tmp_path / "cache"
    if pytestconfig.pluginmanager.hasplugin("cacheprovider"):
        cache = pytestconfig.cache.mkdir("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}"]
    checked = subprocess.run(
        [*command, *sorted(map(str, tmp_path.glob("*.py")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


async def test_http2(capsys: pytest.CaptureFixture[str], ca: Authority) -> None:
    context = ca.server()
    context.set_alpn_protocols(["h2"])
    with Server(Origin(), tls=context) as server:
        await run("http2")["main"](f"https://localhost:{server.port}/", ca.client())
    assert capsys.readouterr().out.splitlines() == ["200 2 b'hello'"] * 3 + ["1 opened"]


# -- the manager ----------------------------------------------------------------------------------------


async def test_the_first_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines()) as server:
        await run("first")["main"](server.host, server.port)
    told = ["b'HELLO\\n' None 1", "b'HELLO\\n' immediate 2", "b'HELLO\\n' immediate 3", "1 opened"]
    assert capsys.readouterr().out.splitlines() == told


async def test_client_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines()) as server:
        await run("lines")["main"](server.port)
        assert server.peak == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101
    assert set(lines[:-1]) == {f"QUESTION {n}" for n in range(100)}


async def test_a_refused_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines()) as server:
        port = server.port
    await run("refused")["main"](port)
    assert capsys.readouterr().out == "connect Connection refused\n"


async def test_a_stale_connection_is_tried_once_more() -> None:
    ask = run("retry")["ask"]
    with Server(Lines()) as server:
        async with ConnectionManager() as mgr:
            assert await ask(mgr, server.host, server.port, b"one") == b"ONE"
            assert await ask(mgr, server.host, server.port, b"two") == b"TWO"
            assert server.accepted == 1


async def test_a_server_that_only_hangs_up_is_not_tried_for_ever() -> None:
    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        await stream.aclose()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, hang_up)
        async with ConnectionManager() as mgr:
            with pytest.raises((anyio.IncompleteRead, anyio.BrokenResourceError)):
                await run("retry")["ask"](mgr, "127.0.0.1", port, b"one")
        tasks.cancel_scope.cancel()


async def test_a_refusal_keeps_the_connection() -> None:
    names = run("refusal")
    with Server(Lines(lambda line: b"550 no such user")) as server:
        async with ConnectionManager() as mgr:
            for _ in range(2):
                with pytest.raises(names["Refused"], match="550 no such user"):
                    await names["main"](mgr, server.host, server.port)
            assert server.accepted == 1


async def test_a_greeting_for_new_connections_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines()) as server:
        async with ConnectionManager() as mgr:
            for _ in range(2):
                await run("greeting")["main"](mgr, server.host, server.port)
    assert capsys.readouterr().out.splitlines() == ["b'HELLO\\n'", "b'QUESTION\\n'", "b'QUESTION\\n'"]


def store(line: bytes) -> bytes:
    word, _, rest = line.partition(b" ")
    if word == b"AUTH" and rest != b"secret":
        return b"ERR wrong password"
    return {b"AUTH": b"SESSION 1", b"GET": rest.upper(), b"PING": b"PONG", b"RESET": b"OK"}.get(
        word, b"ERR what?"
    )


async def test_a_client_with_all_hooks() -> None:
    names = run("lifecycle")
    with Server(Lines(store)) as server:
        async with names["manager"]("secret") as mgr:
            client = names["Store"](mgr, server.host, server.port)
            assert await client.ask("GET x") == "X"
            with pytest.raises(names["Refused"]):
                await client.ask("DROP x")
        async with names["manager"]("wrong") as mgr:
            with pytest.raises(SetupError, match="wrong password"):
                await names["Store"](mgr, server.host, server.port).ask("GET x")


async def test_the_client_made_shared() -> None:
    names = run("shared")
    with Server(Lines(store)) as server:
        async with ConnectionManager(lifecycles={"store": names["SharedStore"]()}) as mgr:
            found: list[str] = []

            async def ask(n: int) -> None:
                found.append(await names["ask"](mgr, server.host, server.port, f"GET x{n}"))

            async with anyio.create_task_group() as tasks:
                for n in range(20):
                    tasks.start_soon(ask, n)
            assert sorted(found) == sorted(f"X{n}" for n in range(20))
            assert server.accepted == 1


def test_settings_of_single_keys() -> None:
    assert isinstance(run("settings")["mgr"], ConnectionManager)


async def test_limits_at_run_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines()) as server:
        await run("limits")["main"](server.host, server.port)
    assert capsys.readouterr().out == "2\n"


async def test_a_report_of_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines()) as server:
        async with ConnectionManager() as mgr, mgr.allocate("lines", server.host, server.port, 5):
            run("stats")["report"](mgr)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1 open: 1 lent, 0 idle; 0 waiting, 0 without an attempt"
    assert second == f"lines://{server.host}:{server.port}: 1 opened, 0 reused, {{}}"


async def test_a_test_of_ones_client() -> None:
    await run("testing")["test_a_connection_is_reused"]()


async def test_fakes() -> None:
    await run("fakes")["test_a_ping"]()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_virtual_time(backend: str) -> None:
    run("virtual_time")["test_idle_connections_end"](backend)


async def test_a_fleet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Server(Lines()) as server, fleet_store(tmp_path) as redis:
        await run("fleet")["main"](redis.url, server.host, server.port)
    assert capsys.readouterr().out.splitlines() == ["b'HELLO\\n'", "1 members"]


# -- its parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["options", "schemes", "contexts"])
def test_managers_of_ones_own(name: str) -> None:
    names = run(name)
    assert isinstance(names["mgr"], ConnectionManager)
    if "choose" in names:
        key = next(iter(names["contexts"]))
        assert names["contexts"][key] is names["bank_context"]


def gateway(line: bytes) -> bytes:
    return b"OK" if line == b"TUNNEL far.test:7" else b"NO" if line.startswith(b"TUNNEL") else line


async def test_connector_of_ones_own() -> None:
    connector: Connector = run("connector")["GatewayConnector"]()
    with Server(Lines(gateway)) as server:
        async with ConnectionManager(connectors={"t": connector}) as mgr:
            async with mgr.allocate(
                "t", server.host, server.port, 5, for_addr="far.test", for_port=7
            ) as conn:
                await conn.send(b"through\n")
                assert await conn.receive() == b"through\n"
            with pytest.raises(ConnectError) as caught:
                await mgr.allocate("t", server.host, server.port, 5, for_addr="elsewhere.test")
            assert caught.value.function == "gateway"
            assert "the gateway said no" in str(caught.value)


async def test_a_manager_behind_a_proxy(tls_server: Server, client_context: ssl.SSLContext) -> None:
    tls = TLSConnector(client_context, "localhost")
    with HttpProxy(tls_server) as proxy:
        async with (
            run("proxy")["manager_behind"](f"http://{proxy.host}:{proxy.port}", tls) as mgr,
            mgr.allocate("https", "target.test", 443, 5) as conn,
        ):
            await conn.send(b"through")
            assert await conn.receive() == b"through"
    assert run("proxy")["manager_behind"]("socks5://proxy.test", tls)


async def test_keys_that_name_proxy_and_target(tls_server: Server, client_context: ssl.SSLContext) -> None:
    tls = TLSConnector(client_context, "localhost")
    with HttpProxy(tls_server) as proxy:
        conn: Connection = await run("proxy_keys")["main"](proxy.host, proxy.port, tls)
        assert (conn.addr, conn.for_addr) == (proxy.host, "example.com")


async def test_resolver_of_ones_choice() -> None:
    with NameServer(Zone({"service.test": ["60 A 127.0.0.1"]})) as names, Server(Lines()) as server:
        assert await run("resolver")["main"](names.address, server.port) == b"HELLO\n"


async def test_resolver_of_ones_own() -> None:
    with Server(Lines()) as server:
        async with (
            run("own_resolver")["manager"]({"db": server.host}) as mgr,
            mgr.allocate("lines", "db", server.port, 5) as conn,
        ):
            assert conn.addr == "db"


# -- the other clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["redis_py", "redis_commands", "redis_shared"])
async def test_redis(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], anyio_backend: tuple[str, object]
) -> None:
    if name == "redis_py" and anyio_backend[0] == "trio":
        pytest.skip("redis-py's asyncio client does not run on trio")
    with redis_server(tmp_path) as server:
        if name == "redis_py":
            await run(name)["main"](f"redis://{server.host}:{server.port}/0")
        else:
            await run(name)["main"](server.host, server.port)
    told = {
        "redis_py": "b'hello' 1\n",
        "redis_commands": "[42, b'42']\nWRONGTYPE\n",
        "redis_shared": "b'100' 1\n",
    }
    assert capsys.readouterr().out == told[name]


@pytest.mark.parametrize("name", ["http", "httpx"])
async def test_http(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Script()) as server:
        await run(name)["main"](f"http://127.0.0.1:{server.port}/")
        assert server.accepted == 1
    assert "200" in capsys.readouterr().out


async def test_borrowing(tmp_path: Path, echo_server: Server) -> None:
    async with agent_here(tmp_path) as ag:
        assert await run("borrow")["ask"](ag.path, echo_server.host, echo_server.port) == b"PING"


async def test_application_with_an_agent(
    tmp_path: Path, http_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = run("agent_app")["app"]
    said: list[dict[str, Any]] = []
    begun, over = anyio.Event(), anyio.Event()

    async def receive() -> dict[str, Any]:
        if begun.is_set():
            await over.wait()
        begun.set()
        return {}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    async with agent_here(tmp_path) as ag, anyio.create_task_group() as group:
        monkeypatch.setenv("AGENT", ag.path)
        monkeypatch.setenv("UPSTREAM", f"http://127.0.0.1:{http_server.port}/")
        group.start_soon(app, {"type": "lifespan"}, receive, send)
        await until(lambda: bool(said))
        for _ in range(3):
            await app({"type": "http"}, receive, send)
        over.set()
    assert [message.get("body") for message in said].count(b"hello") == 3
    assert said[-1] == {"type": "lifespan.shutdown.complete"}
    assert http_server.accepted == 1


async def test_many_connections(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines(), backlog=1024) as server:
        await run("multi")["main"](server.port)
    assert capsys.readouterr().out == "1000 answers\n"


def test_a_filter_of_ones_own() -> None:
    lines = run("filter")["JSONLines"]()
    buffer = bytearray(lines.encode({"n": 1}) + b'{"n"')
    assert lines.decode(buffer) == {"n": 1}
    assert lines.decode(buffer) is None
    buffer += b": 2}\n"
    assert lines.decode(buffer) == {"n": 2}
    assert not buffer


async def test_sip(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("sip")
    async with open_leg("tcp", "127.0.0.1", 0) as pool:
        names["Answering"](pool)
        port = pool.master.getsockname()[1]
        await names["ask"](port)
    assert capsys.readouterr().out == f"200 from 127.0.0.1:{port}\n"


async def test_a_registrar() -> None:
    register = b"".join(
        [
            b"REGISTER sip:127.0.0.1 SIP/2.0\r\n",
            b"Via: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKregister\r\n",
            b"From: <sip:me@127.0.0.1>;tag=1\r\nTo: <sip:me@127.0.0.1>\r\n",
            b"Call-ID: register\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n",
        ]
    )
    gone = anyio.Event()

    class Registrar(run("registrar")["Registrar"]):  # type: ignore[misc]  # what an example defines has no type
        def lost(self, source: Source, reason: str) -> None:
            super().lost(source, reason)
            gone.set()

    async with open_leg("tcp", "127.0.0.1", 0) as pool:
        registrar = Registrar(pool)
        port = pool.master.getsockname()[1]
        async with ConnectionManager() as mgr, mgr.allocate("lines", "127.0.0.1", port, 5) as conn:
            await conn.send(register)
            assert (await conn.receive()).startswith(b"SIP/2.0 200 OK")
        with anyio.fail_after(10):
            await gone.wait()
        assert len(registrar.gone) == 1
