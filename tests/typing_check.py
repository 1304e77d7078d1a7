"""The public API as a stranger's type checker sees it. Never run: mypy reads it with the rest."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, assert_type

from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSStream

import keepalive.abc
import keepalive.errors
from keepalive import (
    AllocateError,
    AllocateTimeout,
    CloseReason,
    Connection,
    ConnectionManager,
    Connector,
    Dial,
    DNSResolver,
    KeepaliveError,
    Key,
    KeyStats,
    Link,
    Observer,
    Request,
    RequestCancelled,
    Resolution,
    Resolver,
    Reuse,
    StaticResolver,
    Stats,
    SystemResolver,
    TCPConnector,
    TLSConnector,
    TLSError,
    UnixConnector,
)


class OwnResolver:
    """What a resolver needs: one method, no base class."""

    async def resolve(self, host: str) -> Resolution:
        return Resolution(("127.0.0.1",), ttl=60)


class OwnConnector:
    """What a connector needs: one method, no base class."""

    async def connect(self, dial: Dial) -> Link:
        link = await dial.connect_tcp(dial.key.addr, dial.key.port)
        stream = dial.stream(link)
        takes_a_stream(stream)
        await stream.send(b"CONNECT\n")
        dial.phase = "login"
        return await dial.start_tls(link, ssl.create_default_context(), dial.key.for_addr)


class OwnObserver(Observer):
    """An observer overrides what it wants to know."""

    def closed(self, key: Key, connection_id: int, reason: CloseReason) -> None:
        assert_type(key.for_addr, str)
        assert_type(reason.value, str)

    def lent(self, key: Key, connection_id: int, request_id: int, reuse: Reuse | None, waited: float) -> None:
        pass


def takes_a_stream(stream: ByteStream) -> None:
    BufferedByteReceiveStream(stream)


def make_managers() -> None:
    ConnectionManager()
    ConnectionManager(max_per_host=None, max_open=None, keep_alive=None, timeout=None, max_waiting=None)
    ConnectionManager(keep_alive=15, timeout=2.5, max_lifetime=60, max_uses=100, connect_timeout=3)
    ConnectionManager(bind_address="127.0.0.1")
    ConnectionManager(bind_address=("::1", 4000), reuse_dropped=True)
    ConnectionManager(resolver=OwnResolver(), observer=OwnObserver())
    for resolver in (StaticResolver({"a.test": "127.0.0.1", "b.test": ["::1"]}), SystemResolver(threads=2)):
        takes_a_resolver(resolver)
    takes_a_resolver(DNSResolver(["192.0.2.1", "[2001:db8::1]:53"], search=("a.test",), ndots=2, stale=60))
    DNSResolver(servers=[])  # type: ignore[call-arg]  # that is the test
    ConnectionManager(
        connectors={
            "https": TLSConnector(alpn=["h2"], server_hostname="a.test", over=OwnConnector()),
            "local": UnixConnector(),
            "plain": TCPConnector(),
            "own": OwnConnector(),
        }
    )
    ConnectionManager(max_open="many")  # type: ignore[arg-type]  # that is the test
    ConnectionManager(max_opened=5)  # type: ignore[call-arg]  # that is the test
    ConnectionManager(connectors={"t": object()})  # type: ignore[dict-item]  # that is the test
    ConnectionManager(resolver=StaticResolver)  # type: ignore[arg-type]  # that is the test


def takes_a_resolver(resolver: Resolver) -> None:
    takes_a_connector(TCPConnector())


def takes_a_connector(connector: Connector) -> None:
    pass


async def use_a_manager() -> None:
    async with ConnectionManager() as manager:
        assert_type(manager, ConnectionManager)
        request = manager.allocate(
            "http", "a.test", 80, 5, for_addr="b.test", context={"any": "thing"}, fresh=True
        )
        assert_type(request, Request)
        assert_type(request.id, int)
        assert_type(await request, Connection)
        assert_type(request.cancel(), bool)
        assert_type(manager.deallocate(request.id), bool)
        async with manager.allocate("http", "a.test", 80) as conn:
            assert_type(conn, Connection)
            use_a_connection(conn)
            assert_type(await conn.receive(), bytes)
            await conn.send(b"x")
            await conn.send_eof()
        async with await manager.allocate("unix", "/run/a.sock", 0, timeout=None) as conn:
            manager.free(conn)
            conn.release(keep_for=5)
            conn.discard()
            await conn.aclose()
        manager.set_limits(max_per_host=3)
        read_stats(manager.stats())
        manager.shutdown()
        await manager.aclose(grace=None)
        manager.allocate("http", "a.test", "80")  # type: ignore[arg-type]  # that is the test
        manager.allocate("http", "a.test")  # type: ignore[call-arg]  # that is the test


def use_a_connection(conn: Connection) -> None:
    takes_a_stream(conn)
    assert_type(conn.from_cache, Reuse | None)
    assert_type((conn.uses, conn.idle_for, conn.age), tuple[int, float, float])
    assert_type((conn.scheme, conn.addr, conn.port), tuple[str, str, int])
    assert_type((conn.for_scheme, conn.for_addr, conn.for_port), tuple[str, str, int])
    assert_type(conn.key, Key)
    assert_type(conn.context, object)
    assert_type(conn.extra(SocketAttribute.remote_port), int)
    assert_type(conn.from_cache == "deferred", bool)


async def wrap_a_connection(conn: Connection) -> None:
    assert_type(await TLSStream.wrap(conn, hostname="a.test"), TLSStream)


def read_stats(stats: Stats) -> None:
    assert_type((stats.open, stats.waiting, stats.requests), tuple[int, int, int])
    assert_type(stats.failed, Mapping[str, int])
    assert_type(stats.closed, Mapping[str, int])
    assert_type(stats.keys, Mapping[Key, KeyStats])
    stats.open = 5  # type: ignore[misc]  # that is the test


async def handle_errors(manager: ConnectionManager) -> None:
    try:
        await manager.allocate("https", "a.test", 443)
    except AllocateTimeout as exc:
        assert_type(exc.function, str)
        timeout: TimeoutError = exc
        takes_an_oserror(timeout)
    except TLSError as exc:
        takes_an_oserror(exc)
    except AllocateError as exc:
        assert_type((exc.error_num, exc.error_str), tuple[int | None, str])
        assert_type((exc.scheme, exc.addr, exc.port), tuple[str, str, int])
        assert_type(exc.context, object)
    except RequestCancelled as exc:
        root: KeepaliveError = exc
        raise root from None


def takes_an_oserror(error: OSError) -> None:
    pass


def submodules() -> tuple[Any, ...]:
    return keepalive.abc.Observer, keepalive.errors.QueueFull
