"""What a pool refuses to be made with, and to send."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from keepalive.sip import SendError, SipConfig, SipTLS, SocketPool, open_leg
from tests.sip.kit import leg, port_of, request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import Authority


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_header", 0, ValueError),
        ("max_header", None, TypeError),
        ("max_body", -1, ValueError),
        ("max_tid", "30", TypeError),
        ("min_expire", 0, ValueError),
        ("max_expire", 10.0, ValueError),
        ("connect_timeout", float("nan"), ValueError),
        ("connect_timeout", None, TypeError),
        ("max_connections", 0, ValueError),
        ("max_per_peer", 1.5, TypeError),
        ("mtu", 200, ValueError),
        ("oversize", "split", ValueError),
        ("raw", 1, TypeError),
        ("resolver", "8.8.8.8", TypeError),
    ],
)
def test_wrong_settings_are_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        SipConfig(**{name: value})


def test_wrong_arguments_are_named() -> None:
    # heritage sip 1.1, 1.2.
    udp = socket.socket(type=socket.SOCK_DGRAM)
    tcp, listener = socket.socket(), socket.create_server(("127.0.0.1", 0))
    tls: Any = SipTLS()
    with udp, tcp, listener:
        bad: list[tuple[Callable[[], object], str]] = [
            (lambda: SocketPool("sctp", udp), "proto"),  # type: ignore[arg-type]  # what is tested
            (lambda: SocketPool("tcp", udp), "listening TCP socket"),
            (lambda: SocketPool("udp", listener), "UDP socket"),
            (lambda: SocketPool("tcp", tcp), "listening"),
            (lambda: SocketPool("tls", listener), "tls must be given"),
            (lambda: SocketPool("tcp", listener, tls=tls), "tls must be given"),
            (lambda: SipTLS(verify_client=1), "verify_client needs cert"),
            (lambda: SocketPool("udp", udp, connected=True), "no peer"),
            (lambda: SocketPool("udp", udp, dst="a.test:5060"), "dst must be an address"),
            (lambda: open_leg("udp", "a.test"), "addr"),
            (lambda: open_leg("udp", port=70_000), "port"),
            (lambda: SipTLS(verify_client=2), "verify_client"),  # type: ignore[arg-type]  # as above
            (lambda: SipTLS(key="k"), "key"),
        ]
        for call, words in bad:
            with pytest.raises(ValueError, match=words):
                call()
        with pytest.raises(TypeError, match="sock"):
            SocketPool("udp", 7)  # type: ignore[arg-type]  # as above


def test_bad_certificate_files_fail_at_construction(tmp_path: Path) -> None:
    # heritage sip 1.31.
    (tmp_path / "bad.pem").write_text("nothing")
    for cert in (tmp_path / "missing.pem", tmp_path / "bad.pem"):
        with pytest.raises(OSError):  # noqa: PT011  # ssl.SSLError, FileNotFoundError
            open_leg("tls", "127.0.0.1", 0, tls=SipTLS(cert=cert))


async def test_wrong_sends_cost_nothing() -> None:
    async with leg() as pool:
        bad: list[tuple[Any, Any, type[Exception]]] = [
            (5, "a", TypeError),
            ("text", "a", TypeError),
            (b"", "a", ValueError),
            (b"hello\r\n\r\n", "a", ValueError),
            (request()[:-4], "a", ValueError),
            (request() + b"x", "a", ValueError),
            (request().replace(b"Content-Length: 0\r\n", b""), "a", ValueError),
            (request(), None, ValueError),
            (request(), "", ValueError),
            (request(), "a:b", ValueError),
            (request(), "a:70000", ValueError),
            (request(), "::1:5060:x", ValueError),
            (request(), ("a", "5060"), ValueError),
            (request(), ("a b", 1), ValueError),
            (request(), (5, 1), TypeError),
            (request(), object(), TypeError),
            (request(), {"port": 1}, TypeError),
        ]
        for packet, dst, error in bad:
            with pytest.raises(error):
                await pool.send_to(packet, dst)
            with pytest.raises(error):
                pool.send_soon(packet, dst)
        with pytest.raises(TypeError, match="callback"):
            pool.send_soon(request(), "a", 5)  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match="callback"):
            pool.attach(None)  # type: ignore[arg-type]  # as above
        assert pool.connections() == []


async def test_contexts_of_ones_own(tmp_path: Path, ca: Authority, client_context: ssl.SSLContext) -> None:
    tls = SipTLS(server_context=ca.server(), client_context=client_context)
    async with leg("tls", tls=tls) as pool, leg("tls", tls=tls) as other:
        await pool.send_to(request(), f"localhost:{port_of(other)}")
        await other.__anext__()
        with pytest.raises(SendError, match="certificate verify failed"):
            await pool.send_to(request(), {"host": "other.test", "addr": "127.0.0.1", "port": port_of(other)})
