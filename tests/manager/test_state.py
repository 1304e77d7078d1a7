"""What users keep with a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from keepalive import ConnectionManager

if TYPE_CHECKING:
    from tests.support import Server


async def test_what_is_kept_with_a_connection_stays_from_user_to_user(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        conn = await mgr.allocate("t", echo_server.host, echo_server.port)
        assert conn.state is None
        conn.state = "kept"
        conn.release()
        assert conn.state is None
        with pytest.raises(anyio.ClosedResourceError):
            conn.state = "not his any more"
        async with mgr.allocate("t", echo_server.host, echo_server.port) as conn:
            assert conn.state == "kept"
            other = await mgr.allocate("t", echo_server.host, echo_server.port)
            assert other.state is None
            other.discard()


async def test_a_key_is_one_however_it_is_named(echo_server: Server) -> None:
    async with ConnectionManager() as mgr:
        place = ("t", echo_server.host, echo_server.port)
        behind = {"for_scheme": "x", "for_addr": "far.test", "for_port": 7}
        for port in (7, 7, 7):
            behind["for_port"] = port
            async with mgr.allocate(*place, **behind) as conn:  # type: ignore[arg-type]  # mixed values
                assert conn.key == (*place, "x", "far.test", 7)
        with pytest.raises(TypeError, match="for_port"):
            mgr.allocate(*place, for_scheme="x", for_addr="far.test", for_port=7.0)  # type: ignore[arg-type]  # the mistake
        with pytest.raises(TypeError, match="for_addr"):
            mgr.allocate(*place, for_scheme="x", for_addr=[], for_port=7)  # type: ignore[arg-type]  # the mistake
        assert mgr.stats().opened == 1
