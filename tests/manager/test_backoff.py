"""After failures in a row a key is left alone for a while: requests learn it at once, one probe ends it."""

from __future__ import annotations

import anyio
import pytest

from keepalive import ConnectError, ConnectionManager, Key, ResolveError, StaticResolver
from tests.support import Server, refused_port
from tests.support.connectors import FunctionConnector
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.waiting import turns

KEY = Key("http", "127.0.0.1", 1, "http", "127.0.0.1", 1)


class Switch:
    """A connector that refuses until told otherwise, and counts."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.up = False
        self.tries = 0
        self.opener = FunctionConnector(self.connect)

    async def connect(self, dial: object) -> object:
        self.tries += 1
        if not self.up:
            raise ConnectionRefusedError(111, "no")
        return await dial.connect_tcp(self.server.host, self.server.port)  # type: ignore[attr-defined]  # a Dial


async def fail(mgr: ConnectionManager, server: Server, timeout: float = 5) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        await ask(mgr, server, timeout=timeout)
    return caught.value


async def test_requests_fail_at_once_while_a_key_pauses(echo_server: Server) -> None:
    switch, seen = Switch(echo_server), Recorder()
    options = {"connectors": {"http": switch.opener}, "observer": seen}
    async with ConnectionManager(pause_after=3, max_per_host=1, **options) as mgr:  # type: ignore[arg-type]  # mixed
        for _ in range(3):
            assert "pause" not in str(await fail(mgr, echo_server))
        assert switch.tries == 3
        error = await fail(mgr, echo_server)
        assert switch.tries == 3, "an attempt in a pause"
        assert (error.function, error.error_num) == ("connect", 111)
        assert "no new attempt for a while, after 3 failures in a row" in str(error)
        assert mgr.stats().failed == {"connect": 4}
        assert mgr.stats().open == mgr.stats().waiting == 0


async def test_one_probe_after_the_pause_and_all_is_well(echo_server: Server) -> None:
    switch = Switch(echo_server)
    async with ConnectionManager(pause_after=1, max_per_host=2, connectors={"http": switch.opener}) as mgr:
        async with await mgr.allocate("other", echo_server.host, echo_server.port) as conn:
            await exchange(conn)  # another key is not concerned
        await fail(mgr, echo_server)
        switch.up = True
        with anyio.fail_after(5):
            while True:
                try:
                    conn = await ask(mgr, echo_server)
                    break
                except ConnectError:
                    await anyio.sleep(0.01)  # until the pause of 0.1 s is over
        assert switch.tries == 2
        async with conn, await ask(mgr, echo_server) as second:
            await exchange(conn)
            await exchange(second)


async def test_many_waiters_learn_of_it_together(echo_server: Server) -> None:
    switch = Switch(echo_server)
    async with ConnectionManager(pause_after=4, max_per_host=2, connectors={"http": switch.opener}) as mgr:
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(fail, mgr, echo_server)
        assert switch.tries <= 5
        assert mgr.stats().failed == {"connect": 100}


async def test_who_waits_for_a_lent_connection_goes_on_waiting(echo_server: Server) -> None:
    switch = Switch(echo_server)
    switch.up = True
    async with ConnectionManager(pause_after=1, max_per_host=2, connectors={"http": switch.opener}) as mgr:
        conn = await ask(mgr, echo_server)
        switch.up = False
        await fail(mgr, echo_server)
        request = ask(mgr, echo_server, timeout=5)
        assert mgr.stats().queued == 1
        conn.release()
        async with request as second:
            assert second.from_cache == "deferred"
        conn = await ask(mgr, echo_server)
        last = ask(mgr, echo_server, timeout=5)
        assert mgr.stats().queued == 1
        conn.discard()
        with pytest.raises(ConnectError, match="no new attempt"):
            await last


async def test_without_the_option_each_request_is_tried() -> None:
    with refused_port() as port:
        async with ConnectionManager() as mgr:
            for _ in range(20):
                with pytest.raises(ConnectError):
                    await mgr.allocate("http", "127.0.0.1", port, 5)
            assert mgr.stats().failed == {"connect": 20}


async def test_names_that_fail_pause_too() -> None:
    async with ConnectionManager(resolver=StaticResolver({}), pause_after=2) as mgr:
        for n in range(3):
            with pytest.raises(ResolveError) as caught:
                await mgr.allocate("http", "nowhere.test", 1, 5)
            assert ("no new attempt" in str(caught.value)) == (n == 2)
        assert mgr.stats().failed == {"resolve": 3}


async def test_shutdown_in_a_pause_leaves_nothing(echo_server: Server) -> None:
    switch = Switch(echo_server)
    async with ConnectionManager(pause_after=1, connectors={"http": switch.opener}) as mgr:
        await fail(mgr, echo_server)
        mgr.shutdown()
        await turns()


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("pause_after", 0, ValueError),
        ("pause_after", "3", TypeError),
        ("max_pause", 0, ValueError),
        ("max_pause", float("nan"), ValueError),
    ],
)
def test_bad_arguments(argument: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=argument):
        ConnectionManager(**{argument: value})  # type: ignore[arg-type]  # that is the test
