"""Reading up to a delimiter, or so many bytes: what is read too far stays on the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import ClosedResourceError, DelimiterNotFound, IncompleteRead

from tests.support import Echo, Lines

if TYPE_CHECKING:
    from tests.support.wires import Wire


async def test_what_is_left_over_comes_first(net: Wire) -> None:
    with net.serve(Echo()) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            await conn.send(b"one\r\ntwo\r\nthree, four")
            assert await conn.receive_until(b"\r\n", 100) == b"one"
            assert await conn.receive_until(b"\r\n", 100) == b"two"
            assert await conn.receive_exactly(0) == b""
            assert await conn.receive_exactly(5) == b"three"
            assert await conn.receive(1) == b","
            assert await conn.receive_exactly(5) == b" four"
        assert manager.stats().open == 0


async def test_bytes_left_over_are_unread_at_release(net: Wire) -> None:
    with net.serve(Echo()) as server:
        async with net.manager() as manager:
            async with net.ask(manager, server) as conn:
                await conn.send(b"line\n")
                assert await conn.receive_until(b"\n", 5) == b"line"
            assert manager.stats().idle == 1
            async with net.ask(manager, server) as conn:
                assert conn.uses == 2
                await conn.send(b"line\nextra")
                assert await conn.receive_until(b"\n", 100) == b"line"
                assert await conn.receive_exactly(2) == b"ex"
            assert (manager.stats().open, manager.stats().closed["unread"]) == (0, 1)


async def test_a_failure_or_cancellation_loses_no_byte(net: Wire) -> None:
    with net.serve(Echo()) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            await conn.send(b"0123456789")
            with pytest.raises(DelimiterNotFound):
                await conn.receive_until(b"9", 9)
            with anyio.move_on_after(0.05):
                await conn.receive_until(b"x", 1000)
            with anyio.move_on_after(0.05):
                await conn.receive_exactly(11)
            assert await conn.receive_until(b"89", 10) == b"01234567"
            for bad in (conn.receive_until(b"", 1), conn.receive_until(b"x", 0), conn.receive_exactly(-1)):
                with pytest.raises(ValueError, match="must"):
                    await bad
        with pytest.raises(ClosedResourceError):
            await conn.receive_exactly(0)


async def test_an_end_before_is_an_incomplete_read(net: Wire) -> None:
    with net.serve(Lines()) as server:
        async with net.manager() as manager, net.ask(manager, server) as conn:
            await conn.send(b"a\n")
            await conn.send_eof()
            with pytest.raises(IncompleteRead):
                await conn.receive_exactly(100)
            with pytest.raises(IncompleteRead):
                await conn.receive_until(b"never", 100)
            assert await conn.receive()
