"""Tunnels through proxies: what all of them share, and HTTP's CONNECT (RFC 9110 9.3.6)."""

from __future__ import annotations

import base64
import errno
import os
import re
from abc import ABC, abstractmethod
from copy import copy
from typing import TYPE_CHECKING

from anyio import BrokenResourceError

from keepalive.base import arguments as settings
from keepalive.base.addresses import is_literal
from keepalive.base.failure import DialFailure
from keepalive.base.hostname import WrongName, ascii_name
from keepalive.base.text import printable
from keepalive.base.types import Phase
from keepalive.connect.connector import Connector
from keepalive.transport.stream import until_readable

from . import proxy_arguments
from .proxy_digest import Challenge, answerable, challenges, digest
from .tcp import TCPConnector, Tunnelling
from .tls import TLSConnector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import ClassVar

    from keepalive.base.types import Key
    from keepalive.transport.link import Link

    from .dial import Dial

MAX_HEAD = 16384
"""So many bytes may a proxy's answer have, interim answers included."""


class ProxyConnector(ABC):
    """What all connectors through a proxy do alike."""

    _ports: ClassVar[dict[str, int]]

    def __init__(
        self,
        proxy: str | None,
        auth: tuple[str, str] | None,
        over: Connector | None,
        inside: Mapping[str, TLSConnector] | None,
    ) -> None:
        settings.instance("over", over, Connector)
        self._auth = proxy_arguments.credentials(auth)
        self._proxy: tuple[str, int] | None = None
        self._url = ""
        below: Connector = TCPConnector() if over is None else over
        if proxy is not None:
            scheme, host, port, pair = proxy_arguments.proxy_url(proxy, self._ports)
            if pair is not None and self._auth is not None:
                msg = "auth must not be given beside a proxy that has credentials in its URL"
                raise ValueError(msg)
            self._auth = pair or self._auth
            self._proxy = host, port
            self._url = f"{scheme}://{authority(host, port)}"
            if scheme == "https" and not isinstance(below, TLSConnector):
                below = TLSConnector(over=below)
        self._below = below.tunnel if isinstance(below, Tunnelling) else below.connect
        self._inside: dict[str, TLSConnector] = {"https": TLSConnector(), **(inside or {})}
        for name, layer in self._inside.items():
            settings.text("inside's scheme", name)
            settings.instance(f"inside[{name!r}]", layer, TLSConnector, none=False)

    async def connect(self, dial: Dial) -> Link:
        """Open one connection; see `Connector.connect`."""
        layer = self._inside.get(dial.key.for_scheme)
        return await (self.tunnel(dial) if layer is None else layer.connect_over(dial, self.tunnel))

    async def tunnel(self, dial: Dial) -> Link:
        """Open one tunnel, and do nothing inside of it."""
        host, port = self._target(dial.key)
        return await self._through(dial, wire_host(host), port)

    def _target(self, key: Key) -> tuple[str, int]:
        host, port = (key.for_addr, key.for_port) if self._proxy is None else (key.addr, key.port)
        if self._proxy is None and (host, port) == (key.addr, key.port):
            raise refusal(
                "no target: for_addr and for_port must say what lies behind the proxy", errno.EINVAL
            )
        if not port:
            raise refusal("port 0 cannot be reached through a proxy", errno.EINVAL)
        return host, port

    async def _through(self, dial: Dial, host: str, port: int) -> Link:
        proxy = self._proxy or (dial.key.addr, dial.key.port)
        try:
            link = await self._below(dial.toward(*proxy))
        except (OSError, BrokenResourceError, DialFailure) as exc:
            failure = dial.failure(exc)
            where = f"{failure.text} (on the way to the proxy {authority(*proxy)})"
            raise DialFailure(failure.phase, failure.number, where) from failure.__cause__
        dial.phase = Phase.PROXY
        try:
            await self._ask(dial, link, host, port)
        except BaseException:
            dial.give_up(link)
            raise
        return link

    @abstractmethod
    async def _ask(self, dial: Dial, link: Link, host: str, port: int) -> None:
        """Ask the proxy for a tunnel; read not a byte more than its answer."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._url or 'to the address of each key'}>"


class HTTPProxyConnector(ProxyConnector):
    """A tunnel through an HTTP proxy, by CONNECT; and TLS inside where ``for_scheme`` asks for it.

    With ``proxy``, keys name the target alone, and this connector knows the way. Without it, ``addr`` and
    ``port`` of the key are the proxy's and the ``for_*`` parts the target's. A refusal by the proxy is a
    `ConnectError` whose ``function`` is "proxy". The proxy looks up the target's name.

    :param proxy: ``http://host:port``, or ``https://host:port`` for TLS with the proxy itself; ports
        are 80 and 443 by default. It may hold credentials: ``http://user:password@host:port``,
        percent-encoded
    :param auth: user name and password, for Basic authentication (RFC 7617), or Digest (RFC 7616: MD5,
        SHA-256) if the proxy answers that it wants that: then a second connection is made, once
    :param over: the connector that reaches the proxy, by default `TCPConnector()`. A `TLSConnector` for
        TLS with a proxy on terms of one's own, or another proxy's connector for a chain
    :param inside: what is done inside the tunnel, by ``for_scheme``; "https" is `TLSConnector()` unless
        this says otherwise, any other scheme nothing. Below a `TLSConnector` it is not looked at
    :param headers: further fields for the proxy itself: a mapping, or pairs, of str (latin-1) or bytes
    :raises TypeError, ValueError: an argument is wrong; the message names it, and shows no credentials
    """

    _ports: ClassVar[dict[str, int]] = {"http": 80, "https": 443}

    def __init__(
        self,
        proxy: str | None = None,
        *,
        auth: tuple[str, str] | None = None,
        over: Connector | None = None,
        inside: Mapping[str, TLSConnector] | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str | bytes, str | bytes]] = (),
    ) -> None:
        super().__init__(proxy, auth, over, inside)
        self._own_fields = self._fields = proxy_arguments.header_lines("headers", headers)
        if self._auth is not None:
            user, password = self._auth
            if ":" in user:
                msg = "auth must have no colon in the user name (RFC 7617 2)"
                raise ValueError(msg)
            token = base64.b64encode(f"{user}:{password}".encode())
            self._fields = b"Proxy-Authorization: Basic %b\r\n%b" % (token, self._fields)

    async def _through(self, dial: Dial, host: str, port: int) -> Link:
        try:
            return await super()._through(dial, host, port)
        except _Challenged as exc:
            challenge = answerable(exc.offered)
            if self._auth is None or challenge is None:
                raise
            if self._proxy is not None:
                self._fields = self._own_fields  # the next tunnel does not show the password first
            answer = digest(challenge, self._auth, authority(host, port), os.urandom(16).hex())
        again = copy(self)
        again._fields = answer + self._own_fields
        # On a new connection: what else the proxy says on this one, or whether it closes it, is all one.
        return await super(HTTPProxyConnector, again)._through(dial, host, port)

    async def _ask(self, dial: Dial, link: Link, host: str, port: int) -> None:
        target = authority(host, port).encode("ascii")
        request = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, target, self._fields)
        try:
            await dial.stream(link).send(request)
        except BrokenResourceError:
            pass  # it may have refused before it heard us out
        answer = Answer(link)
        status, reason, offered = await _read_head(answer)
        while 100 <= status < 200:
            status, reason, offered = await _read_head(answer)
        if status == 407 and offered:
            raise _Challenged(reason, offered)
        if not 200 <= status < 300:
            number = errno.EACCES if status in (401, 403, 407) else None
            raise refusal(f"the proxy answered {status} {reason}".rstrip(), number)


_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")


async def _read_head(answer: Answer) -> tuple[int, str, list[Challenge]]:
    """Read the head of an HTTP answer: its status and reason, and how one may authenticate."""
    line = await answer.line()
    match = _STATUS.fullmatch(line)
    if match is None:
        raise refusal(f"the proxy's answer is not HTTP/1: {shown(line)!r}")
    offered: list[Challenge] = []
    while (line := await answer.line()) != b"\r\n":
        if not _FIELD.fullmatch(line):
            raise refusal(f"the proxy's answer has a bad field: {shown(line)!r}")
        name, _, value = line.partition(b":")
        if name.lower() == b"proxy-authenticate":
            offered += challenges(value.strip().decode("latin-1"))
    return int(match[1]), shown(match[2] or b""), offered


class _Challenged(DialFailure):
    """The proxy wants to know who asks."""

    def __init__(self, reason: str, offered: list[Challenge]) -> None:
        schemes = ", ".join(dict.fromkeys(challenge.scheme for challenge in offered))
        text = f"the proxy answered 407 {reason}".rstrip()
        super().__init__(Phase.PROXY, errno.EACCES, f"{text} (it wants {printable(schemes, 80)})")
        self.offered = offered


class Answer:
    """What a proxy says on a link, taken exactly: what follows belongs to the tunnel's user."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._left = MAX_HEAD

    async def _peek(self) -> bytes:
        while (seen := self._link.peek(4096)) is None:
            await until_readable(self._link)
        if not seen:
            raise refusal("the proxy closed the connection before it had answered", errno.ECONNRESET)
        return seen

    def _take(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise refusal(f"the proxy's answer is longer than {MAX_HEAD} bytes")
        taken = self._link.try_receive(size)
        assert taken is not None, "it was seen to be there"
        return taken

    async def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        data = b""
        while len(data) < size:
            seen = await self._peek()
            data += self._take(min(len(seen), size - len(data)))
        return data

    async def line(self) -> bytes:
        """Read up to a line feed."""
        data = b""
        while not data.endswith(b"\n"):
            seen = await self._peek()
            data += self._take(seen.find(b"\n") + 1 or len(seen))
        return data


def refusal(text: str, number: int | None = None) -> DialFailure:
    """Make the failure of an attempt for which a proxy is to blame."""
    return DialFailure(Phase.PROXY, number, text)


def shown(data: bytes) -> str:
    """Bring a stranger's bytes into a form fit for messages and logs."""
    return printable(data[:83].rstrip(b"\r\n").decode("ascii", "replace"), 80, instead="?").strip()


def authority(host: str, port: int) -> str:
    """Join a host and a port; an IPv6 address goes into brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def wire_host(host: str) -> str:
    """Bring a host into the form that proxies are sent: an address, or an ASCII name."""
    if is_literal(host):
        if "%" in host:
            raise refusal("an address with a zone means nothing to a proxy", errno.EINVAL)
        return host
    try:
        name = host if host.isascii() else ascii_name(host)
    except WrongName as exc:
        raise refusal(str(exc.strerror), errno.EINVAL) from exc
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}", name):
        raise refusal(f"{host[:300]!r} is not a host name that a proxy can be sent", errno.EINVAL)
    return name
