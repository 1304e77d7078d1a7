"""The random walk over the real shell, see `walk`; WALK_SEED=3 in the environment walks another way."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from keepalive import ConnectionManager, TLSConnector
from tests.support import Server, full_backlog, refused_port
from tests.support.recorder import Recorder

from .story import check_story
from .users import Place
from .walk import Walk

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

SEEDS = [int(os.environ["WALK_SEED"])] if "WALK_SEED" in os.environ else [1, 2, 3]


@pytest.fixture
def places(echo_server: Server, tls_server: Server, unix_server: Server) -> Iterator[list[Place]]:
    with Server() as shared:
        yield [
            Place("t", echo_server.host, echo_server.port, None, echo_server),
            Place("tls", tls_server.host, tls_server.port, None, tls_server),
            Place("unix", unix_server.host, 0, None, unix_server),
            *[Place("t", shared.host, shared.port, name, shared) for name in "abc"],
        ]


@pytest.fixture
def dead() -> Iterator[list[Place]]:
    with refused_port() as refused, full_backlog() as hanging:
        yield [Place("t", "127.0.0.1", refused), Place("t", hanging.host, hanging.port)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_walk(
    seed: int, places: list[Place], dead: list[Place], client_context: ssl.SSLContext
) -> None:
    recorder = Recorder()
    options: dict[str, Any] = {
        "max_per_host": 3,
        "max_open": 8,
        "keep_alive": 0.05,
        "connectors": {"tls": TLSConnector(client_context, server_hostname="localhost")},
        "observer": recorder if seed % 2 else None,
    }
    limits: dict[str, Any] = {}
    if seed % 3 == 0:  # connections that end all the time, and requests that are turned away
        limits = {"max_waiting": 6, "connect_timeout": 0.1}
        options |= {"max_uses": 4, "max_lifetime": 0.1, **limits}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            async with ConnectionManager(**options) as manager:
                walk = Walk(seed, manager, places, dead, **limits)
                await walk.run()
                for server in walk.fates:  # what is idle expires
                    await server.until(lambda server: not server.connections)
            check_story(recorder.events)
        except BaseException as exc:
            exc.add_note(f"the walk's seed was {seed}: set WALK_SEED={seed}")
            raise
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == walk.dropped
    assert all("was dropped without being given back" in text for text in texts), set(texts)
    assert walk.served > 100
