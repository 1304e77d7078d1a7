"""``keepalive sip-ping``: OPTIONS to a SIP server, as ping does it."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import click

from keepalive import DNSResolver, printable
from keepalive.sip import SendError, SipConfig, SipTLS, open_leg, resolve_host

from .screen import complain

if TYPE_CHECKING:
    from keepalive.abc import Resolver
    from keepalive.sip import SocketPool, Source


@dataclass(frozen=True, slots=True)
class PingOptions:
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
    """One run of the command; its numbers are good at any moment.

    :param resolver: turns a name into addresses
    """

    def __init__(self, ping: PingOptions, resolver: Resolver | None = None) -> None:
        self._options = ping
        self._resolver = DNSResolver() if resolver is None else resolver
        self.sent = 0
        self.times: list[float] = []

    async def run(self) -> None:
        """Send the requests, one after the other; say a line for each."""
        ping = self._options
        if ping.proto != "udp":
            await self._run_at(ping.host, "::" if ":" in ping.host else "0.0.0.0", last=True)
            return
        try:
            with anyio.fail_after(ping.timeout):
                found = await resolve_host(ping.host, self._resolver)
        except SendError as exc:
            self._fail(f"{ping.where}: resolve: {exc.error_str}")
        except TimeoutError:
            self._fail(f"{ping.where}: resolve: no answer within {ping.timeout:g} s")
        else:
            for addr in found:
                if await self._run_at(addr, "::" if ":" in addr else "0.0.0.0", last=addr == found[-1]):
                    break

    async def _run_at(self, addr: str, local: str, *, last: bool) -> bool:
        """Send all requests to one address, unless nobody is there and another one may be tried."""
        ping = self._options
        tls = SipTLS(verify_server=not ping.insecure) if ping.proto == "tls" else None
        config = SipConfig(raw=True, connect_timeout=ping.timeout, resolver=self._resolver)
        fixed = ping.proto == "udp"  # only a connected socket is told when nobody listens there
        dst = (addr, ping.port) if fixed else None
        try:
            leg = open_leg(ping.proto, local, 0, dst=dst, connected=fixed, tls=tls, config=config)
        except OSError as exc:  # no way there
            if last:
                self._fail(f"{ping.where}: {exc.strerror or printable(str(exc))}")
            return last
        async with leg as pool:
            for number in range(ping.count):
                if number:
                    await anyio.sleep(ping.interval)
                self.sent += 1
                try:
                    await self._one(pool)
                except _Nobody as exc:
                    if not last and not number:
                        self.sent = 0
                        return False
                    click.echo(f"Error: {ping.where}: {exc}", err=True)
        return True

    def _fail(self, text: str) -> None:
        self.sent += 1
        click.echo(f"Error: {text}", err=True)

    async def _one(self, pool: SocketPool) -> None:
        """Ask once.

        :raises _Nobody: nobody listens there
        """
        ping = self._options
        branch = f"z9hG4bK{token_hex(8)}"
        started = time.perf_counter()
        answer = _Answer(branch)
        pool.attach(answer.take, answer.gone)
        try:
            with anyio.fail_after(ping.timeout):
                await pool.send_to(self._request(pool, branch), {"host": ping.host, "port": ping.port})
                line, source = await answer.wait()
        except SendError as exc:
            if exc.error_num == errno.ECONNREFUSED:
                raise _Nobody(exc.error_str) from exc
            complain(str(exc))
        except TimeoutError:
            complain(f"{ping.where}: no answer within {ping.timeout:g} s")
        else:
            took = time.perf_counter() - started
            self.times.append(took)
            click.echo(f"{line} from {source} over {ping.proto}: {took * 1000:.1f} ms")

    def _request(self, pool: SocketPool, branch: str) -> bytes:
        ping = self._options
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


class _Nobody(Exception):
    """Nobody is there to answer."""

    def __str__(self) -> str:
        return f"port closed: {self.args[0]}"


class _Answer:
    """The final response to one request, or why there is none."""

    def __init__(self, branch: str) -> None:
        self._branch = branch.encode()
        self._come = anyio.Event()
        self._found: tuple[str, Source] | None = None
        self._lost = ""

    def take(self, packet: Any, source: Source) -> None:
        """Look at what was received."""
        first, _, rest = packet.partition(b"\r\n")
        if first.startswith(b"SIP/2.0 ") and not first.startswith(b"SIP/2.0 1") and self._branch in rest:
            self._found = printable(first[8:], 200), source
            self._come.set()

    def gone(self, source: Source, reason: str) -> None:
        """Learn that nothing will come any more."""
        self._lost = reason
        self._come.set()

    async def wait(self) -> tuple[str, Source]:
        """Return its first line without the version, and who gave it.

        :raises SendError: nothing will come
        """
        await self._come.wait()
        if self._found is None:
            raise _ending(self._lost)
        return self._found


def _ending(reason: str) -> Exception:
    if reason == "unreachable":
        return _Nobody("the host says so (ICMP)")
    return SendError("the server", reason, None, "the connection ended before the answer")
