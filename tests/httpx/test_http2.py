"""The transport with HTTP/2, side by side with the library's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx
import httpx2
import pytest

from keepalive.httpx import Transport
from tests.http2.kit import Asked, Origin
from tests.support import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Authority

LIBRARIES = [httpx2, httpx]


def secure(ca: Authority) -> Any:
    context = ca.server()
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def seen(lib: Any, transport: Any, url: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return what a request's trace tells, names and the names of what comes with them."""
    told: list[tuple[str, tuple[str, ...]]] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        told.append((name, tuple(sorted(info))))

    async with lib.AsyncClient(transport=transport) as client:
        for _ in range(2):
            await client.get(url, extensions={"trace": trace})
    return told


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_answers_are_told_as_the_librarys_own_transport_does(lib: Any, ca: Authority) -> None:
    origin = Origin({"/": lambda asked: asked.ok(b"hello", 200, (b"x-name", b"value"))})
    with Server(origin, tls=secure(ca)) as server:
        url = f"https://localhost:{server.port}/"
        answers = []
        for kind in (Transport, lib.AsyncHTTPTransport):
            transport = kind(verify=ca.client(), http2=True)
            async with lib.AsyncClient(transport=transport) as client:
                response = await client.post(url, content=b"x" * 100_000)
                extensions = dict(response.extensions)
                stream = extensions.pop("network_stream")
                assert stream.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
                answers.append((response.status_code, response.headers.raw, response.content, extensions))
        assert answers[0] == answers[1]
        assert answers[0][3] == {"http_version": b"HTTP/2", "stream_id": 1}
        assert [asked.body for asked in origin.asked] == [b"x" * 100_000] * 2
        assert dict(origin.asked[0].fields) == dict(origin.asked[1].fields)


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
async def test_traces_have_the_names_of_the_librarys_own(lib: Any, ca: Authority) -> None:
    with Server(Origin(), tls=secure(ca)) as server:
        url = f"https://localhost:{server.port}/"
        ours = await seen(lib, Transport(verify=ca.client(), http2=True), url)
        theirs = await seen(lib, lib.AsyncHTTPTransport(verify=ca.client(), http2=True), url)
    # When the server's settings come is chance, and with ours they belong to no request.
    assert ours == [event for event in theirs if "receive_remote_settings" not in event[0]]


async def test_without_tls_it_takes_prior_knowledge() -> None:
    with Server(Origin()) as server:
        transport = Transport(http1=False, http2=True)
        async with httpx2.AsyncClient(transport=transport) as client:
            response = await client.get(f"http://localhost:{server.port}/")
            assert response.http_version == "HTTP/2"


@pytest.mark.parametrize("lib", LIBRARIES, ids=["httpx2", "httpx"])
@pytest.mark.parametrize(
    ("route", "error"),
    [
        (lambda asked: asked.refuse(2), "RemoteProtocolError"),
        (lambda asked: asked.talk.peer.close(), "RemoteProtocolError"),
        (lambda asked: None, "ReadTimeout"),
    ],
)
async def test_errors_are_the_librarys(lib: Any, route: Callable[[Asked], None], error: str) -> None:
    with Server(Origin({"/": route})) as server:
        transport = Transport(http1=False, http2=True)
        async with lib.AsyncClient(transport=transport, timeout=lib.Timeout(5, read=0.1)) as client:
            with pytest.raises(getattr(lib, error)):
                await client.post(f"http://localhost:{server.port}/")


async def test_many_share_one_connection(ca: Authority) -> None:
    origin = Origin()
    with Server(origin, tls=secure(ca)) as server:
        url = f"https://localhost:{server.port}/"
        transport = Transport(verify=ca.client(), http2=True)
        async with httpx2.AsyncClient(transport=transport) as client:
            await client.get(url)
            async with anyio.create_task_group() as tasks:
                for _ in range(60):
                    tasks.start_soon(client.get, url)
        assert len(origin.talks) == 1
        assert len(origin.asked) == 61
