"""Tunnels through SOCKS 5 proxies (RFC 1928, RFC 1929)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

from keepalive.base import arguments as settings
from keepalive.base.addresses import is_literal
from keepalive.base.failure import DialFailure
from keepalive.base.types import Phase

from .http_proxy import Answer, ProxyConnector, refusal, wire_host

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from socksio.socks5 import SOCKS5Connection

    from keepalive.connect.connector import Connector
    from keepalive.transport.link import Link

    from .dial import Dial
    from .tls import TLSConnector

_REPLIES = {
    1: (None, "general failure"),
    2: (errno.EACCES, "not allowed by its rules"),
    3: (errno.ENETUNREACH, "network unreachable"),
    4: (errno.EHOSTUNREACH, "host unreachable"),
    5: (errno.ECONNREFUSED, "connection refused"),
    6: (errno.EHOSTUNREACH, "time to live expired"),
    7: (errno.EOPNOTSUPP, "it knows no CONNECT"),
    8: (errno.EAFNOSUPPORT, "it does not support this kind of address"),
}
_ADDRESS_SIZES = {1: 4, 4: 16}


class SOCKS5Connector(ProxyConnector):
    """A tunnel through a SOCKS 5 proxy; and TLS inside where ``for_scheme`` asks for it.

    Needs the package ``socksio``, which ``keepalive-manager[socks]`` brings. With ``proxy``, keys name the
    target alone. Without it, ``addr`` and ``port`` of the key are the proxy's and the ``for_*`` parts the
    target's. A refusal by the proxy is a `ConnectError` whose ``function`` is "proxy".

    :param proxy: ``socks5://host:port`` (or ``socks5h://``, which means the same); the port is 1080 by
        default. It may hold credentials: ``socks5://user:password@host:port``, percent-encoded
    :param auth: user name and password, each of 1 to 255 bytes
    :param remote_dns: the proxy looks up the target's name; if False, the manager's resolver does, and
        its addresses are tried in turn
    :param over: the connector that reaches the proxy, by default `TCPConnector()`
    :param inside: what is done inside the tunnel, by ``for_scheme``; "https" is `TLSConnector()` unless
        this says otherwise, any other scheme nothing. Below a `TLSConnector` it is not looked at
    :raises ImportError: ``socksio`` is not installed
    :raises TypeError, ValueError: an argument is wrong; the message names it, and shows no credentials
    """

    _ports: ClassVar[dict[str, int]] = {"socks5": 1080, "socks5h": 1080}

    def __init__(
        self,
        proxy: str | None = None,
        *,
        auth: tuple[str, str] | None = None,
        remote_dns: bool = True,
        over: Connector | None = None,
        inside: Mapping[str, TLSConnector] | None = None,
    ) -> None:
        try:
            import socksio.exceptions
            import socksio.socks5
        except ImportError as exc:
            msg = "SOCKS5Connector needs the package socksio: pip install 'keepalive-manager[socks]'"
            raise ImportError(msg) from exc
        self._protocol = socksio.socks5
        self._confused = socksio.exceptions.ProtocolError
        super().__init__(proxy, auth, over, inside)
        self._remote_dns = settings.flag("remote_dns", remote_dns)
        self._user, self._password = (part.encode() for part in self._auth or ("", ""))
        if self._auth is not None and not (0 < len(self._user) < 256 and 0 < len(self._password) < 256):
            msg = "auth must have a user name and a password of 1 to 255 bytes each (RFC 1929)"
            raise ValueError(msg)

    async def tunnel(self, dial: Dial) -> Link:
        """Open one tunnel, and do nothing inside of it."""
        host, port = self._target(dial.key)
        if self._remote_dns or is_literal(host):
            return await self._through(dial, wire_host(host), port)
        first: DialFailure | None = None
        for address in await dial.resolve(host):
            try:
                return await self._through(dial, wire_host(address), port)
            except DialFailure as exc:
                if exc.phase != Phase.PROXY:
                    raise  # not even the proxy could be reached
                first = first or exc
        assert first is not None, "a resolution has at least one address"
        raise first

    async def _ask(self, dial: Dial, link: Link, host: str, port: int) -> None:
        machine, answer = self._protocol.SOCKS5Connection(), Answer(link)
        stream = dial.stream(link)
        try:
            await self._authenticate(machine, stream.send, answer)
            command = self._protocol.SOCKS5Command.CONNECT
            machine.send(self._protocol.SOCKS5CommandRequest.from_address(command, (host, port)))
            await stream.send(machine.data_to_send())
            machine.receive_data(await _read_reply(answer))
        except self._confused as exc:
            raise refusal(f"the proxy does not speak SOCKS 5: {exc}") from exc

    async def _authenticate(
        self, machine: SOCKS5Connection, send: Callable[[bytes], Awaitable[None]], answer: Answer
    ) -> None:
        methods = self._protocol.SOCKS5AuthMethod
        offered = [methods.NO_AUTH_REQUIRED, *([methods.USERNAME_PASSWORD] if self._auth else [])]
        machine.send(self._protocol.SOCKS5AuthMethodsRequest(offered))
        await send(machine.data_to_send())
        reply = await answer.exactly(2)
        if reply[:1] != b"\x05":
            raise refusal(f"the proxy does not speak SOCKS 5: it says {reply!r}")
        if reply[1:] not in offered:
            text = "wants credentials" if self._auth is None else "does not accept these credentials"
            raise refusal(f"the proxy {text} (method {reply[1]})", errno.EACCES)
        machine.receive_data(reply)
        if reply[1:] == methods.USERNAME_PASSWORD:
            machine.send(self._protocol.SOCKS5UsernamePasswordRequest(self._user, self._password))
            await send(machine.data_to_send())
            machine.receive_data(await answer.exactly(2))
            if machine.state is not self._protocol.SOCKS5State.CLIENT_AUTHENTICATED:
                raise refusal("the proxy refused the user name or the password", errno.EACCES)


async def _read_reply(answer: Answer) -> bytes:
    """Read the reply to a command exactly, and refuse all but success."""
    head = await answer.exactly(4)
    if head[0] != 5:
        raise refusal(f"the proxy does not speak SOCKS 5: it says {head!r}")
    if head[1]:
        number, text = _REPLIES.get(head[1], (None, "unknown"))
        raise refusal(f"the proxy answered {head[1]}: {text}", number)
    if head[3] == 3:
        await answer.exactly((await answer.exactly(1))[0] + 2)
    elif head[3] in _ADDRESS_SIZES:
        await answer.exactly(_ADDRESS_SIZES[head[3]] + 2)
    else:
        raise refusal(f"the proxy's answer has an unknown kind of address, {head[3]}")
    return head[:3] + b"\x01" + bytes(6)  # nobody wants its address, and socksio chokes on some
