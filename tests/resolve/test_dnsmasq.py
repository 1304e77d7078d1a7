"""dnsmasq: a name server that somebody else wrote."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from keepalive import ConnectionManager, DNSResolver, ResolveError
from tests.support.nameserver import NameServer
from tests.support.peers import dnsmasq
from tests.support.requests import exchange

from .test_lookups import names_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Server

MANY = [f"--host-record=many.test,192.0.2.{n},2001:db8::{n:x},7" for n in range(1, 200)]


async def test_dnsmasq(tmp_path: Path, echo_server: Server) -> None:
    """Short times to live, both families, CNAMEs, what is not there, truncation, a silent upstream."""
    with NameServer(lambda question: ()) as silent, anyio.fail_after(30):
        options = [
            "--host-record=host.test,127.0.0.1,3",
            "--host-record=both.test,192.0.2.1,2001:db8::1,5",
            "--cname=alias.test,both.test,2",
            "--txt-record=text.test,words",
            "--local=/test/",
            "--auth-ttl=4",
            f"--server=/silent.example/127.0.0.1#{silent.port}",
            *MANY,
        ]
        with dnsmasq(tmp_path, *options) as address:
            resolver = DNSResolver([address], hosts=None, timeout=2.0)
            found = await resolver.resolve("both.test")
            assert (set(found.addresses), found.ttl) == ({"192.0.2.1", "2001:db8::1"}, 5.0)
            found = await resolver.resolve("ALIAS.test.")
            assert (set(found.addresses), found.ttl) == ({"192.0.2.1", "2001:db8::1"}, 2.0)
            assert len((await resolver.resolve("many.test")).addresses) == 398
            for name in ("missing.test", "text.test"):
                with pytest.raises(socket.gaierror) as caught:
                    await resolver.resolve(name)
                assert getattr(caught.value, "ttl", None) is not None
            with pytest.raises(socket.gaierror, match="no answer"):
                await DNSResolver([address], hosts=None, timeout=0.05).resolve("a.silent.example")

            async with ConnectionManager(resolver=resolver, keep_alive=0) as mgr:
                for _ in range(2):
                    async with mgr.allocate("t", "host.test", echo_server.port, 5) as conn:
                        await exchange(conn)
                with pytest.raises(ResolveError, match="no such name"):
                    await mgr.allocate("t", "missing.test", 80, 5)


async def test_an_answer_that_changes(tmp_path: Path) -> None:
    """After its time to live the new one counts, here after the resolver's own upper bound."""
    zone = tmp_path / "zone"
    zone.mkdir()
    (zone / "hosts").write_text("192.0.2.1 moving.test\n")
    with dnsmasq(tmp_path, f"--hostsdir={zone}", "--local-ttl=60") as address, anyio.fail_after(30):
        resolver = DNSResolver([address], hosts=None, timeout=2.0, min_ttl=0, max_ttl=0.05)
        async with names_of(resolver) as names:
            assert await names.resolve("moving.test") == ("192.0.2.1",)
            (zone / "hosts").write_text("192.0.2.2 moving.test\n")  # dnsmasq notices
            while await names.resolve("moving.test") != ("192.0.2.2",):
                await checkpoint()
