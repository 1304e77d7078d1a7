"""TLS with Net::SIP, both roles: certificates of either side, right ones and wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keepalive.sip import SendError, SipTLS
from tests.sip.kit import Callee, Caller, leg, port_of, request
from tests.sip.peers import loops_in_turn, net_sip, net_sip_uas, one_loop, run
from tests.support import Authority

if TYPE_CHECKING:
    from pathlib import Path


class Files:
    """Certificates on disk: ours, and one of an authority that nobody trusts."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.pair, self.ca = authority.write(folder, "localhost", "127.0.0.1", "::1")
        strange = folder / "strange"
        strange.mkdir()
        self.strange_pair, self.strange_ca = Authority().write(strange, "localhost", "127.0.0.1")

    def tls(self, **other: object) -> SipTLS:
        return SipTLS(**{"cert": self.pair, "ca": self.ca, **other})  # type: ignore[arg-type]  # by name


@pytest.fixture
def files(tmp_path: Path, ca: Authority) -> Files:
    return Files(tmp_path, ca)


@loops_in_turn("verify", 0, -1, 1)
async def test_net_sip_asks_us(files: Files, verify: int) -> None:
    async with leg("tls", tls=files.tls(verify_client=verify), raw=False) as pool:
        callee = Callee(pool)
        certificate = ["--cert", str(files.pair)] if verify else []
        argv = [
            *net_sip(),
            "uac",
            "--proto",
            "tls",
            "--dst",
            f"127.0.0.1:{port_of(pool)}",
            "--count",
            "20",
            "--raw",
        ]
        status, said = await run([*argv, "--ca", str(files.ca), *certificate], files.folder)
        assert status == 0, said
        assert callee.requests == {"OPTIONS": 20}
        assert pool.stats().accepted == 1


@one_loop("uvloop")
async def test_net_sip_without_certificate_is_refused(files: Files) -> None:
    # heritage sip 1.29.
    async with leg("tls", tls=files.tls(verify_client=1), raw=False) as pool:
        argv = [*net_sip(), "uac", "--proto", "tls", "--dst", f"127.0.0.1:{port_of(pool)}", "--timeout", "1"]
        status, said = await run([*argv, "--ca", str(files.ca)], files.folder)
        assert status == 1, said
        assert pool.stats().received == 0
        assert pool.stats().closed["tls"] >= 1


@loops_in_turn("verify", 0, 1)
async def test_we_ask_net_sip(files: Files, verify: int) -> None:
    more = ["--cert", str(files.pair), "--ca", str(files.ca), "--verify-client", str(verify)]
    with net_sip_uas(files.folder, "tls", *more) as port:
        async with leg("tls", tls=files.tls(), raw=False) as pool:
            caller = Caller(pool, f"127.0.0.1:{port}")
            for _ in range(20):
                await caller.options()
            assert caller.codes == {200: 20}
            assert pool.stats().opened == 1


async def test_client_certificate_refused_after_the_handshake(files: Files) -> None:
    # heritage sip 1.33.
    more = ["--cert", str(files.pair), "--ca", str(files.ca), "--verify-client", "1"]
    with net_sip_uas(files.folder, "tls", *more) as port:
        async with leg("tls", tls=files.tls(cert=files.strange_pair)) as pool:
            with pytest.raises(SendError) as caught:
                await pool.send_to(request(), f"127.0.0.1:{port}")
            assert caught.value.reason == "tls"


@one_loop("trio")
async def test_wrong_authority_and_wrong_name(files: Files) -> None:
    # heritage sip 1.28.
    peer = ["--cert", str(files.pair), "--ca", str(files.ca)]
    with net_sip_uas(files.folder, "tls", *peer) as port:
        async with leg("tls", tls=files.tls(ca=files.strange_ca)) as pool:
            with pytest.raises(SendError, match="certificate verify failed") as caught:
                await pool.send_to(request(), f"127.0.0.1:{port}")
            assert caught.value.reason == "tls"
    # A peer of its own: Net::SIP may end when a handshake fails under it.
    with net_sip_uas(files.folder, "tls", *peer) as port:
        async with leg("tls", tls=files.tls()) as pool:
            await pool.send_to(request(), {"host": "localhost", "addr": "127.0.0.1", "port": port})
            with pytest.raises(SendError, match="hostname verification failed"):
                await pool.send_to(request(), {"host": "other.test", "addr": "127.0.0.1", "port": port})


async def test_one_pool_calls_another(files: Files) -> None:
    # heritage sip 1.30.
    async with leg("tls", tls=files.tls(verify_client=1), raw=False) as callee:
        Callee(callee)
        async with leg("tls", tls=files.tls(), raw=False) as pool:
            caller = Caller(pool, f"localhost:{port_of(callee)}")
            await caller.calls(20, 4)
            assert caller.codes == {200: 40}
