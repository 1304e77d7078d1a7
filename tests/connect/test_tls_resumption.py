"""Sessions are resumed: between whom, how often, and never where a full handshake would be refused."""

from __future__ import annotations

import random
import ssl
from typing import TYPE_CHECKING, Any, cast

import pytest
from anyio.streams.tls import TLSAttribute

from keepalive import AllocateError, ConnectionManager, Key, TLSConnector, TLSError, TLSSessionAttribute
from keepalive.transport import sessions as _sessions
from tests.support import Server
from tests.support.certs import House
from tests.support.connectors import FunctionConnector
from tests.support.peers import nginx
from tests.support.requests import ask, exchange
from tests.support.tunnel import Tunnel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Authority

KEY = Key("tls", "a.test", 1, "tls", "a.test", 1)
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def manager(connector: TLSConnector, **more: Any) -> ConnectionManager:
    """Make a manager that keeps nothing idle, so that every request dials."""
    return ConnectionManager(connectors={"tls": connector}, keep_alive=0, **more)


async def visit(mgr: ConnectionManager, server: Server, scheme: str = "tls", **more: Any) -> bool:
    """Make one exchange on a connection of its own; say whether its handshake resumed a session."""
    async with ask(mgr, server, scheme=scheme, timeout=5, **more) as conn:
        await exchange(conn)
        assert conn.from_cache is None
        reused = conn.extra(TLSSessionAttribute.session_reused)
        engine = conn.extra(TLSAttribute.ssl_object)
        assert isinstance(engine, ssl.SSLObject)
        assert engine.session_reused is reused
        return reused


# -- that it happens ---------------------------------------------------------------------------------


async def test_evict_starts_afresh(ca: Authority) -> None:
    """It is for changed certificates too, and a resumed handshake looks at none, its own or the peer's."""
    with Server(tls=ca.server()) as server, Server(tls=ca.server()) as other:
        async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
            for peer in (server, other):
                assert [await visit(mgr, peer) for _ in range(2)] == [False, True]
            async with ask(mgr, server, scheme="tls") as lent:
                await exchange(lent)
                mgr.evict("tls", server.host, server.port)
                await exchange(lent)
            assert [await visit(mgr, server) for _ in range(2)] == [False, True]
            assert await visit(mgr, other), "nobody spoke of that one"
            mgr.evict()
            assert not await visit(mgr, other)


@pytest.mark.parametrize("version", [V12, V13])
async def test_the_next_dial_resumes(version: ssl.TLSVersion, ca: Authority) -> None:
    """heritage pools 2.4, 3.34: what a connection has been told is used by the next one."""
    with Server(tls=ca.server(version=version)) as server:
        async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
            assert [await visit(mgr, server) for _ in range(4)] == [False, True, True, True]
            assert (mgr.stats().handshakes, mgr.stats().resumed) == (4, 3)
        await server.until(lambda server: server.resumed == 3)


async def test_sessions_in_the_server_s_memory(ca: Authority) -> None:
    """TLS 1.2 without tickets: the server knows the session by its number."""
    context = ca.server(version=V12)
    context.options |= ssl.OP_NO_TICKET
    with Server(tls=context) as server:
        async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
            assert [await visit(mgr, server) for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize("burst", [0.0, 3600.0])
async def test_each_ticket_once_but_in_a_burst(
    burst: float, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8446 C.4. With no time for a burst every dial offers a ticket of its own."""
    monkeypatch.setattr(_sessions, "BURST", burst)
    offered: list[ssl.SSLSession | None] = []
    shaken = _sessions.Shelf.shaken

    def note(self: Any, engine: Any, session: Any) -> None:
        offered.append(session)
        shaken(self, engine, session)

    monkeypatch.setattr(_sessions.Shelf, "shaken", note)
    with Server(tls=ca.server()) as server:
        async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
            assert [await visit(mgr, server) for _ in range(5)] == [False, True, True, True, True]
    assert len({session.id for session in offered if session is not None}) == (1 if burst else 4)


async def test_a_burst_resumes_as_a_whole(ca: Authority) -> None:
    with Server(tls=ca.server()) as server:
        async with manager(TLSConnector(ca.client(), "localhost"), max_per_host=8) as mgr:
            await visit(mgr, server)
            conns = [await request for request in [ask(mgr, server, scheme="tls") for _ in range(8)]]
            found = [conn.extra(TLSSessionAttribute.session_reused) for conn in conns]
            for conn in conns:
                conn.release()
            assert found == [True] * 8


async def test_a_lent_connection_s_ticket_serves_the_next_dial(ca: Authority) -> None:
    with Server(tls=ca.server()) as server:
        connector = TLSConnector(ca.client(), "localhost")
        async with manager(connector) as mgr, ask(mgr, server, scheme="tls") as conn:
            await exchange(conn)
            assert await visit(mgr, server)


async def test_a_real_server(ca: Authority, tmp_path: Path) -> None:
    """nginx resumes; restarted, it knows no old ticket and shakes hands in full."""
    pair, _ = ca.write(tmp_path)
    ports: list[int] = []
    way = FunctionConnector(lambda dial: dial.connect_tcp("127.0.0.1", ports[-1]))  # one key for both
    found = []
    async with manager(TLSConnector(ca.client(), "localhost", over=way)) as mgr:
        for folder in (tmp_path / "one", tmp_path / "two"):
            folder.mkdir()
            with nginx(folder, pair) as server:
                ports.append(server.tls_port)
                for _ in range(3):
                    async with mgr.allocate("tls", "nginx.test", 443, 5) as conn:
                        await conn.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        assert (await conn.receive()).startswith(b"HTTP/1.1 200")
                        found.append(conn.extra(TLSSessionAttribute.session_reused))
    assert found == [False, True, True] * 2


# -- that it does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V12, V13])
async def test_not_when_told_not_to(version: ssl.TLSVersion, ca: Authority) -> None:
    with Server(tls=ca.server(version=version)) as server:
        async with manager(TLSConnector(ca.client(), "localhost", resume=False)) as mgr:
            assert [await visit(mgr, server) for _ in range(3)] == [False] * 3
            assert (mgr.stats().handshakes, mgr.stats().resumed) == (3, 0)


async def test_not_without_tickets(ca: Authority) -> None:
    with Server(tls=ca.server(tickets=0)) as server:
        async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
            assert [await visit(mgr, server) for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("version", [V12, V13])
async def test_a_server_with_new_keys_does_a_full_handshake(version: ssl.TLSVersion, ca: Authority) -> None:
    async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
        with Server(tls=ca.server(version=version)) as server:
            assert [await visit(mgr, server) for _ in range(2)] == [False, True]
        with Server(tls=ca.server(version=version), port=server.port) as server:
            assert [await visit(mgr, server) for _ in range(3)] == [False, True, True]
    assert (mgr.stats().handshakes, mgr.stats().failed) == (5, {})


async def test_not_between_contexts(ca: Authority) -> None:
    """A session that nobody has verified never vouches for one that must be."""
    lax = ssl.create_default_context()
    lax.check_hostname, lax.verify_mode = False, ssl.CERT_NONE
    connectors = {"lax": TLSConnector(lax), "strict": TLSConnector(ssl.create_default_context())}
    with Server(tls=ca.server()) as server:
        async with ConnectionManager(connectors=connectors, keep_alive=0) as mgr:
            for _ in range(2):
                await visit(mgr, server, "lax", for_addr="localhost")
                with pytest.raises(TLSError, match="certificate verify failed"):
                    await visit(mgr, server, "strict", for_addr="localhost")


@pytest.mark.parametrize("version", [V12, V13])
async def test_not_when_the_context_s_rules_have_changed(version: ssl.TLSVersion, ca: Authority) -> None:
    """OpenSSL resumes it all the same, and verifies nothing: a session made under CERT_NONE would pass."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Server(tls=ca.server(version=version)) as server:
        async with manager(TLSConnector(context, "localhost")) as mgr:
            assert [await visit(mgr, server) for _ in range(2)] == [False, True]
            context.verify_mode = ssl.CERT_REQUIRED
            with pytest.raises(TLSError, match="certificate verify failed"):
                await visit(mgr, server)


async def test_not_for_another_name(ca: Authority) -> None:
    """The name is not verified again, so a session is good for its own name only."""
    with Server(tls=ca.server("one.test")) as server:
        async with manager(TLSConnector(ca.client())) as mgr:
            assert [await visit(mgr, server, for_addr="one.test") for _ in range(2)] == [False, True]
            with pytest.raises(TLSError, match=r"two\.test"):
                await visit(mgr, server, for_addr="two.test")


async def test_not_between_keys(ca: Authority) -> None:
    with Server(tls=ca.server()) as server:
        async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
            found = [await visit(mgr, server, for_port=port) for port in (1, 2, 1, 2)]
            assert found == [False, False, True, True]


# -- servers that are difficult ----------------------------------------------------------------------


async def test_a_server_that_demands_a_client_s_certificate() -> None:
    house = House()
    with Server(tls=house.server("localhost", wants_client=True)) as server:
        async with manager(TLSConnector(house.client(name="client.test"), "localhost")) as mgr:
            assert [await visit(mgr, server) for _ in range(3)] == [False, True, True]


class Grudge(Tunnel):
    """Break off every handshake in which a session is offered, as servers with a faulty set-up do."""

    offers = 0

    async def _agree(self, reader: Any, writer: Any) -> bool:
        hello = await reader.readexactly(5)
        hello += await reader.readexactly(int.from_bytes(hello[3:5], "big"))
        if offers_a_session(hello):
            self.offers += 1
            writer.write(b"\x15\x03\x03\x00\x02\x02\x50")  # fatal: internal_error
            return False
        reader.feed_data(hello)
        return True


def offers_a_session(hello: bytes) -> bool:
    """Say whether a record with a client hello has the extension pre_shared_key (RFC 8446 4.2.11)."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    at += 2
    while at < len(hello):
        if hello[at : at + 2] == b"\x00\x29":
            return True
        at += 4 + int.from_bytes(hello[at + 2 : at + 4], "big")
    return False


async def test_a_server_that_breaks_off_is_asked_again_without(ca: Authority) -> None:
    with Server(tls=ca.server()) as origin, Grudge(origin) as server:
        async with manager(TLSConnector(ca.client(), "localhost"), max_per_host=1) as mgr:
            for _ in range(4):
                async with mgr.allocate("tls", server.host, server.port, timeout=5) as conn:
                    await exchange(conn)
            assert server.offers == 1  # and it learned from that
            assert (mgr.stats().handshakes, mgr.stats().resumed, mgr.stats().failed) == (4, 0, {})
        assert origin.peak == 1


async def test_a_failure_without_a_session_is_one(ca: Authority) -> None:
    """No second attempt is made behind the user's back where no session was offered."""
    with Server(tls=ca.server("other.test")) as server:
        async with manager(TLSConnector(ca.client(), "localhost")) as mgr:
            with pytest.raises(TLSError):
                await visit(mgr, server)
        assert server.accepted == 1


# -- the store ---------------------------------------------------------------------------------------


class Engine:
    """As much of an SSL object as a shelf looks at."""

    def __init__(self, number: bytes = b"", *, reused: bool = False, version: str = "TLSv1.3") -> None:
        self.session = Session(number)
        self.session_reused = reused
        self._version = version

    def version(self) -> str:
        return self._version


class Session:
    """As much of a session."""

    def __init__(self, number: bytes, age: int = 0, hint: int = 7200) -> None:
        import time

        self.id = number
        self.time = int(time.time()) - age
        self.timeout = 7200
        self.has_ticket = bool(number)
        self.ticket_lifetime_hint = hint


def test_expired_tickets_are_not_offered() -> None:
    for age, hint, good in ((0, 100, True), (101, 100, False), (7201, 0, False), (60, 0, True)):
        shelf: Any = _sessions.Shelf()
        engine: Any = Engine()
        engine.session = Session(b"x", age, hint)
        shelf.shaken(engine, None)
        assert (shelf.offer() is not None) is good


def test_a_refused_ticket_takes_the_older_ones_with_it() -> None:
    shelf: Any = _sessions.Shelf()
    for number in (b"a", b"b"):
        shelf.shaken(Engine(number), None)
    session = shelf.offer()
    assert session.id == b"b"
    shelf.shaken(Engine(b""), session)
    assert shelf.offer() is None


def test_who_takes_each_ticket_once_is_given_each_once() -> None:
    shelf: Any = _sessions.Shelf()
    shelf.shaken(Engine(b"a"), None)
    first = shelf.offer()
    shelf.shaken(Engine(b"a", reused=True), first)
    assert shelf.offer() is first
    shelf.shaken(Engine(b"b"), first)  # not this time
    assert shelf.offer().id == b"b"
    shelf.shaken(Engine(b"c"), None)
    assert shelf.offer().id == b"c"


def test_what_is_kept_is_bounded() -> None:
    store, context = _sessions.Sessions(), ssl.create_default_context()
    kept = store.shelf(context, "kept", KEY, 0)
    for number in range(_sessions.PEERS * 3):
        store.shelf(context, str(number), KEY, 0)
        assert store.shelf(context, "kept", KEY, 0) is kept
    assert len(store._shelves) == _sessions.PEERS
    for number in range(100):
        engine: Any = Engine(b"%d" % number)
        kept.shaken(engine, None)
    assert len(kept._engines) == 2


class Clock:
    """Both clocks of the module, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1e9


@pytest.mark.parametrize("seed", range(12))
def test_a_walk_with_a_moody_peer(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tickets come or not, are honoured or not, handshakes overlap, break, and time goes by."""
    rng, clock = random.Random(seed), Clock()
    monkeypatch.setattr(_sessions, "time", clock)
    shelf: Any = _sessions.Shelf()
    first_offered: dict[bytes, float] = {}
    refused: set[bytes] = set()
    under_way: list[Any] = []
    broken_at, number, resumed = -1e9, 0, 0
    for _ in range(3000):
        clock.now += rng.choice([0.0, 0.001, 0.3, 1.5, 1000.0])
        if rng.random() < 0.6:
            offered = shelf.offer()
            under_way.append(offered)
            if offered is not None:
                assert clock.time() < offered.time + offered.ticket_lifetime_hint
                assert clock.now - first_offered.setdefault(offered.id, clock.now) < _sessions.BURST
                assert offered.id not in refused
                assert clock.now - broken_at >= _sessions.REFUSAL
        elif under_way:
            offered = under_way.pop(rng.randrange(len(under_way)))
            if rng.random() < 0.02 and offered is not None:
                shelf.broken()
                broken_at = clock.now
                continue
            reused = offered is not None and offered.id not in refused and rng.random() < 0.8
            resumed += reused
            if offered is not None and not reused:
                refused.add(offered.id)
            number += 1
            engine: Any = Engine(reused=reused)
            has_ticket = rng.random() < 0.8
            engine.session = Session(b"%d" % number, 0, 7200) if has_ticket else offered
            if has_ticket:
                engine.session.time = int(clock.time())
            shelf.shaken(engine, offered)
    assert resumed > 50


# -- contexts of one's own ---------------------------------------------------------------------------


async def test_a_context_for_each_key(ca: Authority) -> None:
    other = ssl.create_default_context()
    good = ca.client()
    asked: list[str] = []

    def choose(key: Any) -> ssl.SSLContext:
        asked.append(key.for_addr)
        return good if key.for_addr == "localhost" else other

    with Server(tls=ca.server(alpn=["x"])) as server:
        async with manager(TLSConnector(choose, alpn=["x"])) as mgr:
            assert [await visit(mgr, server, for_addr="localhost") for _ in range(2)] == [False, True]
            with pytest.raises(TLSError, match="certificate verify failed"):
                await visit(mgr, server, for_addr="stranger.test")
    assert asked == ["localhost", "localhost", "stranger.test"]


@pytest.mark.parametrize("answer", [None, "context", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)])
async def test_a_context_that_is_none(answer: Any, tls_server: Server) -> None:
    async with manager(TLSConnector(lambda _key: answer)) as mgr:
        with pytest.raises(AllocateError, match="what ssl_context returns for tls://") as caught:
            await visit(mgr, tls_server)
        assert isinstance(caught.value, TLSError)
        assert mgr.stats().open == 0


def test_wrong_arguments() -> None:
    wrong: Any = "context"
    with pytest.raises(TypeError, match="ssl_context"):
        TLSConnector(wrong)

    async def late(_key: Any) -> ssl.SSLContext:
        return ssl.create_default_context()

    with pytest.raises(TypeError, match="ssl_context must be a plain function"):
        TLSConnector(cast("Any", late))
    with pytest.raises(TypeError, match="standard_compatible"):
        TLSConnector(standard_compatible=wrong)
    with pytest.raises(TypeError, match="resume"):
        TLSConnector(resume=wrong)
