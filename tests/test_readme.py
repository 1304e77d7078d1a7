"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import keepalive
from keepalive import ConnectError, ConnectionManager, TLSConnector
from keepalive.sip import open_leg
from tests.http.kit import Script
from tests.support import Lines, Server
from tests.support.nameserver import NameServer, Zone
from tests.support.proxies import HttpProxy

if TYPE_CHECKING:
    import ssl

    from keepalive import Connector

README = Path(__file__).parent.parent / "README.md"


def example(name: str) -> dict[str, Any]:
    """Run the example of that name and return what it defines."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None, f"the README has no example {name!r}"
    names: dict[str, Any] = {}
    exec(compile(found[1], f"README.md: {name}", "exec"), names)
    return names


async def test_client_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines()) as server:
        await example("lines")["main"](server.port)
        assert server.peak == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101
    assert set(lines[:-1]) == {f"QUESTION {n}" for n in range(100)}


async def test_many_connections(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Lines(), backlog=1024) as server:
        await example("multi")["main"](server.port)
    assert capsys.readouterr().out == "1000 answers\n"


def gateway(line: bytes) -> bytes:
    return b"OK" if line == b"TUNNEL far.test:7" else b"NO" if line.startswith(b"TUNNEL") else line


async def test_connector_of_ones_own() -> None:
    connector: Connector = example("connector")["GatewayConnector"]()
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
            example("proxy")["manager_behind"](f"http://{proxy.host}:{proxy.port}", tls) as mgr,
            mgr.allocate("https", "target.test", 443, 5) as conn,
        ):
            await conn.send(b"through")
            assert await conn.receive() == b"through"
    assert example("proxy")["manager_behind"]("socks5://proxy.test", tls)


async def test_resolver_of_ones_choice() -> None:
    with NameServer(Zone({"service.test": ["60 A 127.0.0.1"]})) as names, Server(Lines()) as server:
        assert await example("resolver")["main"](names.address, server.port) == b"HELLO\n"


def test_socket_options_of_ones_own() -> None:
    assert isinstance(example("options")["mgr"], ConnectionManager)


@pytest.mark.parametrize("name", ["http", "httpx"])
async def test_http(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(Script()) as server:
        await example(name)["main"](f"http://127.0.0.1:{server.port}/")
        assert server.accepted == 1
    assert "200" in capsys.readouterr().out


async def test_sip(capsys: pytest.CaptureFixture[str]) -> None:
    names = example("sip")
    async with open_leg("tcp", "127.0.0.1", 0) as pool:
        names["Answering"](pool)
        port = pool.master.getsockname()[1]
        await names["ask"](port)
    assert capsys.readouterr().out == f"200 from 127.0.0.1:{port}\n"


def test_every_knob_and_error_is_told() -> None:
    text = README.read_text("utf-8")
    knobs = keepalive.ConnectionManager.__init__.__annotations__.keys() - {"return"}
    assert [knob for knob in knobs if f"| `{knob}`" not in text] == []
    errors = [name for name in keepalive.errors.__all__ if f"`{name}`" not in text]
    assert errors == []
