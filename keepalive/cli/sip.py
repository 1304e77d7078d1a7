"""``keepalive sip-ping``: OPTIONS to a SIP server, as ping does it."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import click

from keepalive.sip import SendError, SipConfig, SipTLS, open_leg

if TYPE_CHECKING:
    from keepalive.sip import SocketPool, Source


@dataclass(frozen=True, slots=True)
class Ping:
    """What was asked for on the command line."""

    host: str
    port: int
    proto: Any  # "udp", "tcp" or "tls"
    count: int
    interval: float
    timeout: float
    insecure: bool

    @property
    def where(self) -> str:
        """The target as it stands in a URI."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_target(text: str, proto: str) -> tuple[str, int]:
    """Read HOST, HOST:PORT, [V6] or [V6]:PORT.

    :raises ValueError: it is none of these
    """
    default = 5061 if proto == "tls" else 5060
    host, _, port = text.rpartition(":")
    if (text.startswith("[") and text.endswith("]")) or (text.count(":") > 1 and not text.startswith("[")):
        host, port = text, ""
    elif not host:
        host, port = (text, "") if ":" not in text else ("", "x")
    if (port and not port.isdecimal()) or not host.strip("[]") or any(c.isspace() for c in host):
        raise ValueError(f"{text!r} is not HOST, HOST:PORT or [IPV6]:PORT")
    number = int(port) if port else default
    if not 1 <= number <= 65535:
        raise ValueError(f"{text!r}: a port is from 1 to 65535")
    return host.strip("[]"), number


class SipPing:
    """One run of the command; its numbers are good at any moment."""

    def __init__(self, ping: Ping) -> None:
        self._ping = ping
        self.sent = 0
        self.times: list[float] = []

    async def run(self) -> None:
        """Send the requests, one after the other; say a line for each."""
        ping = self._ping
        tls = None
        if ping.proto == "tls":
            tls = SipTLS(
                verify_server=not ping.insecure, server_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            )
        config = SipConfig(raw=True, connect_timeout=ping.timeout)
        addr = "::" if ":" in ping.host else "0.0.0.0"
        async with open_leg(ping.proto, addr, 0, tls=tls, config=config) as pool:
            for number in range(ping.count):
                if number:
                    await anyio.sleep(ping.interval)
                self.sent += 1
                await self._one(pool)

    async def _one(self, pool: SocketPool) -> None:
        ping = self._ping
        branch = f"z9hG4bK{token_hex(8)}"
        started = time.perf_counter()
        try:
            with anyio.fail_after(ping.timeout):
                await pool.send_to(self._request(pool, branch), {"host": ping.host, "port": ping.port})
                line, source = await _answer(pool, branch)
        except SendError as exc:
            click.echo(f"Error: {exc}", err=True)
        except TimeoutError:
            click.echo(f"Error: {ping.where}: no answer within {ping.timeout:g} s", err=True)
        else:
            took = time.perf_counter() - started
            self.times.append(took)
            click.echo(f"{line} from {source} over {ping.proto}: {took * 1000:.1f} ms")

    def _request(self, pool: SocketPool, branch: str) -> bytes:
        ping = self._ping
        me = f"keepalive.invalid:{pool.master.getsockname()[1]}"
        uri = f"sip:{ping.where}" + (";transport=tcp" if ping.proto == "tcp" else "")
        lines = (
            f"OPTIONS {uri} SIP/2.0",
            f"Via: SIP/2.0/{ping.proto.upper()} {me};branch={branch};rport",
            f"From: <sip:ping@{me}>;tag={token_hex(4)}",
            f"To: <{uri}>",
            f"Call-ID: {token_hex(12)}",
            "CSeq: 1 OPTIONS",
            "Max-Forwards: 70",
            "Accept: application/sdp",
            "Content-Length: 0",
        )
        return "\r\n".join([*lines, "", ""]).encode()

    def print_sum(self) -> None:
        """Tell all of them together."""
        lost = self.sent - len(self.times)
        text = f"{self.sent} sent, {len(self.times)} answered, {lost} lost"
        if len(self.times) > 1:
            least, most = min(self.times) * 1000, max(self.times) * 1000
            mean = sum(self.times) / len(self.times) * 1000
            text += f"; ms: least {least:.1f}, mean {mean:.1f}, most {most:.1f}"
        click.echo(text)


async def _answer(pool: SocketPool, branch: str) -> tuple[str, Source]:
    """Wait for the final response to a request; gives its first line without the version."""
    async for packet, source in pool:
        assert isinstance(packet, bytes), "the pool is a raw one"
        first, _, rest = packet.partition(b"\r\n")
        if first.startswith(b"SIP/2.0 ") and not first.startswith(b"SIP/2.0 1") and branch.encode() in rest:
            return first[8:].decode(errors="replace"), source
    raise TimeoutError
